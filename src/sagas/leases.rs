//! The leases of all sagas that a replica holds: renews them together, and queries the requests to cancel
//! them together.
//!
//! A lease is lost when another replica has claimed the saga, and also when it could not be renewed for its
//! whole length: a replica without database access cannot know whether another replica has continued its
//! sagas. The running step is then cancelled; the next claim repeats it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub, NoticeSubscription};
use crate::events;
use crate::kernel::ids::{EventId, SagaId};
use crate::sagas::store;

/// Interval between two renewals; a fraction of the length of a lease.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Notices about events that arrive within this time are handled with one query.
const GATHER_WINDOW: Duration = Duration::from_millis(20);

/// The leases of this replica. Cheap to clone.
#[derive(Clone)]
pub(super) struct SagaLeases {
    db: Db,
    notices: NoticeHub,
    held: Arc<Mutex<HashMap<SagaId, HeldLease>>>,
}

struct HeldLease {
    fence: i64,
    event: Option<EventId>,
    tokens: LeaseTokens,
    /// When the claim or the last successful renewal was sent; the lease lasts from then on, at least.
    renewed_at: Instant,
}

impl HeldLease {
    fn expires_at(&self) -> Instant {
        self.renewed_at + Duration::from_secs_f64(store::LEASE_SECONDS)
    }
}

/// The cancellation tokens of a claimed saga.
#[derive(Clone, Debug)]
pub(super) struct LeaseTokens {
    /// Cancelled when the lease is lost, or the server stops; `cancel` is its child.
    pub(super) lost: CancellationToken,
    /// Cancelled also when a user requests it.
    pub(super) cancel: CancellationToken,
}

impl LeaseTokens {
    pub(super) fn new(stop: &CancellationToken) -> Self {
        let lost = stop.child_token();
        Self {
            cancel: lost.child_token(),
            lost,
        }
    }
}

/// The lease of one saga; renewed until it is dropped.
pub(super) struct LeaseGuard {
    leases: SagaLeases,
    saga: SagaId,
    fence: i64,
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let mut held = self.leases.lock_held();
        // This replica may have claimed the saga again meanwhile.
        if held.get(&self.saga).is_some_and(|held| held.fence == self.fence) {
            held.remove(&self.saga);
        }
    }
}

impl SagaLeases {
    pub(super) fn new(db: &Db, notices: &NoticeHub) -> Self {
        Self {
            db: db.clone(),
            notices: notices.clone(),
            held: Arc::default(),
        }
    }

    fn lock_held(&self) -> MutexGuard<'_, HashMap<SagaId, HeldLease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews the lease of a saga from now on; the claim was sent at `claimed_at`.
    pub(super) fn track_lease(
        &self,
        saga: SagaId,
        fence: i64,
        event: Option<EventId>,
        tokens: LeaseTokens,
        claimed_at: Instant,
    ) -> LeaseGuard {
        let lease = HeldLease {
            fence,
            event,
            tokens,
            renewed_at: claimed_at,
        };
        self.lock_held().insert(saga, lease);
        LeaseGuard {
            leases: self.clone(),
            saga,
            fence,
        }
    }

    /// Renews leases until `stop` is cancelled and no lease is held any more.
    pub(super) async fn run_renewal(self, stop: CancellationToken) {
        let mut notices = self.notices.subscribe();
        while !stop.is_cancelled() || !self.lock_held().is_empty() {
            self.renew_leases().await;
            self.cancel_requested_sagas(None).await;
            let next = Instant::now() + RENEW_INTERVAL;
            let until = self.next_expiry().map_or(next, |expiry| expiry.min(next));
            while Instant::now() < until {
                let left = until.saturating_duration_since(Instant::now());
                // A lease that is still held after `stop` ends soon, and nobody waits longer than that for
                // this task.
                let left = if stop.is_cancelled() {
                    left.min(GATHER_WINDOW)
                } else {
                    left
                };
                let notice = tokio::select! {
                    notice = notices.wait_for_notice(&[NoticeChannel::Event], left) => notice,
                    () = stop.cancelled(), if !stop.is_cancelled() => None,
                };
                match notice {
                    Some(event) => {
                        self.cancel_requested_sagas(Some(&gather_event_notices(&mut notices, event).await))
                            .await
                    }
                    None if stop.is_cancelled() && self.lock_held().is_empty() => return,
                    None => {}
                }
            }
        }
    }

    /// Returns the earliest expiry of the leases that are not lost.
    fn next_expiry(&self) -> Option<Instant> {
        let held = self.lock_held();
        let valid = held.values().filter(|held| !held.tokens.lost.is_cancelled());
        valid.map(HeldLease::expires_at).min()
    }

    async fn renew_leases(&self) {
        let Some(expiry) = self.next_expiry() else {
            return;
        };
        let (ids, fences): (Vec<SagaId>, Vec<i64>) = self
            .lock_held()
            .iter()
            .filter(|(_, held)| !held.tokens.lost.is_cancelled())
            .map(|(id, held)| (*id, held.fence))
            .unzip();
        let sent_at = Instant::now();
        let renewed = tokio::time::timeout_at(expiry, store::renew_leases(&self.db, &ids, &fences)).await;
        if let Ok(Ok(lost)) = renewed {
            self.record_renewal(ids.iter().zip(fences), &lost, sent_at);
        }
        self.cancel_expired();
    }

    fn record_renewal<'a>(
        &self,
        requested: impl Iterator<Item = (&'a SagaId, i64)>,
        lost: &[(SagaId, i64)],
        sent_at: Instant,
    ) {
        let mut held = self.lock_held();
        for (id, fence) in requested {
            // This replica may have claimed the saga again meanwhile.
            let Some(held) = held.get_mut(id).filter(|held| held.fence == fence) else {
                continue;
            };
            match lost.contains(&(*id, fence)) {
                true => held.tokens.lost.cancel(),
                false => held.renewed_at = sent_at,
            }
        }
    }

    fn cancel_expired(&self) {
        let now = Instant::now();
        for (saga, held) in self.lock_held().iter() {
            if held.expires_at() <= now && !held.tokens.lost.is_cancelled() {
                tracing::warn!(%saga, "the lease of a saga could not be renewed; its step is interrupted");
                held.tokens.lost.cancel();
            }
        }
    }

    /// Cancels the sagas whose events are to be cancelled; with `about`, only those whose events had a
    /// notice.
    async fn cancel_requested_sagas(&self, about: Option<&HashSet<String>>) {
        let asked: Vec<EventId> = self
            .lock_held()
            .values()
            .filter(|held| !held.tokens.cancel.is_cancelled())
            .filter_map(|held| held.event.clone())
            .filter(|event| about.is_none_or(|about| about.contains(event.as_str())))
            .collect();
        if asked.is_empty() {
            return;
        }
        let Ok(cancelled) = events::list_cancel_requested(&self.db, &asked).await else {
            return;
        };
        let cancelled: HashSet<String> = cancelled.into_iter().collect();
        for held in self.lock_held().values() {
            if held
                .event
                .as_ref()
                .is_some_and(|event| cancelled.contains(event.as_str()))
            {
                held.tokens.cancel.cancel();
            }
        }
    }
}

/// Collects the event of a notice, and of those that follow it immediately.
async fn gather_event_notices(notices: &mut NoticeSubscription, first: String) -> HashSet<String> {
    let mut events = HashSet::from([first]);
    let until = Instant::now() + GATHER_WINDOW;
    while let Some(next) = notices
        .wait_for_notice(
            &[NoticeChannel::Event],
            until.saturating_duration_since(Instant::now()),
        )
        .await
    {
        events.insert(next);
    }
    events
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

    use super::*;

    const LEASE: Duration = Duration::from_secs(8);

    /// The leases of a replica that cannot reach the database.
    fn unreachable_leases() -> SagaLeases {
        let nowhere = PgConnectOptions::new_without_pgpass().host("127.0.0.1").port(1);
        let db = PgPoolOptions::new().connect_lazy_with(nowhere);
        SagaLeases::new(&db, &NoticeHub::detached())
    }

    /// Tracks a lease whose claim was sent `age` ago.
    fn track(
        leases: &SagaLeases,
        stop: &CancellationToken,
        age: Duration,
    ) -> (SagaId, LeaseTokens, LeaseGuard) {
        let (saga, tokens) = (SagaId::new(), LeaseTokens::new(stop));
        let guard = leases.track_lease(saga, 1, None, tokens.clone(), Instant::now() - age);
        (saga, tokens, guard)
    }

    #[tokio::test]
    async fn saga_of_a_replica_without_a_database_is_interrupted_when_its_lease_ends() {
        let (leases, stop) = (unreachable_leases(), CancellationToken::new());
        let left = Duration::from_millis(300);
        let (_, tokens, guard) = track(&leases, &stop, LEASE - left);
        let started_at = Instant::now();
        let renewal = tokio::spawn(leases.clone().run_renewal(stop.clone()));
        let lost = tokio::time::timeout(Duration::from_secs(30), tokens.lost.cancelled()).await;
        assert!(lost.is_ok() && tokens.cancel.is_cancelled());
        assert!(started_at.elapsed() >= left / 2, "the lease has not ended yet");
        drop(guard);
        stop.cancel();
        renewal.await.unwrap();
    }

    #[tokio::test]
    async fn renewed_lease_lasts_from_when_its_renewal_was_sent_and_a_lost_one_ends_at_once() {
        let (leases, stop) = (unreachable_leases(), CancellationToken::new());
        let (kept, kept_tokens, _kept) = track(&leases, &stop, LEASE);
        let (lost, lost_tokens, _lost) = track(&leases, &stop, Duration::ZERO);
        let record = |lost: &[(SagaId, i64)], age: Duration| {
            let asked = [(kept, 1), (SagaId::new(), 1)];
            let asked = asked.iter().chain(lost).map(|(saga, fence)| (saga, *fence));
            leases.record_renewal(asked, lost, Instant::now() - age);
            leases.cancel_expired();
        };
        record(&[(lost, 2)], Duration::ZERO);
        assert!(
            !lost_tokens.lost.is_cancelled(),
            "an earlier claim was lost, not this one"
        );
        record(&[(lost, 1)], Duration::ZERO);
        assert!(lost_tokens.lost.is_cancelled() && lost_tokens.cancel.is_cancelled());
        assert!(!kept_tokens.lost.is_cancelled());
        record(&[], LEASE);
        assert!(kept_tokens.lost.is_cancelled());
    }

    #[tokio::test]
    async fn cancel_request_of_a_user_keeps_the_lease() {
        let tokens = LeaseTokens::new(&CancellationToken::new());
        tokens.cancel.cancel();
        assert!(!tokens.lost.is_cancelled());
    }
}
