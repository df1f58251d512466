-- Commands and shells that run in units for a user. Each has an event, and belongs to the server that runs it.
create table exec_session (
    event_id text not null,
    app_id uuid not null,
    replica_id uuid not null,
    host text not null,
    unit_id text,
    version integer,
    renewed_at timestamptz not null default now(),
    constraint exec_session_pkey primary key (event_id),
    constraint exec_session_event_fkey foreign key (event_id) references event on delete cascade,
    constraint exec_session_unit_key unique (unit_id),
    constraint exec_session_one_off_check check ((unit_id is null) = (version is null))
);
comment on table exec_session is 'commands and shells in units, while they run; what outlives its server is ended by a healer';
comment on column exec_session.unit_id is 'the unit that was started for it alone, on this host; null in a unit of the app';
comment on column exec_session.version is 'the version of that unit, whose files are kept meanwhile';
comment on column exec_session.renewed_at is 'its server renews it every few seconds';

create index exec_session_host on exec_session (host) where unit_id is not null;
create index exec_session_app on exec_session (app_id, version);
create index exec_session_renewed on exec_session (renewed_at);
