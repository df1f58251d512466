-- Routers that operators add beside the built-in one.

create table router (
    router_id uuid primary key,
    name text not null,
    kind text not null,
    readiness_gates text[] not null default '{}',
    config bytea not null,
    created_at timestamptz not null default now(),
    constraint router_name_key unique (name)
);
comment on table router is 'routers beside the built-in one; nothing is sent to them yet';
comment on column router.config is 'sealed; place: router.config, router_id; JSON: headers in it may be secret';
create trigger config_seal before insert or update of config on router
    for each row when (seal_key(new.config) < seal_oldest()) execute function seal_is_retired();
create trigger pool_constraint_without_removed after delete on router
    for each row execute function pool_constraint_without_removed('router');
