-- Workers are shared fairly by key: of each saga, whom it works for.

alter table saga add column share_key text not null default '';
comment on column saga.share_key is 'who shares the workers: the user who asked, or the one whose app it is for; else the kind of work';

update saga s set share_key = coalesce(
    (select case when e.owner_kind = 'user' then 'user/' || lower(e.owner_name)
                 else coalesce('user/' || lower(a.owner), e.target_kind || '/' || e.target_value) end
     from event e
     left join app a on (e.owner_kind = 'app' and a.name = e.owner_name)
                     or (e.owner_kind <> 'app' and e.target_kind = 'app' and a.name = e.target_value)
     where e.event_id = s.event_id),
    'kind/' || s.kind)
where s.ended_at is null;
