-- The SSH server's own key, the same for all replicas.
create table ssh_host_key (
    one boolean primary key default true,
    sealed bytea not null,
    created_at timestamptz not null default now(),
    constraint ssh_host_key_one check (one)
);
comment on table ssh_host_key is 'one row: the seed of the ed25519 key by which clients know the SSH server, sealed';
comment on column ssh_host_key.sealed is 'sealed; place: ssh_host_key, one';
create trigger sealed_seal before insert or update of sealed on ssh_host_key
    for each row when (seal_key(new.sealed) < seal_oldest()) execute function seal_is_retired();

comment on column event.token_kind is 'session, api-key, ssh-key, app, password (sent along with the request), none (nobody had logged in), internal; empty: from before it was noted';
