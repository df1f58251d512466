//! Lists of events in SQL.

use sqlx::PgExecutor;

use crate::events::lists::EventFilter;
use crate::events::model::Event;
use crate::events::store::EventRow;
use crate::kernel::ids::EventId;

/// Lists events, without their data unless one is asked for. The planner replaces the parameters by their
/// values, and so skips the conditions that do not narrow.
pub async fn list_events(db: impl PgExecutor<'_>, filter: &EventFilter) -> sqlx::Result<Vec<Event>> {
    let reader = &filter.read_scope;
    sqlx::query_as!(
        EventRow,
        r#"select event_id as "event_id: EventId", target_kind, target_value, kind, owner_kind, owner_name, source_ip, request_id,
                started_at, ended_at, outcome, error, case when $8 <> '' then start_data end as start_data,
                case when $8 <> '' then end_data end as end_data, cancelable, cancel_asked_at,
                cancel_by, cancel_reason, token_kind, extra_targets, contexts
         from event
         where (case
                    when $1 = '' and $2 = '' then true
                    when $2 = '' then target_kind = $1 or extra_targets <> '{}' and exists (
                        select from unnest(extra_targets) as x(pair) where split_part(pair, ':', 1) = $1)
                    when $1 = '' then target_value = $2 or extra_targets <> '{}' and exists (
                        select from unnest(extra_targets) as x(pair) where substr(pair, strpos(pair, ':') + 1) = $2)
                    else target_kind = $1 and target_value = $2
                         or extra_targets <> '{}' and extra_targets @> array[$1 || ':' || $2]
                end)
           and (cardinality($3::text[]) = 0 or kind = any($3))
           and ($4 = '' or owner_kind = $4) and ($5 = '' or owner_name = $5)
           and ($6::boolean is null or (ended_at is null) = $6)
           and (not $7 or coalesce(outcome, 'done') <> 'done')
           and ($8 = '' or event_id = $8)
           and $17 in ('', 'permission')
           and ($18::timestamptz is null or started_at >= $18) and ($19::timestamptz is null or started_at <= $19)
           and ($9 or target_kind = any($10) or exists (
               select 1 from event_reader r
               where r.event_id = event.event_id
                 and ((r.object_id = $11 and (r.kind = 'owner' or (r.kind = 'user' and target_kind = 'user')))
                      or (target_kind, r.kind, r.object_id) in (
                          select h.target_kind, h.kind, o.object_id
                          from unnest($12::text[], $13::text[], $14::text[]) as h(target_kind, kind, name)
                          join (
                              select u.kind, u.name, find_context_object(u.kind, u.name) as object_id
                              from (select distinct kind, name from unnest($13::text[], $14::text[]) as n(kind, name)) u
                          ) o on o.kind = h.kind and o.name = h.name
                          where o.object_id is not null))))
         order by
             case when $20 = 'starttime' and $21 then started_at end desc,
             case when $20 = 'starttime' and not $21 then started_at end,
             case when $20 = 'endtime' and $21 then coalesce(ended_at, '-infinity') end desc,
             case when $20 = 'endtime' and not $21 then coalesce(ended_at, '-infinity') end,
             case when $21 then
                 case $20 when 'kind.name' then kind when 'target.type' then target_kind when 'target.value' then target_value
                     when 'owner.type' then owner_kind when 'owner.name' then owner_name when 'error' then error end
             end desc,
             case when not $21 then
                 case $20 when 'kind.name' then kind when 'target.type' then target_kind when 'target.value' then target_value
                     when 'owner.type' then owner_kind when 'owner.name' then owner_name when 'error' then error end
             end,
             case when $21 then event_id end desc,
             case when not $21 then event_id end
         limit $15 offset $16"#,
        filter.target_kind,
        filter.target_value,
        &filter.kinds,
        filter.owner_kind,
        filter.owner_name,
        filter.running,
        filter.errors_only,
        filter.id,
        reader.all,
        &reader.kinds,
        reader.caller_id,
        &reader.granted.target_kinds,
        &reader.granted.kinds,
        &reader.granted.names,
        filter.limit,
        filter.skip,
        filter.kind_type,
        filter.since,
        filter.until,
        filter.sort.field(),
        filter.sort.is_descending(),
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .map(Event::try_from)
    .collect()
}
