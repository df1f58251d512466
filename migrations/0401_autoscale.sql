-- How processes are scaled by load, and what was measured of their units.
create table autoscale (
    app_id uuid not null,
    side integer not null,
    process text not null,
    rule jsonb not null,
    memory jsonb not null default '{}',
    note text not null default '',
    next_at timestamptz not null default now(),
    constraint autoscale_pkey primary key (app_id, side, process),
    constraint autoscale_app_id_fkey foreign key (app_id) references app on delete cascade
);
create index autoscale_next_at on autoscale (next_at);
comment on table autoscale is 'the rules by which the numbers of units follow the load';
comment on column autoscale.side is 'as release.side';
comment on column autoscale.rule is 'as clients see it';
comment on column autoscale.memory is 'earlier decisions, for those to come';
comment on column autoscale.note is 'what could not be measured for the last decision';
comment on column autoscale.next_at is 'when the next decision is due';

create table unit_usage (
    unit_id text not null,
    cpu_milli integer not null,
    measured_at timestamptz not null,
    constraint unit_usage_pkey primary key (unit_id),
    constraint unit_usage_unit_id_fkey foreign key (unit_id) references unit on delete cascade
);
comment on table unit_usage is 'what units of processes that are scaled by it use of a processor, in thousandths';
