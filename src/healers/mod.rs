//! Healers: the reconcilers, under the name by which operators and the old agent know them. Running a healer
//! runs one round at once and reports what it did.
//!
//! They are the same reconcilers that the server runs by itself, so a healer does nothing that would not
//! happen a little later anyway. That is why a `GET` may run it, as often as a client likes. Two rounds of
//! the same healer never run at once on one replica. A healer takes no input and changes no desired state.

pub mod classic;
mod leases;
mod retention;
mod routers;

use std::sync::Arc;

use tokio::sync::Mutex;

pub use leases::SagaLeaseHealer;
pub use retention::EventRetentionHealer;
pub use routers::RouterHealer;

use crate::kernel::error::Error;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::sagas::{ReconcileReport, Reconciler};

/// All healers of this process, in the order of their registration.
#[derive(Clone, Default)]
pub struct HealerRegistry(Arc<[RegisteredHealer]>);

struct RegisteredHealer {
    reconciler: Arc<dyn Reconciler>,
    /// Held during a round.
    round_lock: Mutex<()>,
}

impl HealerRegistry {
    /// Creates healers from reconcilers, under the names of the reconcilers.
    pub fn new(reconcilers: Vec<Arc<dyn Reconciler>>) -> Self {
        let healer = |reconciler| RegisteredHealer {
            reconciler,
            round_lock: Mutex::default(),
        };
        Self(reconcilers.into_iter().map(healer).collect())
    }

    /// Returns the names of the healers.
    pub fn list_names(&self) -> Vec<&'static str> {
        self.0.iter().map(|healer| healer.reconciler.name()).collect()
    }

    /// Runs one round of a healer. For callers who may read healers, the report also lists the open work,
    /// which names the resources of all users. Errors: `NotFound`; the error of the round.
    pub async fn run_healer(&self, call: &RequestContext, name: &str) -> Result<ReconcileReport, Error> {
        let found = self.0.iter().find(|healer| healer.reconciler.name() == name);
        let healer = found.ok_or_else(|| {
            Error::not_found(format!(
                "There is no such healer; available healers: {}.",
                self.list_names().join(", ")
            ))
        })?;
        let _guard = healer.round_lock.lock().await;
        let mut report = healer.reconciler.run_round().await?;
        if call.has_global_permission(Permission::HEALER_READ) {
            report.done.extend(healer.reconciler.list_open_work().await?);
        }
        Ok(report)
    }
}
