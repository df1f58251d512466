-- Who may read an event is kept by the ids of what it is about, so that who takes the name of something that is gone
-- reads none of its past, and who holds something that was renamed still does.

create table event_reader (
    event_id text not null references event on delete cascade,
    kind text not null,
    object_id uuid not null,
    constraint event_reader_pkey primary key (event_id, kind, object_id)
);
create index event_reader_object on event_reader (object_id, event_id);
comment on table event_reader is 'the things whose readers may read an event, and its owner (kind owner); those that are gone stay, and match nobody';

-- As with what the event has said.
create trigger event_reader_is_kept before update or delete on event_reader
    for each row execute function event_line_is_kept();
create trigger event_reader_is_not_emptied before truncate on event_reader
    for each statement execute function event_is_kept();

-- Noted when the event is written, for what is removed or renamed in the same transaction, and once more when that
-- commits, for what is made in it.
create function event_note_readers() returns trigger language plpgsql as $$
begin
    insert into event_reader (event_id, kind, object_id)
        select new.event_id, o.kind, find_context_object(o.kind, o.name)
        from (
            select split_part(context, ':', 1) as kind, substr(context, strpos(context, ':') + 1) as name
            from unnest(new.contexts) as context) o
        where find_context_object(o.kind, o.name) is not null
        union
        select new.event_id, 'owner', o.object_id
        from (select find_context_object(new.owner_kind, new.owner_name) as object_id) o
        where o.object_id is not null
    on conflict on constraint event_reader_pkey do nothing;
    return null;
end
$$;
create trigger event_note_readers after insert on event
    for each row execute function event_note_readers();
create constraint trigger event_note_readers_at_commit after insert on event deferrable initially deferred
    for each row execute function event_note_readers();

-- Earlier events belong to what has their names now if that is older than they are. All others are read by those who
-- read the events of every thing.
insert into event_reader (event_id, kind, object_id)
    select e.event_id, o.kind, o.object_id
    from event e cross join unnest(e.contexts) as context
    join context_object o
      on o.kind = split_part(context, ':', 1) and o.name = substr(context, strpos(context, ':') + 1)
     and o.created_at <= e.started_at
    union
    select e.event_id, 'owner', o.object_id
    from event e join context_object o
      on o.kind = e.owner_kind and o.name = e.owner_name and o.created_at <= e.started_at;
comment on column event.contexts is 'kind:name pairs of what it is about, as they were named then; who may read it is in event_reader';
