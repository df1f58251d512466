-- The processes of a version as rows, and the two questions about them answered in one place each: how many units of a
-- process should run, and which process gets the requests.

create table version_process (
    app_id uuid not null,
    version integer not null,
    process text not null,
    command text not null,
    constraint version_process_pkey primary key (app_id, version, process),
    constraint version_process_version_fkey foreign key (app_id, version) references version on delete cascade
);
comment on column version_process.command is 'a line for the shell';

insert into version_process (app_id, version, process, command)
select v.app_id, v.version, e.value ->> 'name', e.value ->> 'command'
from version v cross join lateral jsonb_array_elements(v.processes) e
on conflict on constraint version_process_pkey do nothing;
alter table version drop column processes;

create view wanted_process as
select r.app_id, r.release_id, r.version, p.process,
       r.processes is null or p.process = any (r.processes) as starts_anew,
       coalesce(asked.units, 1) as asked_units,
       stop.stopped_by,
       case when stop.stopped_by is null then coalesce(asked.units, 1) else 0 end as units
from release r
join app a on a.app_id = r.app_id
join version_process p on p.app_id = r.app_id and p.version = r.version
left join app_process asked on asked.app_id = r.app_id and asked.process = p.process
cross join lateral (
    select case when a.state <> 'live' then 'removal'
                when asked.stopped then 'process'
                when asked.process is null
                     and (select bool_and(every.stopped) from app_process every where every.app_id = r.app_id) then 'app'
           end as stopped_by) stop;
comment on view wanted_process is 'how many units of each process of a release should run while it is current or a candidate';
comment on column wanted_process.starts_anew is 'false: it takes over the units of the release before';
comment on column wanted_process.asked_units is 'what users have set, one if they have set nothing; stopped or not';
comment on column wanted_process.stopped_by is 'why none should run: removal (of the app), process (it is stopped), app (all that users have set is stopped); null: it is not stopped';

create view web_process as
select p.app_id, p.version, p.process from version_process p
where p.process = 'web'
   or not exists (select from version_process other
                  where other.app_id = p.app_id and other.version = p.version
                    and (other.process = 'web' or other.process < p.process collate "C"));
comment on view web_process is 'the process of each version that gets the requests: web, or else the first by name';
