-- A restart or a start of one process makes a release that starts this process anew and takes the others' units over.

alter table release add column processes text[];
comment on column release.processes is 'the processes that it starts anew; it takes over the units of the others. Null: all of them';

-- The numbers of units of processes that neither the current nor the candidate release has: they counted in the quota, and
-- nobody could take them away.
delete from app_process p
where not exists (
    select 1 from app a
    join release r on r.release_id in (a.current_release, a.candidate_release)
    join version v on v.app_id = r.app_id and v.version = r.version
    cross join lateral jsonb_to_recordset(v.processes) as named(name text)
    where a.app_id = p.app_id and named.name = p.process);
