//! SQL statements for orphans.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use crate::kernel::ids::{BindId, InstanceId, ReplicaId, ServiceId};
use crate::kernel::names::InstanceName;
use crate::services::orphans::NewOrphan;

/// How long a claim lasts without renewal, in seconds.
const LEASE_SECONDS: f64 = 8.0;

/// Inserts an orphan with the uncertainty noted on its row, unless it exists already.
pub(super) async fn insert_orphan(tx: &mut PgConnection, new: &NewOrphan) -> sqlx::Result<()> {
    insert_orphan_where(tx, new, false).await
}

/// Inserts an orphan like `insert_orphan`, but only if the service may still execute an earlier call
/// according to the row.
pub(super) async fn insert_orphan_if_uncertain(tx: &mut PgConnection, new: &NewOrphan) -> sqlx::Result<()> {
    insert_orphan_where(tx, new, true).await
}

async fn insert_orphan_where(
    tx: &mut PgConnection,
    new: &NewOrphan,
    only_uncertain: bool,
) -> sqlx::Result<()> {
    sqlx::query!(
        "with late as (
             select max(uncertain_until) as uncertain_until, max(rebind_blocked_until) as rebind_blocked_until from (
                 select uncertain_until, rebind_blocked_until from bind where $4 = 'bind' and bind_id = ($5::jsonb ->> 'bind')::uuid
                 union all
                 select uncertain_until, null from service_instance
                 where $4 = 'instance' and service_id = $2 and name = $3) as row
             where uncertain_until > now()),
         known as (
             update orphan o set uncertain_until = greatest(o.uncertain_until, late.uncertain_until),
                                 rebind_blocked_until = greatest(o.rebind_blocked_until, late.rebind_blocked_until)
             from late
             where o.service_id = $2 and o.instance = $3 and o.kind = $4 and o.ended_at is null
               and o.detail -> 'bind' is not distinct from $5::jsonb -> 'bind')
         insert into orphan (orphan_id, service, service_id, instance, kind, detail, reason, uncertain_until, rebind_blocked_until)
         select $1, name, service_id, $3, $4, $5, $6, late.uncertain_until, late.rebind_blocked_until from service, late
         where service_id = $2 and (not $7 or late.uncertain_until is not null)
           and not exists (select 1 from orphan o where o.service_id = $2 and o.instance = $3 and o.kind = $4
                             and o.detail -> 'bind' is not distinct from $5::jsonb -> 'bind'
                             -- A bind that an operator has given up is not hunted again; a name may be.
                             and (o.ended_at is null or (o.given_up_at is not null and $4 = 'bind')))",
        Uuid::now_v7(),
        new.service_id.0,
        new.instance,
        new.kind,
        new.detail,
        new.reason,
        only_uncertain,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Notes on the row of the resource that a call was to create, if the row exists by now, that the service may
/// execute the call within `seconds`. For a bind, this may be another bind of the same app and instance.
/// Returns false if there is no row.
pub(super) async fn mark_row_uncertain(
    tx: &mut PgConnection,
    of: &NewOrphan,
    seconds: f64,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"with noted_bind as (
               update bind b set uncertain_until = greatest(b.uncertain_until, now() + make_interval(secs => $5))
               from service_instance i, app a
               where $3 = 'bind' and i.service_id = $1 and i.name = $2 and a.name = $4::jsonb -> 'app' ->> 'name'
                 and b.instance_id = i.instance_id and b.app_id = a.app_id
               returning b.bind_id),
           noted_instance as (
               update service_instance set uncertain_until = greatest(uncertain_until, now() + make_interval(secs => $5))
               where $3 = 'instance' and service_id = $1 and name = $2
               returning instance_id)
           select exists (select from noted_bind) or exists (select from noted_instance) as "is!""#,
        of.service_id.0,
        of.instance,
        of.kind,
        of.detail,
        seconds,
    )
    .fetch_one(tx)
    .await
}

/// Ends an orphan, or postpones it until the service can no longer execute an earlier call.
pub(super) async fn end_or_defer(tx: &mut PgConnection, of: &NewOrphan) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set ended_at = case when uncertain_until > now() then ended_at else now() end,
                wake_at = case when uncertain_until > now() then uncertain_until else wake_at end
         where service_id = $1 and instance = $2 and kind = $3 and ended_at is null
           and detail -> 'bind' is not distinct from $4::jsonb -> 'bind'",
        of.service_id.0,
        of.instance,
        of.kind,
        of.detail,
    )
    .execute(tx)
    .await
    .map(drop)
}

/// Returns whether an orphaned instance of that name is pending.
pub(in crate::services) async fn has_pending_instance(
    tx: &mut PgConnection,
    service: ServiceId,
    name: &InstanceName,
) -> sqlx::Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select 1 from orphan
                          where service_id = $1 and instance = $2 and kind = 'instance' and ended_at is null) as "held!""#,
        service.0,
        name.as_str(),
    )
    .fetch_one(tx)
    .await
}

/// Makes the orphan of an instance due at once, because a user waits for its name.
pub(in crate::services) async fn wake_instance_orphan(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    name: &InstanceName,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set wake_at = now()
         where service_id = $1 and instance = $2 and kind = 'instance' and ended_at is null",
        service.0,
        name.as_str(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// Ends the orphans of a bind that is `bound` again.
pub(in crate::services) async fn end_bind_orphans(tx: &mut PgConnection, bind: BindId) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set ended_at = now()
         where kind = 'bind' and ended_at is null and detail ->> 'bind' = $1",
        bind.to_string(),
    )
    .execute(tx)
    .await
    .map(drop)
}

/// The state of the orphans of earlier binds of an app and an instance.
#[derive(Clone, Copy, Debug)]
pub(in crate::services) struct SupersededBinds {
    /// A call to unbind is running, or may yet be executed: it could remove a new bind.
    pub(in crate::services) is_rebind_blocked: bool,
    /// Until then the service may execute an earlier call.
    pub(in crate::services) uncertain_until: Option<DateTime<Utc>>,
}

/// Ends the orphans of earlier binds of an app, because a new bind replaces them, except those whose unbind
/// may still be executed. Within `window` seconds of its creation, an orphan may belong to a bind that the
/// service creates late.
pub(in crate::services) async fn supersede_bind_orphans(
    tx: &mut PgConnection,
    service: ServiceId,
    instance: &InstanceName,
    app: &str,
    window: f64,
) -> sqlx::Result<SupersededBinds> {
    let rows = sqlx::query!(
        r#"with found as (
               -- A claim that was not given back: the service may still do what its dead owner has told it.
               select orphan_id, coalesce(greatest(claimed_until + make_interval(secs => $4), rebind_blocked_until) > now(), false) as is_held
               from orphan
               where service_id = $1 and instance = $2 and kind = 'bind' and ended_at is null
                 and detail -> 'app' ->> 'name' = $3
               for update)
           update orphan o set ended_at = case when is_held then ended_at else now() end
           from found where o.orphan_id = found.orphan_id
           returning is_held as "is_held!",
                     greatest(uncertain_until, created_at + make_interval(secs => $4)) as "uncertain_until!""#,
        service.0,
        instance.as_str(),
        app,
        window,
    )
    .fetch_all(tx)
    .await?;
    Ok(SupersededBinds {
        is_rebind_blocked: rows.iter().any(|row| row.is_held),
        uncertain_until: rows.iter().map(|row| row.uncertain_until).max(),
    })
}

/// A claimed orphan that is due.
#[derive(Clone, Debug)]
pub(super) struct DueOrphan {
    pub(super) id: Uuid,
    pub(super) service_id: ServiceId,
    pub(super) instance: InstanceName,
    pub(super) kind: String,
    pub(super) detail: Value,
    pub(super) attempts: i32,
    /// Seconds since it was recorded.
    pub(super) age: f64,
    /// Seconds until the service can no longer execute an earlier call; negative afterwards.
    pub(super) unheard: f64,
}

/// Lists the services with due orphans, except those that this process is working on.
pub(super) async fn list_due_services(
    db: impl PgExecutor<'_>,
    busy: &[Uuid],
) -> sqlx::Result<Vec<ServiceId>> {
    sqlx::query_scalar!(
        r#"select distinct service_id as "id!: ServiceId" from orphan
           where ended_at is null and wake_at <= now() and (claimed_until is null or claimed_until <= now())
             and service_id is not null and service_id <> all($1)"#,
        busy,
    )
    .fetch_all(db)
    .await
}

/// Claims the orphan of a service that has been due for longest. If its last owner died, the service may
/// still execute a call of that owner, for `window` seconds.
pub(super) async fn claim_due_orphan(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    by: ReplicaId,
    window: f64,
) -> sqlx::Result<Option<DueOrphan>> {
    sqlx::query_as!(
        DueOrphan,
        r#"update orphan set attempts = attempts + 1, claimed_by = $2, claimed_until = now() + make_interval(secs => $4),
                  uncertain_until = case when claimed_by is null then uncertain_until
                                       else greatest(uncertain_until, now() + make_interval(secs => $3)) end,
                  rebind_blocked_until = case when claimed_by is null then rebind_blocked_until
                                    else greatest(rebind_blocked_until, now() + make_interval(secs => $3)) end
           where orphan_id = (
               select orphan_id from orphan
               where ended_at is null and wake_at <= now() and (claimed_until is null or claimed_until <= now())
                 and service_id = $1
               order by wake_at limit 1 for update skip locked)
           returning orphan_id as id, service_id as "service_id!: ServiceId", instance as "instance: InstanceName",
                     kind, detail, attempts,
                     extract(epoch from now() - created_at)::double precision as "age!",
                     coalesce(extract(epoch from uncertain_until - now()), -1)::double precision as "unheard!""#,
        service.0,
        by.0,
        window,
        LEASE_SECONDS,
    )
    .fetch_optional(db)
    .await
}

/// Renews a claim. Returns false if another replica holds it.
pub(super) async fn renew_claim(db: impl PgExecutor<'_>, id: Uuid, by: ReplicaId) -> sqlx::Result<bool> {
    sqlx::query!(
        "update orphan set claimed_until = now() + make_interval(secs => $3)
         where orphan_id = $1 and claimed_by = $2",
        id,
        by.0,
        LEASE_SECONDS,
    )
    .execute(db)
    .await
    .map(|done| done.rows_affected() == 1)
}

/// Releases the claims of a replica that is known to be dead, so that nobody waits for them.
pub(super) async fn release_claims(db: impl PgExecutor<'_>, dead: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set claimed_until = now() where claimed_by = $1 and claimed_until > now() and ended_at is null",
        dead.0
    )
    .execute(db)
    .await
    .map(drop)
}

/// Notes that the service may execute, within `seconds`, a call of the reaper whose response was not
/// received.
pub(super) async fn set_uncertain_until(
    db: impl PgExecutor<'_>,
    id: Uuid,
    by: ReplicaId,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set uncertain_until = now() + make_interval(secs => $3), rebind_blocked_until = now() + make_interval(secs => $3)
         where orphan_id = $1 and claimed_by = $2",
        id,
        by.0,
        seconds
    )
    .execute(db)
    .await
    .map(drop)
}

/// Releases the claim; the next attempt is after `seconds`.
pub(super) async fn postpone_orphan(
    db: impl PgExecutor<'_>,
    id: Uuid,
    by: ReplicaId,
    reason: &str,
    seconds: f64,
) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set claimed_by = null, claimed_until = null, reason = $3,
                wake_at = now() + make_interval(secs => $4)
         where orphan_id = $1 and claimed_by = $2",
        id,
        by.0,
        reason,
        seconds,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Ends an orphan.
pub(super) async fn end_orphan(db: impl PgExecutor<'_>, id: Uuid, by: ReplicaId) -> sqlx::Result<()> {
    sqlx::query!(
        "update orphan set ended_at = coalesce(ended_at, now()), claimed_by = null, claimed_until = null
         where orphan_id = $1 and claimed_by = $2",
        id,
        by.0
    )
    .execute(db)
    .await
    .map(drop)
}

/// Finds an instance in state `removing` that has no binds left and waits for its service to confirm.
pub(super) async fn find_removing_instance(
    db: impl PgExecutor<'_>,
    service: ServiceId,
    name: &InstanceName,
) -> sqlx::Result<Option<InstanceId>> {
    sqlx::query_scalar!(
        r#"select instance_id as "id: InstanceId" from service_instance i
           where service_id = $1 and name = $2 and state = 'removing'
             and not exists (select 1 from bind b where b.instance_id = i.instance_id)"#,
        service.0,
        name.as_str(),
    )
    .fetch_optional(db)
    .await
}
