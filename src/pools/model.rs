//! The types of pools.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::events::{EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::PoolName;
use crate::kernel::permission::{ContextKind, Permission, PermissionContext};

/// The maximum number of labels of a pool.
const MAX_LABELS: usize = 100;
/// The maximum length of a label's key, and of its value, in bytes. A value may be a document.
const MAX_LABEL_KEY: usize = 255;
const MAX_LABEL_VALUE: usize = 16 << 10;

/// A pool with what it allows.
#[derive(Clone, Debug)]
pub struct Pool {
    pub name: PoolName,
    pub provisioner: String,
    pub is_public: bool,
    pub is_default: bool,
    pub labels: BTreeMap<String, String>,
    pub allowed: PoolAllowed,
}

/// The names of existing things that a pool allows.
#[derive(Clone, Debug, Default)]
pub struct PoolAllowed {
    /// Only teams that the reader may see.
    pub teams: Vec<String>,
    pub routers: Vec<String>,
    pub services: Vec<String>,
    pub plans: Vec<String>,
    /// As the constraint has them: issuers are no objects of this server.
    pub cert_issuers: Vec<String>,
}

/// A request to create a pool.
#[derive(Clone, Debug)]
pub(super) struct CreatePool {
    pub name: PoolName,
    pub provisioner: Option<String>,
    pub is_public: bool,
    pub is_default: bool,
    /// Take the place of the present default pool.
    pub force: bool,
    pub labels: BTreeMap<String, String>,
}

/// A change of a pool; `None` leaves a field as it is.
#[derive(Clone, Debug)]
pub(super) struct PoolPatch {
    pub is_public: Option<bool>,
    pub is_default: Option<bool>,
    pub force: bool,
    pub labels: Option<BTreeMap<String, String>>,
}

/// Checks the number and the lengths of labels. Errors: `Invalid`.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    let fits =
        |(key, value): (&String, &String)| key.len() <= MAX_LABEL_KEY && value.len() <= MAX_LABEL_VALUE;
    match labels.len() <= MAX_LABELS && labels.iter().all(fits) {
        true => Ok(()),
        false => Err(Error::invalid(
            "A pool has at most 100 labels, with keys of at most 255 bytes and values of at most 16 KiB.",
        )),
    }
}

/// Returns the context of a pool.
pub(super) fn pool_context(pool: &PoolName) -> PermissionContext {
    PermissionContext::new(ContextKind::Pool, pool)
}

/// Builds an event on a pool.
pub(super) fn pool_event(pool: &PoolName, kind: Permission, data: Value) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Pool, pool),
        kind,
        vec![pool_context(pool)],
        data,
    )
}
