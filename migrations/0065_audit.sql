-- The audit trail: by which kind of token a change was made, and that what has ended stays as it was.

alter table event add column token_kind text not null default '';
comment on column event.token_kind is 'session, api-key, app, none (nobody had logged in), internal; empty: from before it was noted';

-- Triggers and not grants: they hold for the owner of the tables as well, who Tancho mostly is.
create function event_is_kept() returns trigger language plpgsql as $$
begin
    raise exception 'an event that has ended is neither changed nor removed' using errcode = 'restrict_violation';
end
$$;
create trigger event_is_kept before update or delete on event
    for each row when (old.ended_at is not null) execute function event_is_kept();
create trigger event_is_not_emptied before truncate on event
    for each statement execute function event_is_kept();

-- What was said while it ran. The event of a line is gone where the line goes along with it.
create function event_line_is_kept() returns trigger language plpgsql as $$
begin
    if exists (select from event where event_id = old.event_id and ended_at is not null) then
        raise exception 'what an event that has ended said is neither changed nor removed'
            using errcode = 'restrict_violation';
    end if;
    if tg_op = 'DELETE' then
        return old;
    end if;
    return new;
end
$$;
create trigger event_line_is_kept before update or delete on event_line
    for each row execute function event_line_is_kept();
create trigger event_line_is_not_emptied before truncate on event_line
    for each statement execute function event_is_kept();
