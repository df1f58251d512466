-- Ended events may go when they are old: by one function, a few at a time, and never one that ended less than 30
-- days ago, whoever asks. Ended sagas and hunts, which say less than the events, go with them.

create index event_ended on event (ended_at) where ended_at is not null;

create or replace function event_is_kept() returns trigger language plpgsql as $$
begin
    -- The mark is against accidents; the age is what holds whoever sets it.
    if tg_op = 'DELETE' then
        if current_setting('tancho.expiring', true) = 'yes' and old.ended_at < now() - interval '30 days' then
            return old;
        end if;
    end if;
    raise exception 'an event that has ended is neither changed nor removed' using errcode = 'restrict_violation';
end
$$;

create function event_expire(keep_days integer, at_most integer) returns bigint
    language plpgsql security definer set search_path from current as $$
declare
    kept interval := make_interval(days => keep_days);
    gone bigint;
begin
    if keep_days < 30 then
        raise exception 'events are kept for 30 days at least' using errcode = 'restrict_violation';
    end if;
    perform set_config('tancho.expiring', 'yes', true);
    with old as materialized (
        select e.event_id from event e
        where e.ended_at < now() - kept
          -- What an app was deployed by stays as long as the app.
          and not exists (select from deploy d where d.event_id = e.event_id)
          and not exists (select from saga s where s.event_id = e.event_id
                            and (s.ended_at is null or (s.state = 'stuck' and s.given_up_at is null)))
        order by e.ended_at limit at_most for update skip locked),
    work as (delete from saga s using old where s.event_id = old.event_id),
    freed as (delete from event e using old where e.event_id = old.event_id returning 1)
    select count(*) into gone from freed;
    perform set_config('tancho.expiring', '', true);
    delete from saga where saga_id in (
        select saga_id from saga where event_id is null and ended_at < now() - kept
          and (state <> 'stuck' or given_up_at is not null) limit at_most);
    delete from orphan where orphan_id in (
        select orphan_id from orphan where ended_at < now() - kept limit at_most);
    return gone;
end
$$;
comment on function event_expire is 'the one way by which ended events go: the oldest first, at most so many; answers how many';
