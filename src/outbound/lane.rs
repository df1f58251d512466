//! One service's share of our patience: room for some calls at once, a bounded queue, a breaker.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::ServicesSettings;
use crate::outbound::Why;
use crate::outbound::breaker::Breaker;

/// Calls that may wait for each one that may run.
const QUEUE_PER_ROOM: usize = 4;

pub(super) struct Lane {
    room: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
    breaker: Mutex<Breaker>,
    breaker_failures: u32,
    breaker_rest: Duration,
}

/// The right to make one call. Dropped without `ended`, it says nothing about the service.
pub(super) struct Pass {
    lane: Arc<Lane>,
    told: bool,
    _room: OwnedSemaphorePermit,
}

/// Counts a waiting call, and uncounts it however the waiting ends.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Lane {
    pub(super) fn new(settings: &ServicesSettings) -> Self {
        let room = settings.concurrency_per_service;
        Self {
            room: Arc::new(Semaphore::new(room)),
            waiting: AtomicUsize::new(0),
            most_waiting: room.saturating_mul(QUEUE_PER_ROOM),
            breaker: Mutex::default(),
            breaker_failures: settings.breaker_failures,
            breaker_rest: settings.breaker,
        }
    }

    /// Waits for room. Errors: `Busy` when the queue is full or the deadline comes first, `Resting`.
    pub(super) async fn enter(self: Arc<Self>, deadline: Instant) -> Result<Pass, Why> {
        let permit = match Arc::clone(&self.room).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.queue(deadline).await?,
        };
        // Asked after the waiting: the calls before us may have found out that it is dead.
        if !self.breaker().admits(Instant::now()) {
            return Err(Why::Resting);
        }
        Ok(Pass {
            lane: self,
            told: false,
            _room: permit,
        })
    }

    async fn queue(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Why> {
        let ahead = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if ahead >= self.most_waiting {
            return Err(Why::Busy);
        }
        let permit = Arc::clone(&self.room).acquire_owned();
        match tokio::time::timeout_at(deadline, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Why::Busy),
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// Tells the breaker whether the service has answered.
    pub(super) fn ended(mut self, answered: bool) {
        self.told = true;
        let (failures, rest) = (self.lane.breaker_failures, self.lane.breaker_rest);
        let mut breaker = self.lane.breaker();
        match answered {
            true => breaker.succeeded(),
            false => breaker.failed(Instant::now(), failures, rest),
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.told {
            self.lane.breaker().dropped();
        }
    }
}
