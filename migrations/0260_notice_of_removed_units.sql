-- The files of a failed or removed version stay until its last unit, or session, is gone. The holder is told when that
-- happens; before, it looked again after a minute.

create function notify_of_unused_versions() returns trigger language plpgsql as $$
begin
    if exists (
        select from gone u join version v on v.app_id = u.app_id and v.version = u.version
        where v.state in ('failed', 'removed')
    ) then
        perform pg_notify('tancho_versions', '');
    end if;
    return null;
end $$;

create trigger unused_versions after delete on unit
    referencing old table as gone for each statement execute function notify_of_unused_versions();
create trigger unused_versions after delete on exec_session
    referencing old table as gone for each statement execute function notify_of_unused_versions();
