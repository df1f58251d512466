-- Certificates of the hosts of apps. A host is a cname, or the address that an app has under the platform's domain; the
-- certificate goes where the host goes (a swap), and ends with it.
create sequence certificate_revision;
create table certificate (
    host text primary key,
    cname text references app_cname (cname) on delete cascade,
    app_id uuid references app on delete cascade,
    label text,
    issuer text not null default '',
    chain text not null,
    key bytea not null,
    not_before timestamptz not null,
    not_after timestamptz not null,
    revision bigint not null default nextval('certificate_revision'),
    created_at timestamptz not null default now(),
    constraint certificate_host_check check (host = lower(host) and (cname is null or cname = host)),
    constraint certificate_owner_check check (num_nonnulls(cname, label) = 1 and num_nonnulls(cname, app_id) = 1)
);
create index certificate_cname on certificate (cname);
create index certificate_app on certificate (app_id);
comment on column certificate.cname is 'the host, if it is a cname';
comment on column certificate.label is 'first label of the host, if it is the app''s own address';
comment on column certificate.issuer is 'who keeps it; empty: a user has given it';
comment on column certificate.chain is 'PEM, the certificate itself first';
comment on column certificate.key is 'sealed; place: certificate.key, host; PEM';
comment on column certificate.revision is 'another one with each change';
create trigger key_seal before insert or update of key on certificate
    for each row when (seal_key(new.key) < seal_oldest()) execute function seal_is_retired();

-- A swap of two apps exchanges their labels.
create function move_certificate() returns trigger language plpgsql as $$
begin
    update certificate set app_id = new.app_id where label = new.label;
    return null;
end $$;
create trigger app_certificate_moved after update of label on app
    for each row when (old.label <> new.label) execute function move_certificate();
create index certificate_label on certificate (label);

create table app_https (
    app_id uuid primary key references app on delete cascade,
    redirects boolean not null default true,
    hsts_seconds integer not null default 0,
    constraint app_https_hsts_check check (hsts_seconds between 0 and 63072000)
);
comment on table app_https is 'how hosts with a certificate are served, where that is not the default';

-- Routers follow both.
create constraint trigger certificate_routes_changed after insert or delete or update of host, revision on certificate
    deferrable initially deferred for each row execute function bump_routes_version();
create constraint trigger app_https_routes_changed after insert or update or delete on app_https
    deferrable initially deferred for each row execute function bump_routes_version();
