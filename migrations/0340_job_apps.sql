-- A job shares with apps what is deployed, configured and bound: its row is one of app, of the kind job. Names are
-- unique for each kind. A job runs no units all the time, and has no address.
alter table app add column kind text not null default 'app',
    add constraint app_kind_check check (kind in ('app', 'job')),
    drop constraint app_name_key,
    add constraint app_name_key unique (name, kind),
    add constraint app_job_label_check check ((kind = 'job') = (label like 'job/%'));
comment on column app.kind is 'app, or job: then its schedule is in the table job';

create or replace view context_object as
    select 'team' as kind, team_id as object_id, name, created_at from team
    union all select kind, app_id, name, created_at from app
    union all select 'service', service_id, name, created_at from service
    union all select 'service-instance', i.instance_id, s.name || '/' || i.name, i.created_at
        from service_instance i join service s using (service_id)
    union all select 'pool', pool_id, name, '-infinity' from pool
    union all select 'user', user_id, email, created_at from user_account;

create or replace function find_context_object(kind_word text, object_name text) returns uuid language plpgsql stable as $$
begin
    return case kind_word
        when 'team' then (select team_id from team where name = object_name)
        when 'app' then (select app_id from app where name = object_name and kind = 'app')
        when 'job' then (select app_id from app where name = object_name and kind = 'job')
        when 'service' then (select service_id from service where name = object_name)
        when 'service-instance' then (
            select i.instance_id from service_instance i join service s using (service_id)
            where s.name = split_part(object_name, '/', 1) and i.name = split_part(object_name, '/', 2))
        when 'pool' then (select pool_id from pool where name = object_name)
        when 'user' then find_user(object_name)
    end;
end
$$;

create or replace view wanted_process as
    select r.app_id, r.release_id, r.version, p.process,
           r.processes is null or p.process = any (r.processes) as starts_anew,
           coalesce(asked.units, 1) as asked_units, stop.stopped_by,
           case when stop.stopped_by is null then coalesce(asked.units, 1) else 0 end as units
    from release r
    join app a on a.app_id = r.app_id
    join version_process p on p.app_id = r.app_id and p.version = r.version
    left join app_process asked on asked.app_id = r.app_id and asked.process = p.process
    cross join lateral (
        select case
            when a.state <> 'live' then 'removal'
            when a.kind = 'job' then 'job'
            when asked.stopped then 'process'
            when asked.process is null
                and (select bool_and(every.stopped) from app_process every where every.app_id = r.app_id) then 'app'
        end as stopped_by) stop;
comment on column wanted_process.stopped_by is 'why none should run: removal (of the app), job (it runs by its schedule), process (it is stopped), app (all that users have set is stopped); null: it is not stopped';
