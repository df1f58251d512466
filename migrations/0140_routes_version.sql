-- A counter that each change moves of what routes are made of: a router asks for it every two seconds,
-- instead of summing four tables. The trigger is deferred to the commit, so that no transaction
-- holds the lock of the counter while it works, and it has sixteen rows, so that commits do not wait for each other.
create table routes_version (
    shard integer primary key,
    version bigint not null default 0,
    constraint routes_version_shard_check check (shard between 0 and 15)
);
insert into routes_version (shard) select generate_series(0, 15);
comment on table routes_version is 'the sum of version moves with each change of what routes are made of';

create function bump_routes_version() returns trigger language plpgsql as $$
begin
    -- Once in a transaction, however many rows it changes.
    if current_setting('tancho.routes_bumped_by', true) is distinct from pg_current_xact_id()::text then
        update routes_version set version = version + 1 where shard = pg_backend_pid() % 16;
        perform set_config('tancho.routes_bumped_by', pg_current_xact_id()::text, true);
    end if;
    return null;
end $$;

create constraint trigger unit_routes_added after insert or delete on unit
    deferrable initially deferred for each row execute function bump_routes_version();
create constraint trigger unit_routes_changed after update on unit
    deferrable initially deferred for each row
    when ((old.phase, old.ready, old.address, old.process, old.version)
          is distinct from (new.phase, new.ready, new.address, new.process, new.version))
    execute function bump_routes_version();
create constraint trigger app_routes_added after insert or delete on app
    deferrable initially deferred for each row execute function bump_routes_version();
create constraint trigger app_routes_changed after update on app
    deferrable initially deferred for each row
    when ((old.name, old.label, old.current_release) is distinct from (new.name, new.label, new.current_release))
    execute function bump_routes_version();
create constraint trigger app_process_routes_added after insert or delete on app_process
    deferrable initially deferred for each row execute function bump_routes_version();
create constraint trigger app_process_routes_changed after update on app_process
    deferrable initially deferred for each row
    when ((old.process, old.units, old.stopped) is distinct from (new.process, new.units, new.stopped))
    execute function bump_routes_version();
create constraint trigger app_cname_routes_changed after insert or update or delete on app_cname
    deferrable initially deferred for each row execute function bump_routes_version();
