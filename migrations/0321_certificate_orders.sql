-- Certificates that are ordered from an authority (ACME). One row for each host, whoever asked for it; a dispatcher starts a
-- saga when it is due, on one replica.
create table certificate_order (
    host text primary key,
    cname text references app_cname (cname) on delete cascade,
    app_id uuid references app on delete cascade,
    label text,
    issuer text not null,
    state text not null default 'waiting',
    wake_at timestamptz not null default now(),
    started_at timestamptz,
    failures integer not null default 0,
    error text not null default '',
    key bytea,
    constraint certificate_order_host_check check (host = lower(host) and (cname is null or cname = host)),
    constraint certificate_order_owner_check check (num_nonnulls(cname, label) = 1 and num_nonnulls(cname, app_id) = 1),
    constraint certificate_order_state_check check (state in ('waiting', 'ordering', 'off'))
);
create index certificate_order_cname on certificate_order (cname);
create index certificate_order_app on certificate_order (app_id);
create index certificate_order_label on certificate_order (label);
create index certificate_order_due on certificate_order (wake_at) where state = 'waiting';
create index certificate_order_started on certificate_order (started_at);
comment on column certificate_order.state is 'waiting until wake_at; ordering: a saga has it; off: a user wants no certificate here';
comment on column certificate_order.failures is 'in a row, since the last success';
comment on column certificate_order.error is 'of the last one; empty: none since the last success';
comment on column certificate_order.key is 'sealed; place: certificate_order.key, host; PEM of the order in progress';
create trigger key_seal before insert or update of key on certificate_order
    for each row when (seal_key(new.key) < seal_oldest()) execute function seal_is_retired();

create or replace function move_certificate() returns trigger language plpgsql as $$
begin
    update certificate set app_id = new.app_id where label = new.label;
    update certificate_order set app_id = new.app_id where label = new.label;
    return null;
end $$;

-- The proof of an order in progress, which every router may be asked for.
create table certificate_challenge (
    host text primary key references certificate_order on delete cascade,
    token text not null,
    key_authorization text not null
);
create constraint trigger certificate_challenge_routes_changed after insert or update or delete on certificate_challenge
    deferrable initially deferred for each row execute function bump_routes_version();

-- Which certificates and proofs each router has, so that an order can wait for them.
create table certificate_router (
    router_id uuid primary key,
    loaded_at timestamptz not null,
    seen_at timestamptz not null default now()
);
comment on column certificate_router.loaded_at is 'what it serves was read at this time or later';

create table acme_account (
    directory_url text primary key,
    key bytea not null,
    account_url text not null default '',
    created_at timestamptz not null default now()
);
comment on column acme_account.key is 'sealed; place: acme_account.key, directory_url; PKCS #8 in base64';
comment on column acme_account.account_url is 'empty: not registered yet';
create trigger key_seal before insert or update of key on acme_account
    for each row when (seal_key(new.key) < seal_oldest()) execute function seal_is_retired();
