-- What an app chooses from, the app, its variables, versions, releases, units and log lines.

create table plan (
    name text primary key,
    memory_bytes bigint not null default 0,
    cpu_milli integer not null default 0,
    is_default boolean not null default false,
    constraint plan_size_check check (memory_bytes >= 0 and cpu_milli >= 0)
);
create unique index plan_one_default on plan (is_default) where is_default;
comment on column plan.memory_bytes is '0 is unlimited';
comment on column plan.cpu_milli is 'thousandths of a core; 0 is unlimited';

create table pool (
    name text primary key,
    provisioner text not null,
    is_public boolean not null default false,
    is_default boolean not null default false,
    labels jsonb not null default '{}'
);
create unique index pool_one_default on pool (is_default) where is_default;

create table pool_team (
    pool text not null references pool on delete cascade,
    team text not null references team on update cascade on delete cascade,
    primary key (pool, team)
);

create table platform (
    name text primary key,
    disabled boolean not null default false,
    shipped boolean not null default false
);

insert into plan (name, memory_bytes, is_default) values
    ('default', 0, true),
    ('small', 268435456, false),
    ('large', 1073741824, false);
insert into pool (name, provisioner, is_public, is_default) values ('local', 'local', true, true);
insert into platform (name, shipped) values
    ('python', true), ('nodejs', true), ('go', true), ('static', true), ('procfile', true);

create table app (
    app_id uuid primary key,
    number integer generated always as identity,
    name text not null,
    label text not null,
    platform text not null references platform,
    plan text not null references plan,
    pool text not null references pool,
    team_owner text not null references team on update cascade,
    owner text not null,
    description text not null default '',
    tags text[] not null default '{}',
    metadata jsonb not null default '{}',
    state text not null default 'live',
    quota_limit integer not null default -1,
    deploys integer not null default 0,
    current_release bigint,
    candidate_release bigint,
    created_at timestamptz not null default now(),
    constraint app_name_key unique (name),
    -- Deferrable, so that one statement may exchange two labels.
    constraint app_label_key unique (label) deferrable initially immediate,
    constraint app_state_check check (state in ('live', 'removing'))
);
comment on column app.number is 'small and unique for ever: the uid of its units is made of it';
comment on column app.label is 'first label of its address; a swap exchanges it with another app''s';
comment on column app.owner is 'e-mail address of who created it; quotas count against them';

alter table bearer add constraint bearer_app_id_fkey foreign key (app_id) references app on delete cascade;

create table app_team (
    app_id uuid not null references app on delete cascade,
    team text not null references team on update cascade,
    constraint app_team_pkey primary key (app_id, team)
);
create index app_team_team on app_team (team);

create table app_cname (
    app_id uuid not null references app on delete cascade,
    cname text not null,
    constraint app_cname_pkey primary key (cname)
);
create index app_cname_app on app_cname (app_id);

create table app_process (
    app_id uuid not null references app on delete cascade,
    process text not null,
    units integer not null,
    stopped boolean not null default false,
    constraint app_process_pkey primary key (app_id, process),
    constraint app_process_units_check check (units between 0 and 1000)
);
comment on table app_process is 'how many units of each process should run';

create table env_var (
    app_id uuid not null references app on delete cascade,
    name text not null,
    value bytea not null,
    is_public boolean not null,
    managed_by text not null default '',
    alias text not null default '',
    constraint env_var_pkey primary key (app_id, name)
);
comment on column env_var.value is 'sealed; place: env_var, app_id, name';
comment on column env_var.managed_by is 'tsuru for what the platform sets itself, else what the caller named';

create table version (
    app_id uuid not null references app on delete cascade,
    version integer not null,
    host text,
    state text not null default 'building',
    processes jsonb not null default '[]',
    yaml jsonb not null default '{}',
    size_bytes bigint not null default 0,
    disabled_reason text not null default '',
    created_at timestamptz not null default now(),
    constraint version_pkey primary key (app_id, version),
    constraint version_state_check check (state in ('building', 'ready', 'failed', 'removed'))
);
comment on column version.host is 'the machine that has its files';

create table release (
    release_id bigint generated always as identity primary key,
    app_id uuid not null references app on delete cascade,
    version integer not null,
    env bytea not null,
    user_env bytea not null,
    created_at timestamptz not null default now(),
    constraint release_version_fkey foreign key (app_id, version) references version on delete cascade
);
create index release_app on release (app_id, version, release_id);
alter table app add constraint app_current_release_fkey foreign key (current_release) references release on delete set null;
alter table app add constraint app_candidate_release_fkey foreign key (candidate_release) references release on delete set null;
comment on table release is 'a version with the environment it runs in: what units are started from, and what a rollback goes back to';
comment on column release.env is 'sealed JSON of the whole environment; place: release.env, app_id, version';
comment on column release.user_env is 'sealed JSON of what the user had set, for a rollback; place: release.user_env, app_id, version';

create table deploy (
    event_id text primary key references event,
    app_id uuid not null references app on delete cascade,
    version integer,
    origin text not null,
    commit_id text not null default '',
    message text not null default '',
    user_name text not null,
    started_at timestamptz not null default now(),
    ended_at timestamptz,
    error text not null default ''
);
create index deploy_app on deploy (app_id, started_at desc);

create table unit (
    unit_id text primary key,
    app_id uuid not null references app on delete cascade,
    release_id bigint not null references release on delete cascade,
    process text not null,
    version integer not null,
    host text not null,
    phase text not null default 'starting',
    state text not null default 'created',
    reason text not null default '',
    address text,
    pid integer,
    restarts integer not null default 0,
    ready boolean not null default false,
    health_failures integer not null default 0,
    phase_at timestamptz not null default now(),
    created_at timestamptz not null default now(),
    constraint unit_phase_check check (phase in ('starting', 'serving', 'draining', 'stopping')),
    constraint unit_state_check check (state in ('created', 'building', 'error', 'starting', 'started', 'stopped'))
);
create index unit_app on unit (app_id, created_at);
create index unit_host on unit (host);
comment on column unit.phase is 'what we want of it: starting (not routed yet), serving, draining (no new requests), stopping';
comment on column unit.state is 'what is so, in the words of the API';
comment on column unit.ready is 'its last health check passed';

create table log_line (
    app_id uuid not null references app on delete cascade,
    seq bigint generated always as identity,
    at timestamptz not null default now(),
    source text not null,
    unit text not null default '',
    message text not null,
    primary key (app_id, seq)
);

create table log_position (
    unit_id text primary key,
    position bigint not null
);
comment on table log_position is 'how far a unit''s log has been taken over; written with the lines, so each line comes once';
