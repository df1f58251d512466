//! Descriptions of apps as they are sent, kept in memory.
//!
//! A kept description is valid as long as no transaction has changed what it shows: each such transaction leaves a row in
//! `app_change`, and each read asks whether there is one that the description has not seen. So a read that begins after a
//! write was answered, by whichever replica, shows the write.
//!
//! All reads of a process that wait at one time share one question to the database. A description is kept for a few
//! minutes at most, less than rows of `app_change` are ([`prune_changes`]), and all together are bounded in bytes.

mod checks;
mod store;

use std::any::TypeId;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::apps::model::{App, AppDescription};
use crate::apps::{actions, store as apps_store};
use crate::core::Core;
use crate::db::Db;
use crate::kernel::error::Error;
use crate::kernel::names::AppName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;

use checks::{ChangeChecks, KeptMark};

/// How many bytes are kept, with the memory that their keys and contexts take.
const MAX_BYTES: u64 = 16 << 20;
/// What an entry takes besides its bytes, about.
const ENTRY_BYTES: usize = 1024;

/// A description as it is sent.
struct KeptInfo {
    app: App,
    mark: KeptMark,
    bytes: Bytes,
}

/// The name of an app, and the view of it that was sent.
type InfoKey = (AppName, TypeId);

/// The descriptions that a process keeps. Clones share them.
#[derive(Clone)]
pub struct InfoCache {
    kept: moka::future::Cache<InfoKey, Arc<KeptInfo>>,
    checks: ChangeChecks,
}

impl InfoCache {
    /// Creates an empty cache. Must be called inside a runtime.
    pub fn start(core: &Core) -> Self {
        let weigh = |_: &InfoKey, info: &Arc<KeptInfo>| {
            u32::try_from(info.bytes.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        let kept = moka::future::Cache::builder()
            .max_capacity(MAX_BYTES)
            .weigher(weigh)
            .time_to_live(store::MAX_AGE)
            .build();
        Self {
            kept,
            checks: ChangeChecks::start(core),
        }
    }

    /// Returns the description of an app for a caller who holds the permission, as JSON of the view `V`. Errors as of
    /// [`actions::describe_authorized_app`].
    pub(super) async fn read_info<V: Serialize + 'static>(
        &self,
        core: &Core,
        call: &RequestContext,
        (name, permission): (&AppName, Permission),
        view: impl Fn(&AppDescription) -> V,
    ) -> Result<Bytes, Error> {
        let key = (name.clone(), TypeId::of::<V>());
        let kept = self.kept.get(&key).await;
        let known = kept.as_ref().map(|kept| (kept.app.id, kept.mark.clone()));
        // The mark is of a time before the description is read: what changes in between is asked for again.
        let checked = self.checks.check(&core.db, known).await?;
        if let Some(kept) = kept.filter(|_| checked.is_unchanged) {
            actions::allow_on(call, &kept.app, permission)?;
            return Ok(kept.bytes.clone());
        }
        let full = apps_store::find_app_description(&core.db, name).await?;
        let full = full.ok_or_else(|| Error::app_not_found(name))?;
        actions::allow_on(call, &full.app, permission)?;
        let bytes = Bytes::from(serde_json::to_vec(&view(&full)).map_err(Error::internal)?);
        let info = KeptInfo {
            app: full.app,
            mark: checked.mark,
            bytes: bytes.clone(),
        };
        self.kept.insert(key, Arc::new(info)).await;
        Ok(bytes)
    }
}

/// Deletes a batch of the changes that no kept description is checked against any more. Returns whether there may be more.
pub async fn prune_changes(db: &Db) -> Result<bool, Error> {
    Ok(store::delete_old_changes(db).await? >= store::PRUNE_BATCH)
}
