-- Services with their manifest, instances, and binds of instances to apps.

create table service (
    service_id uuid primary key,
    name text not null,
    username text not null default '',
    password bytea not null,
    endpoint text not null,
    endpoints jsonb not null default '{}',
    doc text not null default '',
    is_restricted boolean not null default false,
    dialect text,
    dialect_fixed boolean not null default false,
    created_at timestamptz not null default now(),
    constraint service_name_key unique (name)
);
comment on column service.password is 'sealed; place: service.password, service_id';
comment on column service.endpoint is 'base URL of the provisioning API: endpoint.production of the manifest';
comment on column service.dialect is 'which form of the provisioning API it speaks, once known';

create table service_owner (
    service_id uuid not null references service on delete cascade,
    team text not null references team on update cascade,
    constraint service_owner_pkey primary key (service_id, team)
);

create table service_team (
    service_id uuid not null references service on delete cascade,
    team text not null references team on update cascade on delete cascade,
    constraint service_team_pkey primary key (service_id, team)
);
comment on table service_team is 'teams that may use a restricted service';

create table service_instance (
    instance_id uuid primary key,
    service_id uuid not null references service,
    name text not null,
    plan text not null default '',
    team_owner text not null references team on update cascade,
    owner text not null default '',
    description text not null default '',
    tags text[] not null default '{}',
    parameters jsonb not null default '{}',
    pool text not null default '',
    state text not null default 'creating',
    reason text not null default '',
    created_at timestamptz not null default now(),
    constraint service_instance_name_key unique (service_id, name),
    constraint service_instance_state_check check (state in ('creating', 'ready', 'removing', 'error'))
);
create index service_instance_name on service_instance (name);
comment on column service_instance.parameters is 'free key/values for the service';

create table service_instance_team (
    instance_id uuid not null references service_instance on delete cascade,
    team text not null references team on update cascade,
    constraint service_instance_team_pkey primary key (instance_id, team)
);
create index service_instance_team_team on service_instance_team (team);

create table bind (
    bind_id uuid primary key,
    instance_id uuid not null references service_instance,
    app_id uuid not null references app on delete cascade,
    state text not null default 'binding',
    seq bigint generated always as identity,
    created_at timestamptz not null default now(),
    constraint bind_instance_app_key unique (instance_id, app_id),
    constraint bind_state_check check (state in ('binding', 'bound', 'unbinding'))
);
create index bind_app on bind (app_id);
comment on column bind.seq is 'order of binding: of two that give the same variable the later one wins';

create table bind_env (
    bind_id uuid not null references bind on delete cascade,
    name text not null,
    value bytea not null,
    constraint bind_env_pkey primary key (bind_id, name)
);
comment on column bind_env.value is 'sealed; place: bind_env, bind_id, name';

create table unit_bind (
    bind_id uuid not null references bind on delete cascade,
    unit_id text not null,
    unit_host text not null,
    state text not null default 'wanted',
    attempts integer not null default 0,
    wake_at timestamptz not null default now(),
    constraint unit_bind_pkey primary key (bind_id, unit_id),
    constraint unit_bind_state_check check (state in ('wanted', 'bound', 'leaving'))
);
comment on table unit_bind is 'which units a service has been told of, for services that admit unit by unit';

create table orphan (
    orphan_id uuid primary key,
    service text not null,
    service_id uuid references service on delete cascade,
    instance text not null,
    what text not null,
    detail jsonb not null default '{}',
    reason text not null default '',
    attempts integer not null default 0,
    wake_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    constraint orphan_what_check check (what in ('instance', 'bind', 'unit-bind'))
);
create index orphan_open on orphan (wake_at) where ended_at is null;
comment on table orphan is 'things a service may still hold for us though we have given them up; hunted until the service confirms';
