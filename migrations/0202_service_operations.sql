-- The operations that a service offers through its proxy, and the roles that hold their actions. Roles hold them by the
-- id of the service: names of services and actions may contain dots, so a path alone could mean either of two services,
-- and a later service of the same name has none of the roles.

create table service_manifest (
    service_id uuid primary key references service on delete cascade,
    enabled boolean not null,
    strict_actions boolean not null,
    legacy_compat boolean not null
);
comment on table service_manifest is 'services whose owners have declared operations';

create table service_operation (
    service_id uuid not null references service_manifest on delete cascade,
    action text not null,
    method text not null,
    path text not null,
    position bigint not null,
    constraint service_operation_pkey primary key (service_id, action),
    constraint service_operation_path_key unique (service_id, method, path)
);
comment on column service_operation.path is 'a template of paths below an instance, such as /rules/{id}';
comment on column service_operation.position is 'the order in which the owner has written them';

create table role_service_action (
    role text not null references role (name) on update cascade on delete cascade,
    service_id uuid not null references service on delete cascade,
    action text not null,
    constraint role_service_action_pkey primary key (role, service_id, action)
);
create index role_service_action_service on role_service_action (service_id);
comment on column role_service_action.action is 'an action or what several have in common before a dot; empty: all actions of the service';
create trigger rights_changed after insert or update or delete on role_service_action
    for each row execute function rights_changed();

-- What a role grants, as stores of tokens and keys read it: a permission of the tree, or `@` and an action of a service
-- with the service's id and name.
create view role_grant as
    select role, permission from role_permission
    union all
    select a.role, '@' || a.service_id || '/' || a.action || '/' || s.name
    from role_service_action a join service s using (service_id);
