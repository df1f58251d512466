-- Versions of an app side by side. Beside the release that is current, and rolled out and replaced as before (side 0), an app
-- may have others, each of another version and with its own numbers of units; the version is the number of the side.

alter table release add column side integer not null default 0;
comment on column release.side is '0: it is or was to become the current release; else it runs beside it, and is the version';
alter table release add column routable boolean not null default true;
comment on column release.routable is 'whether its units get requests';

create table side_release (
    app_id uuid not null references app on delete cascade,
    version integer not null,
    release_id bigint references release on delete cascade,
    candidate_release bigint references release on delete set null,
    created_at timestamptz not null default now(),
    constraint side_release_pkey primary key (app_id, version),
    constraint side_release_version_fkey foreign key (app_id, version) references version on delete cascade
);
comment on table side_release is 'the releases that run beside the current one';
comment on column side_release.release_id is 'null until its first candidate has come up';

alter table app_process add column side integer not null default 0;
comment on column app_process.side is 'as release.side';
alter table app_process drop constraint app_process_pkey;
alter table app_process add constraint app_process_pkey primary key (app_id, side, process);

create or replace view wanted_process as
select r.app_id, r.release_id, r.version, p.process,
       r.processes is null or p.process = any (r.processes) as starts_anew,
       coalesce(asked.units, 1) as asked_units,
       stop.stopped_by,
       case when stop.stopped_by is null then coalesce(asked.units, 1) else 0 end as units
from release r
join app a on a.app_id = r.app_id
join version_process p on p.app_id = r.app_id and p.version = r.version
left join app_process asked on asked.app_id = r.app_id and asked.side = r.side and asked.process = p.process
cross join lateral (
    select case when a.state <> 'live' then 'removal'
                when a.kind = 'job' then 'job'
                when asked.stopped then 'process'
                when asked.process is null
                     and (select bool_and(every.stopped) from app_process every
                          where every.app_id = r.app_id and every.side = r.side) then 'app'
           end as stopped_by) stop;

-- The releases that should have units, by app: what runs, and what is to take its place.
create view live_release as
select app_id, 0 as side, current_release, candidate_release from app where state = 'live'
union all
select s.app_id, s.version, s.release_id, s.candidate_release from side_release s join app a on a.app_id = s.app_id
where a.state = 'live';
comment on view live_release is 'of each side of each app the release that runs and the one that is to take its place';

create constraint trigger side_release_routes_changed after insert or update or delete on side_release
    deferrable initially deferred for each row execute function bump_routes_version();
create constraint trigger release_routes_changed after update on release
    deferrable initially deferred for each row when (old.routable is distinct from new.routable)
    execute function bump_routes_version();
