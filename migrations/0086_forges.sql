-- Where an app's code is deployed from: a forge that tells of each push by a signed webhook.
create table forge (
    app_id uuid primary key references app on delete cascade,
    url text not null,
    branch text not null,
    user_name text not null default '',
    secret bytea not null,
    password bytea,
    delivered_at timestamptz,
    commit_id text not null default '',
    problem text not null default '',
    created_at timestamptz not null default now()
);
comment on table forge is 'the repository elsewhere from which an app is deployed when a webhook tells of a push';
comment on column forge.secret is 'sealed; place: forge.secret, app_id; by it deliveries are signed';
comment on column forge.password is 'sealed; place: forge.password, app_id; null: anybody may read the repository';
comment on column forge.problem is 'why the last delivery was not deployed; empty: it was, or is about to be';
create trigger secret_seal before insert or update of secret on forge
    for each row when (seal_key(new.secret) < seal_oldest()) execute function seal_is_retired();
create trigger password_seal before insert or update of password on forge
    for each row when (seal_key(new.password) < seal_oldest()) execute function seal_is_retired();

create table forge_delivery (
    app_id uuid not null references forge on delete cascade,
    delivery text not null,
    digest bytea not null,
    taken_at timestamptz not null default now(),
    constraint forge_delivery_pkey primary key (app_id, delivery),
    constraint forge_delivery_digest_key unique (app_id, digest)
);
comment on table forge_delivery is 'deliveries that have been taken, so that none is taken twice, under its own name or another';
create index forge_delivery_taken on forge_delivery (app_id, taken_at);
