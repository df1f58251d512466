-- What the description of an app shows has changed: a row for each transaction that did it. Who holds a description says
-- of which snapshot of the database it is, and asks whether a row of the app is not part of that snapshot. Rows are only
-- inserted, so that transactions never wait for each other here; a healer deletes those that nobody asks for any more.

create table app_change (
    app_id uuid not null,
    xid xid8 not null default pg_current_xact_id(),
    changed_at timestamptz not null default now(),
    constraint app_change_pkey primary key (app_id, xid)
);
comment on table app_change is 'transactions that changed what the description of an app shows';
-- No reference to app: the removal of an app is a change of it.
create index app_change_changed_at on app_change (changed_at);

create function note_app_change() returns trigger language plpgsql as $$
begin
    if tg_op <> 'INSERT' then
        insert into app_change (app_id) values (old.app_id) on conflict do nothing;
    end if;
    if tg_op <> 'DELETE' then
        insert into app_change (app_id) values (new.app_id) on conflict do nothing;
    end if;
    return null;
end $$;

create trigger app_change after insert or update or delete on app
    for each row execute function note_app_change();
create trigger app_change after insert or update or delete on app_team
    for each row execute function note_app_change();
create trigger app_change after insert or update or delete on app_cname
    for each row execute function note_app_change();
create trigger app_change after insert or update or delete on app_process
    for each row execute function note_app_change();
create trigger app_change after insert or update or delete on process_plan
    for each row execute function note_app_change();
create trigger app_change after insert or update or delete on bind
    for each row execute function note_app_change();
create trigger app_change after insert or delete on unit
    for each row execute function note_app_change();
create trigger app_change_of_unit after update on unit
    for each row when (old is distinct from new) execute function note_app_change();
create trigger app_change after insert or update or delete on side_release
    for each row execute function note_app_change();
create trigger app_change after update on release
    for each row when (old.routable is distinct from new.routable) execute function note_app_change();

create function note_plan_change() returns trigger language plpgsql as $$
begin
    insert into app_change (app_id) select app_id from app where plan in (old.name, new.name) on conflict do nothing;
    return null;
end $$;
create trigger app_change after update on plan for each row execute function note_plan_change();

create function note_pool_change() returns trigger language plpgsql as $$
begin
    insert into app_change (app_id) select app_id from app where pool in (old.name, new.name) on conflict do nothing;
    return null;
end $$;
create trigger app_change after update on pool for each row execute function note_pool_change();

create function note_instance_change() returns trigger language plpgsql as $$
begin
    insert into app_change (app_id) select app_id from bind where instance_id = new.instance_id on conflict do nothing;
    return null;
end $$;
create trigger app_change after update on service_instance for each row execute function note_instance_change();

create function note_service_change() returns trigger language plpgsql as $$
begin
    insert into app_change (app_id)
    select b.app_id from bind b join service_instance i using (instance_id) where i.service_id = new.service_id
    on conflict do nothing;
    return null;
end $$;
create trigger app_change after update on service
    for each row when (old.name is distinct from new.name) execute function note_service_change();
