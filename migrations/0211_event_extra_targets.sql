-- The further targets that an event has locked, for lists by target: a bind is found by its app and by its instance.

alter table event add column extra_targets text[] not null default '{}';
comment on column event.extra_targets is 'kind:value pairs of the targets that it locked beside its own';

update event e set extra_targets = l.targets
from (
    select l.event_id, array_agg(l.target_kind || ':' || l.target_value order by l.target_kind, l.target_value) as targets
    from event_lock l join event o using (event_id)
    where (l.target_kind, l.target_value) <> (o.target_kind, o.target_value)
    group by l.event_id) l
where e.event_id = l.event_id and e.ended_at is null;

create index event_extra_targets on event using gin (extra_targets) where extra_targets <> '{}';
