-- A role is held on a thing by the thing's id: when the thing goes, so do the roles on it, and a later thing of the
-- same name has none of them. A foreign key for each kind, so that no code can forget it and no role can be given on
-- a thing that is being removed.

alter table team add column team_id uuid not null default gen_random_uuid(),
    add constraint team_id_key unique (team_id);
alter table pool add column pool_id uuid not null default gen_random_uuid(),
    add constraint pool_id_key unique (pool_id);

-- Every kind of thing that a permission can be held on. The name of an instance has that of its service in front.
create view context_object as
    select 'team' as kind, team_id as object_id, name, created_at from team
    union all select 'app', app_id, name, created_at from app
    union all select 'service', service_id, name, created_at from service
    union all select 'service-instance', i.instance_id, s.name || '/' || i.name, i.created_at
        from service_instance i join service s using (service_id)
    union all select 'pool', pool_id, name, '-infinity' from pool
    union all select 'user', user_id, email, created_at from user_account;
comment on view context_object is 'what permissions can be held on: kind and name as the API has them, and the id';

-- By the index of each kind, where the view would have to be read as a whole.
create function find_context_object(kind_word text, object_name text) returns uuid language plpgsql stable as $$
begin
    return case kind_word
        when 'team' then (select team_id from team where name = object_name)
        when 'app' then (select app_id from app where name = object_name)
        when 'service' then (select service_id from service where name = object_name)
        when 'service-instance' then (
            select i.instance_id from service_instance i join service s using (service_id)
            where s.name = split_part(object_name, '/', 1) and i.name = split_part(object_name, '/', 2))
        when 'pool' then (select pool_id from pool where name = object_name)
        when 'user' then (select user_id from user_account where email = object_name)
    end;
end
$$;
comment on function find_context_object is 'the id of a thing by its kind and name; null if there is none';

alter table user_role
    add column team_id uuid references team (team_id) on delete cascade,
    add column app_id uuid references app on delete cascade,
    add column service_id uuid references service on delete cascade,
    add column instance_id uuid references service_instance on delete cascade,
    add column pool_id uuid references pool (pool_id) on delete cascade,
    add column on_user_id uuid references user_account on delete cascade;

with named as (
    select ur.user_id, ur.role, ur.context_value, o.kind, o.object_id
    from user_role ur join role r on r.name = ur.role
    join context_object o on o.kind = r.context_kind and o.name = ur.context_value)
update user_role ur set
    team_id = case named.kind when 'team' then named.object_id end,
    app_id = case named.kind when 'app' then named.object_id end,
    service_id = case named.kind when 'service' then named.object_id end,
    instance_id = case named.kind when 'service-instance' then named.object_id end,
    pool_id = case named.kind when 'pool' then named.object_id end,
    on_user_id = case named.kind when 'user' then named.object_id end
from named
where (ur.user_id, ur.role, ur.context_value) = (named.user_id, named.role, named.context_value);

-- What is gone, and kinds of which there is nothing yet (volumes, jobs, routers).
delete from user_role ur using role r
where r.name = ur.role and r.context_kind <> 'global'
  and num_nonnulls(ur.team_id, ur.app_id, ur.service_id, ur.instance_id, ur.pool_id, ur.on_user_id) = 0;
-- A global role is held once, whatever value was sent along.
delete from user_role a using user_role b, role r
where r.name = a.role and r.context_kind = 'global' and (a.user_id, a.role) = (b.user_id, b.role)
  and a.context_value > b.context_value;

alter table user_role drop column context_value;
alter table user_role
    add column object_id uuid not null generated always as (
        coalesce(team_id, app_id, service_id, instance_id, pool_id, on_user_id,
                 '00000000-0000-0000-0000-000000000000')) stored,
    add constraint user_role_object_check
        check (num_nonnulls(team_id, app_id, service_id, instance_id, pool_id, on_user_id) <= 1),
    add constraint user_role_pkey primary key (user_id, role, object_id);
create index user_role_object on user_role (object_id);
create index user_role_team on user_role (team_id) where team_id is not null;
create index user_role_app on user_role (app_id) where app_id is not null;
create index user_role_service on user_role (service_id) where service_id is not null;
create index user_role_instance on user_role (instance_id) where instance_id is not null;
create index user_role_pool on user_role (pool_id) where pool_id is not null;
create index user_role_on_user on user_role (on_user_id) where on_user_id is not null;
comment on column user_role.object_id is 'id of the thing the role is held on, of whatever kind; all zeros for a global role';

create view role_assignment as
    select ur.user_id, ur.role, r.context_kind, ur.object_id,
           coalesce(t.name, a.name, s.name, si.name || '/' || i.name, p.name, u.email, '') as context_value
    from user_role ur
    join role r on r.name = ur.role
    left join team t on t.team_id = ur.team_id
    left join app a on a.app_id = ur.app_id
    left join service s on s.service_id = ur.service_id
    left join service_instance i on i.instance_id = ur.instance_id
    left join service si on si.service_id = i.service_id
    left join pool p on p.pool_id = ur.pool_id
    left join user_account u on u.user_id = ur.on_user_id;
comment on view role_assignment is 'who holds which role on what, with the name that the thing has now; empty for a global role';

-- Replicas remember callers for a short while, with the names of what they hold roles on. They forget them when
-- rights or names change, whatever made the change.
create function rights_changed() returns trigger language plpgsql as $$
begin
    perform pg_notify('tancho_auth', '');
    return null;
end
$$;
create trigger rights_changed after insert or update or delete on user_role
    for each row execute function rights_changed();
create trigger rights_changed after insert or update or delete on role_permission
    for each row execute function rights_changed();
create trigger rights_changed after update of name on team
    for each row when (old.name <> new.name) execute function rights_changed();
create trigger rights_changed after delete on user_account
    for each row execute function rights_changed();
