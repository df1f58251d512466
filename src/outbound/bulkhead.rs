//! The bulkhead of one service: slots for concurrent calls, shared fairly by key, and a circuit breaker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::ServicesSettings;
use crate::kernel::fair_slots::{FairSlot, FairSlots, SlotLimits};
use crate::outbound::OutboundErrorKind;
use crate::outbound::breaker::CircuitBreaker;

/// How many calls of one key may wait per slot.
const QUEUE_PER_SLOT: usize = 4;

pub(super) struct Bulkhead {
    slots: FairSlots<String>,
    breaker: Mutex<CircuitBreaker>,
    breaker_failures: u32,
    breaker_open_time: Duration,
}

/// The permit for one call. Dropped without `record_result`, it does not affect the breaker.
pub(super) struct CallPermit {
    bulkhead: Arc<Bulkhead>,
    is_recorded: bool,
    _slot: FairSlot<String>,
}

impl Bulkhead {
    pub(super) fn new(settings: &ServicesSettings) -> Self {
        let total = settings.concurrency_per_service;
        Self {
            slots: FairSlots::new(SlotLimits {
                waiting_per_key: total.saturating_mul(QUEUE_PER_SLOT),
                ..SlotLimits::with_one_reserved(total)
            }),
            breaker: Mutex::default(),
            breaker_failures: settings.breaker_failures,
            breaker_open_time: settings.breaker_open_time,
        }
    }

    /// Waits for a slot. Errors: `Busy` when too many calls of the key wait or the deadline comes first,
    /// `CircuitOpen`.
    pub(super) async fn acquire_permit(
        self: Arc<Self>,
        key: &str,
        deadline: Instant,
    ) -> Result<CallPermit, OutboundErrorKind> {
        let key = key.to_owned();
        let Ok(Ok(slot)) = tokio::time::timeout_at(deadline, self.slots.acquire(&key)).await else {
            return Err(OutboundErrorKind::Busy);
        };
        // Checked after waiting: earlier calls may have opened the breaker.
        if !self.lock_breaker().try_admit(Instant::now()) {
            return Err(OutboundErrorKind::CircuitOpen);
        }
        Ok(CallPermit {
            bulkhead: self,
            is_recorded: false,
            _slot: slot,
        })
    }

    fn lock_breaker(&self) -> MutexGuard<'_, CircuitBreaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallPermit {
    /// Reports to the breaker whether the service responded. The slot is released when the permit is dropped.
    pub(super) fn record_result(&mut self, answered: bool) {
        self.is_recorded = true;
        let (failures, rest) = (self.bulkhead.breaker_failures, self.bulkhead.breaker_open_time);
        let mut breaker = self.bulkhead.lock_breaker();
        match answered {
            true => breaker.record_success(),
            false => breaker.record_failure(Instant::now(), failures, rest),
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.bulkhead.lock_breaker().release_probe();
        }
    }
}
