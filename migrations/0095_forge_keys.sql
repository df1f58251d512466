-- Repositories of forges that are read over SSH: by which key, and by which key their host is known.
alter table forge
    add column deploy_key bytea,
    add column host_key text not null default '';
comment on column forge.deploy_key is 'sealed; place: forge.deploy_key, app_id; seed of the ed25519 key by which the repository is read over SSH; null: not needed yet';
comment on column forge.host_key is 'SHA256:…, as the user has given it or as it was seen first; empty: not seen yet';
create trigger deploy_key_seal before insert or update of deploy_key on forge
    for each row when (seal_key(new.deploy_key) < seal_oldest()) execute function seal_is_retired();
