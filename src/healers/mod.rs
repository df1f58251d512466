//! Healers: the reconcilers under the name that operators and the old agent know them by. A healer runs
//! one round now and says what it did.
//!
//! They are the very reconcilers that the server runs by itself, so a healer does nothing that would not
//! happen anyway a little later; that is why a `GET` may run it, as often as one likes. Two of the same
//! name never run at once on one replica. A healer takes no input and changes no wish of anybody.

pub mod classic;
mod leases;
pub mod modern;
mod retention;
mod routes;

use std::sync::Arc;

use tokio::sync::Mutex;

pub use leases::Leases;
pub use retention::Retention;
pub use routes::Routes;

use crate::kernel::call::Call;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::sagas::{Reconciler, Report};

/// All healers of this process, in the order of their making.
#[derive(Clone, Default)]
pub struct Healers(Arc<[Healer]>);

struct Healer {
    reconciler: Arc<dyn Reconciler>,
    /// Held during a round.
    turn: Mutex<()>,
}

impl Healers {
    /// Healers from reconcilers; the names are theirs.
    pub fn new(reconcilers: Vec<Arc<dyn Reconciler>>) -> Self {
        let healer = |reconciler| Healer {
            reconciler,
            turn: Mutex::default(),
        };
        Self(reconcilers.into_iter().map(healer).collect())
    }

    /// Their names.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|healer| healer.reconciler.name()).collect()
    }

    /// One round of a healer; for who may read about healers also what it is not done with, which names things of
    /// anybody. Errors: `NotFound`; what the round met, as `Failed` or what it is.
    pub async fn run(&self, call: &Call, name: &str) -> Result<Report, Problem> {
        let found = self.0.iter().find(|healer| healer.reconciler.name() == name);
        let healer = found.ok_or_else(|| {
            Problem::not_found(format!(
                "There is no such healer; there are {}.",
                self.names().join(", ")
            ))
        })?;
        let _turn = healer.turn.lock().await;
        let mut report = healer.reconciler.round().await?;
        if call.may_globally(Permission::HEALER_READ) {
            report.done.extend(healer.reconciler.open().await?);
        }
        Ok(report)
    }
}
