//! The change of a job.

use serde_json::json;

use crate::apps::{self, AppChange};
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventOutcome, NewEvent};
use crate::jobs::actions::{describe_schedule, find_authorized_job};
use crate::jobs::model::SettingsChange;
use crate::jobs::store;
use crate::kernel::error::Error;
use crate::kernel::names::JobName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;

/// A change of a job: of what it shares with apps, and of its own.
#[derive(Debug, Default)]
pub(super) struct JobChange {
    pub(super) shared: AppChange,
    pub(super) settings: SettingsChange,
}

/// Changes a job. A new schedule counts from now on: what was planned by the old one still runs. Errors: `Invalid`.
pub(super) async fn update_job(
    core: &Core,
    call: &RequestContext,
    name: &JobName,
    change: JobChange,
) -> Result<(), Error> {
    let job = find_authorized_job(core, call, name, Permission::JOB_UPDATE).await?;
    let changes_shared = !change.shared.required_permissions().is_empty();
    if !changes_shared && change.settings.is_empty() && change.shared.pool.is_none() {
        return Err(Error::invalid(
            "There is nothing to change: provide at least one field.",
        ));
    }
    apps::check_values(core, call, &job, &change.shared, &[Permission::JOB_UPDATE]).await?;
    let mut tx = core.db.begin().await?;
    let mut changed: Vec<&str> = change
        .shared
        .required_permissions()
        .iter()
        .map(|permission| permission.as_str())
        .collect();
    if change.settings.schedule.is_some() {
        changed.push("schedule");
    }
    let event = NewEvent::new(
        job.event_target(),
        Permission::JOB_UPDATE,
        job.permission_contexts(),
        json!({ "changed": changed }),
    );
    let event = events::begin_event(&mut tx, call, &event).await?;
    apps::apply_change(&mut tx, &job, change.shared).await?;
    let row = store::find_job(&mut *tx, job.id).await?;
    let row = row.ok_or_else(|| Error::job_not_found(name))?;
    let mut settings = row.to_settings()?;
    let before = describe_schedule(&settings).map(str::to_owned);
    change.settings.apply_to(&mut settings)?;
    let next = settings
        .schedule
        .as_ref()
        .and_then(|schedule| schedule.next_after(row.now));
    let next = match describe_schedule(&settings) == before.as_deref() {
        // Instants that are due and not planned yet stay so.
        true => row.next_at.or(next),
        false => next,
    };
    store::upsert_job(&mut tx, job.id, &settings, next).await?;
    events::end_event(&mut tx, &event, &EventOutcome::Done, None).await?;
    db::send_notice(&mut tx, NoticeChannel::Jobs, "").await?;
    Ok(tx.commit().await?)
}
