-- Roles are held by users, by team tokens, and by groups of an outside login. One table for all, so that every object a
-- role can be held on counts for every holder, and a removed holder or object takes its roles along.

create table user_group (
    group_id uuid primary key default gen_random_uuid(),
    name text not null,
    created_at timestamptz not null default now(),
    constraint user_group_name_key unique (name)
);
comment on table user_group is 'groups of an outside login that have been given a role; who is in them, that login says';

alter table user_role drop constraint user_role_pkey;
alter table user_role
    alter column user_id drop not null,
    add column team_token_id uuid references team_token on delete cascade,
    add column group_id uuid references user_group on delete cascade,
    add column holder_id uuid not null
        generated always as (coalesce(user_id, team_token_id, group_id)) stored,
    add constraint user_role_holder_check check (num_nonnulls(user_id, team_token_id, group_id) = 1),
    add constraint user_role_pkey primary key (holder_id, role, object_id);
create index user_role_user on user_role (user_id) where user_id is not null;
create index user_role_team_token on user_role (team_token_id) where team_token_id is not null;
create index user_role_group on user_role (group_id) where group_id is not null;
comment on table user_role is 'which user, team token or group holds which role on what';
comment on column user_role.holder_id is 'id of the holder, of whatever kind';

create or replace view role_assignment as
    select ur.user_id, ur.role, r.context_kind, ur.object_id,
           coalesce(t.name, a.name, s.name, si.name || '/' || i.name, p.name, u.email, '') as context_value,
           ur.holder_id, ur.team_token_id, ur.group_id
    from user_role ur
    join role r on r.name = ur.role
    left join team t on t.team_id = ur.team_id
    left join app a on a.app_id = ur.app_id
    left join service s on s.service_id = ur.service_id
    left join service_instance i on i.instance_id = ur.instance_id
    left join service si on si.service_id = i.service_id
    left join pool p on p.pool_id = ur.pool_id
    left join user_account u on u.user_id = ur.on_user_id;
