//! Event blocks in SQL.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};

use crate::events::blocks::model::{EventBlock, NewEventBlock};
use crate::events::model::NewEvent;
use crate::kernel::ids::EventBlockId;

struct EventBlockRow {
    block_id: EventBlockId,
    started_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    kind_name: String,
    owner_name: String,
    target_kind: String,
    target_value: String,
    conditions: Value,
    reason: String,
}

impl TryFrom<EventBlockRow> for EventBlock {
    type Error = sqlx::Error;

    fn try_from(row: EventBlockRow) -> sqlx::Result<Self> {
        let conditions: BTreeMap<String, String> =
            serde_json::from_value(row.conditions).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(EventBlock {
            id: row.block_id,
            started_at: row.started_at,
            ended_at: row.ended_at,
            rule: NewEventBlock {
                kind_name: row.kind_name,
                owner_name: row.owner_name,
                target_kind: row.target_kind,
                target_value: row.target_value,
                conditions,
                reason: row.reason,
            },
        })
    }
}

/// Adds a block, unless so many are active already: then the answer is false.
pub(super) async fn insert_block(
    tx: &mut PgConnection,
    id: &EventBlockId,
    new: &NewEventBlock,
    most_active: i64,
) -> sqlx::Result<bool> {
    let conditions: serde_json::Map<String, Value> = new
        .conditions
        .iter()
        .map(|(name, value)| (name.clone(), Value::from(value.as_str())))
        .collect();
    sqlx::query!(
        "insert into event_block (block_id, kind_name, owner_name, target_kind, target_value, conditions, reason)
         select $1, $2, $3, $4, $5, $6, $7
         where (select count(*) from event_block where ended_at is null) < $8",
        id.as_str(),
        new.kind_name,
        new.owner_name,
        new.target_kind,
        new.target_value,
        Value::Object(conditions),
        new.reason,
        most_active,
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Ends an active block; false if there is none of this id.
pub(super) async fn end_block(tx: &mut PgConnection, id: &EventBlockId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update event_block set ended_at = now() where block_id = $1 and ended_at is null",
        id.as_str(),
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// The blocks, newest first: all active ones, and the latest of those that have ended.
pub(super) async fn list_blocks(
    db: impl PgExecutor<'_>,
    active: Option<bool>,
    at_most: i64,
) -> sqlx::Result<Vec<EventBlock>> {
    sqlx::query_as!(
        EventBlockRow,
        r#"select block_id as "block_id!: EventBlockId", started_at as "started_at!", ended_at,
                kind_name as "kind_name!", owner_name as "owner_name!", target_kind as "target_kind!",
                target_value as "target_value!", conditions as "conditions!", reason as "reason!"
         from (
             (select * from event_block where ended_at is null and coalesce($1, true))
             union all
             (select * from event_block where ended_at is not null and not coalesce($1, false)
              order by started_at desc, block_id desc limit $2)) as b
         order by started_at desc, block_id desc"#,
        active,
        at_most,
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .map(EventBlock::try_from)
    .collect()
}

/// The active blocks that match the kind, the owner and the target of an event, oldest first.
pub(super) async fn list_matching_blocks(
    db: impl PgExecutor<'_>,
    new: &NewEvent,
    owner_name: &str,
) -> sqlx::Result<Vec<EventBlock>> {
    sqlx::query_as!(
        EventBlockRow,
        r#"select block_id as "block_id: EventBlockId", started_at, ended_at, kind_name, owner_name, target_kind,
                target_value, conditions, reason
         from event_block
         where ended_at is null
           and starts_with($1, kind_name)
           and (owner_name = '' or lower(owner_name) = lower($2))
           and (target_kind = '' or (target_kind = $3 and target_value in ('', $4)))
         order by started_at, block_id"#,
        new.kind.as_str(),
        owner_name,
        new.target.kind.as_str(),
        new.target.value,
    )
    .fetch_all(db)
    .await?
    .into_iter()
    .map(EventBlock::try_from)
    .collect()
}
