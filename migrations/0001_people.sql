-- Users, teams, roles, bearer tokens: who may ask for what.
-- A team's members are the users who hold a role on it; there is no list of members beside that.

create table user_account (
    user_id uuid primary key,
    email text not null,
    password_hash text not null,
    quota_limit integer not null default -1,
    quota_in_use integer not null default 0,
    created_at timestamptz not null default now(),
    constraint user_account_email_key unique (email),
    constraint user_account_quota_check check (quota_limit >= -1 and quota_in_use >= 0)
);
comment on column user_account.password_hash is 'argon2id, PHC string';
comment on column user_account.quota_limit is 'apps this user may own; -1 is unlimited';

create table team (
    name text primary key,
    tags text[] not null default '{}',
    quota_limit integer not null default -1,
    quota_in_use integer not null default 0,
    created_by text not null default '',
    created_at timestamptz not null default now()
);

create table role (
    name text primary key,
    context_kind text not null,
    description text not null default '',
    created_at timestamptz not null default now()
);

create table role_permission (
    role text not null references role (name) on update cascade on delete cascade,
    permission text not null,
    primary key (role, permission)
);
comment on column role_permission.permission is 'a dotted path; the empty text is everything';

create table user_role (
    user_id uuid not null references user_account on delete cascade,
    role text not null references role (name) on update cascade,
    context_value text not null default '',
    constraint user_role_pkey primary key (user_id, role, context_value)
);
create index user_role_context on user_role (context_value);
comment on column user_role.context_value is 'name of the thing the role is held on; empty for a global role';

create table default_role (
    occasion text not null,
    role text not null references role (name) on update cascade on delete cascade,
    primary key (occasion, role),
    constraint default_role_occasion_check check (occasion in ('user-create', 'team-create'))
);

insert into role (name, context_kind, description) values
    ('AllowAll', 'global', 'Everything, everywhere'),
    ('team-member', 'team', 'What a member may do with what belongs to the team');
insert into role_permission (role, permission) values
    ('AllowAll', ''),
    ('team-member', 'app'),
    ('team-member', 'job'),
    ('team-member', 'volume'),
    ('team-member', 'service'),
    ('team-member', 'service-instance'),
    ('team-member', 'team'),
    ('team-member', 'webhook');
insert into default_role (occasion, role) values ('team-create', 'team-member');

create table bearer (
    digest bytea primary key,
    token_id uuid not null unique,
    kind text not null,
    user_id uuid references user_account on delete cascade,
    app_id uuid,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    constraint bearer_kind_check check (kind in ('session', 'api-key', 'app')),
    constraint bearer_holder_check check ((user_id is null) <> (app_id is null))
);
create index bearer_user on bearer (user_id, created_at);
create index bearer_app on bearer (app_id);
comment on column bearer.digest is 'SHA-256 of the token; the token itself is nowhere';
comment on column bearer.expires_at is 'null: never';

create table login_failure (
    subject text not null,
    failed_at timestamptz not null default now()
);
create index login_failure_subject on login_failure (subject, failed_at);
comment on table login_failure is 'wrong passwords by account (a:…) and by address (i:…), kept for the window in which they count';

create table ssh_key (
    user_id uuid not null references user_account on delete cascade,
    name text not null,
    fingerprint text not null,
    body text not null,
    created_at timestamptz not null default now(),
    primary key (user_id, name),
    constraint ssh_key_fingerprint_key unique (fingerprint)
);
