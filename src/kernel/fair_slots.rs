//! A bounded number of slots shared by key: builds by user, password hashes by address, health checks by app.
//! Unlike a FIFO semaphore, it gives a free slot to the key that holds the fewest, and among those to the one
//! served longest ago. So a key with a thousand waiters delays another key's first waiter by one turn, not by
//! a thousand.
//!
//! A key never holds more than its share, even while no other key waits: slots are held for as long as users'
//! work takes, so the last one must be free *before* the next key arrives.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Slots shared fairly between keys. See the module. Cheap to clone.
pub struct FairSlots<K: SlotKey>(Arc<FairSlotsInner<K>>);

/// The key by which slots are shared.
pub trait SlotKey: Clone + Eq + Hash + Send + 'static {}

impl<K: Clone + Eq + Hash + Send + 'static> SlotKey for K {}

struct FairSlotsInner<K: SlotKey> {
    limits: SlotLimits,
    state: Mutex<FairSlotsState<K>>,
}

/// The limits of a `FairSlots`.
#[derive(Clone, Copy, Debug)]
pub struct SlotLimits {
    /// Slots in total.
    pub total: usize,
    /// Slots that one key may hold.
    pub per_key: usize,
    /// Waiters that one key may have; further ones are refused.
    pub waiting_per_key: usize,
}

impl SlotLimits {
    /// `total` slots, of which one key leaves at least one to the others; waiters are not limited.
    pub fn with_one_reserved(total: usize) -> Self {
        Self {
            total,
            per_key: total.saturating_sub(1).max(1),
            waiting_per_key: usize::MAX,
        }
    }
}

struct FairSlotsState<K: SlotKey> {
    free: usize,
    /// Counts the slots granted, to order the keys by when they were last served.
    grants_made: u64,
    keys: HashMap<K, KeySlots<K>>,
}

struct KeySlots<K: SlotKey> {
    held: usize,
    last_served: u64,
    waiting: VecDeque<oneshot::Sender<FairSlot<K>>>,
}

impl<K: SlotKey> Default for KeySlots<K> {
    fn default() -> Self {
        Self {
            held: 0,
            last_served: 0,
            waiting: VecDeque::new(),
        }
    }
}

/// A held slot; released on drop.
pub struct FairSlot<K: SlotKey> {
    slots: FairSlots<K>,
    key: K,
}

/// The key already has its maximum number of waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many waiters already")]
pub struct QueueFull;

impl<K: SlotKey> Clone for FairSlots<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: SlotKey> fmt::Debug for FairSlots<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairSlots")
            .field("limits", &self.0.limits)
            .finish_non_exhaustive()
    }
}

impl<K: SlotKey> fmt::Debug for FairSlot<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl<K: SlotKey> FairSlots<K> {
    /// Creates the slots, all of them free.
    pub fn new(limits: SlotLimits) -> Self {
        Self(Arc::new(FairSlotsInner {
            limits,
            state: Mutex::new(FairSlotsState {
                free: limits.total,
                grants_made: 0,
                keys: HashMap::new(),
            }),
        }))
    }

    fn lock_state(&self) -> MutexGuard<'_, FairSlotsState<K>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a slot if one is available to the key at once. Waiters take precedence.
    pub fn try_acquire(&self, key: &K) -> Option<FairSlot<K>> {
        let mut state = self.lock_state();
        let waits_or_full = state
            .keys
            .get(key)
            .is_some_and(|k| !k.waiting.is_empty() || k.held >= self.0.limits.per_key);
        if state.free == 0 || waits_or_full {
            return None;
        }
        state.take_slot(key);
        Some(self.make_slot(key.clone()))
    }

    /// Waits for a slot. Dropping the future leaves the queue. Errors: `QueueFull`, at once.
    pub async fn acquire(&self, key: &K) -> Result<FairSlot<K>, QueueFull> {
        if let Some(slot) = self.try_acquire(key) {
            return Ok(slot);
        }
        let receiver = {
            let mut state = self.lock_state();
            let entry = state.keys.entry(key.clone()).or_default();
            entry.waiting.retain(|waiter| !waiter.is_closed());
            if entry.waiting.len() >= self.0.limits.waiting_per_key {
                return Err(QueueFull);
            }
            let (sender, receiver) = oneshot::channel();
            entry.waiting.push_back(sender);
            receiver
        };
        // A slot may have become free since the first attempt.
        self.grant_free_slots();
        receiver.await.map_err(|_| QueueFull)
    }

    /// Returns how many slots the key holds.
    pub fn count_held_by(&self, key: &K) -> usize {
        self.lock_state().keys.get(key).map_or(0, |k| k.held)
    }

    /// Returns how many waiters there are, over all keys.
    pub fn count_all_waiting(&self) -> usize {
        self.lock_state().keys.values().map(KeySlots::count_waiting).sum()
    }

    /// Estimates how many will be served before the next waiter of this key: the holders of slots, the key's
    /// own waiters, and of each other key at most one more than that.
    pub fn count_ahead(&self, key: &K) -> usize {
        let state = self.lock_state();
        let own = state.keys.get(key).map_or(0, KeySlots::count_waiting);
        let held: usize = state.keys.values().map(|k| k.held).sum();
        let others = state.keys.iter().filter(|(other, _)| *other != key);
        own + held + others.map(|(_, k)| k.count_waiting().min(own + 1)).sum::<usize>()
    }

    fn make_slot(&self, key: K) -> FairSlot<K> {
        FairSlot {
            slots: self.clone(),
            key,
        }
    }

    /// Grants free slots to waiters until either run out.
    fn grant_free_slots(&self) {
        loop {
            let (key, waiter) = {
                let mut state = self.lock_state();
                let Some(next) = state.next_waiter(self.0.limits.per_key) else {
                    return;
                };
                next
            };
            // If the waiter is gone, the slot is dropped, which releases it again.
            drop(waiter.send(self.make_slot(key)));
        }
    }
}

impl<K: SlotKey> KeySlots<K> {
    fn count_waiting(&self) -> usize {
        self.waiting.iter().filter(|waiter| !waiter.is_closed()).count()
    }
}

impl<K: SlotKey> FairSlotsState<K> {
    fn take_slot(&mut self, key: &K) {
        self.free -= 1;
        self.grants_made += 1;
        let entry = self.keys.entry(key.clone()).or_default();
        entry.held += 1;
        entry.last_served = self.grants_made;
    }

    /// Returns the next waiter; its slot is already counted as held.
    fn next_waiter(&mut self, per_key: usize) -> Option<(K, oneshot::Sender<FairSlot<K>>)> {
        if self.free == 0 {
            return None;
        }
        self.keys.retain(|_, entry| {
            while entry.waiting.front().is_some_and(oneshot::Sender::is_closed) {
                entry.waiting.pop_front();
            }
            entry.held > 0 || !entry.waiting.is_empty()
        });
        let key = self
            .keys
            .iter()
            .filter(|(_, entry)| !entry.waiting.is_empty() && entry.held < per_key)
            .min_by_key(|(_, entry)| (entry.held, entry.last_served))
            .map(|(key, _)| key.clone())?;
        let waiter = self.keys.get_mut(&key)?.waiting.pop_front()?;
        self.take_slot(&key);
        Some((key, waiter))
    }

    fn release_slot(&mut self, key: &K) {
        self.free += 1;
        if let Some(entry) = self.keys.get_mut(key) {
            entry.held = entry.held.saturating_sub(1);
            if entry.held == 0 && entry.waiting.iter().all(oneshot::Sender::is_closed) {
                self.keys.remove(key);
            }
        }
    }
}

impl<K: SlotKey> Drop for FairSlot<K> {
    fn drop(&mut self) {
        self.slots.lock_state().release_slot(&self.key);
        self.slots.grant_free_slots();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::*;

    fn slots(total: usize, per_key: usize) -> FairSlots<&'static str> {
        FairSlots::new(SlotLimits {
            total,
            per_key,
            waiting_per_key: 3,
        })
    }

    /// Returns a waiter that has been polled once, so that it is in the queue.
    fn queued(
        slots: &FairSlots<&'static str>,
        key: &'static str,
    ) -> BoxFuture<'static, Result<FairSlot<&'static str>, QueueFull>> {
        let slots = slots.clone();
        let mut waiter = async move { slots.acquire(&key).await }.boxed();
        assert!(
            (&mut waiter).now_or_never().is_none(),
            "{key} did not have to wait"
        );
        waiter
    }

    #[tokio::test]
    async fn one_key_never_holds_the_last_slot() {
        let slots = slots(2, 1);
        let _first = slots.acquire(&"greedy").await.unwrap();
        let _second = queued(&slots, "greedy");
        assert!(slots.acquire(&"other").now_or_never().is_some());
    }

    #[tokio::test]
    async fn free_slot_goes_to_the_key_that_holds_the_fewest() {
        let slots = slots(2, 2);
        let first = slots.acquire(&"greedy").await.unwrap();
        let _second = slots.acquire(&"greedy").await.unwrap();
        let mut greedy: Vec<_> = (0..3).map(|_| queued(&slots, "greedy")).collect();
        let mut other = queued(&slots, "other");
        drop(first);
        let _given = (&mut other)
            .now_or_never()
            .expect("the other key is served first");
        assert!(greedy.iter_mut().all(|waiter| waiter.now_or_never().is_none()));
    }

    #[tokio::test]
    async fn waiters_of_one_key_are_bounded_and_refused_at_once() {
        let slots = slots(1, 1);
        let _held = slots.acquire(&"greedy").await.unwrap();
        let waiting: Vec<_> = (0..3).map(|_| queued(&slots, "greedy")).collect();
        assert_eq!(slots.acquire(&"greedy").await.err(), Some(QueueFull));
        drop(waiting);
        let _again = queued(&slots, "greedy");
    }

    #[tokio::test]
    async fn dropped_waiter_neither_gets_nor_blocks_a_slot() {
        let slots = slots(1, 1);
        let held = slots.acquire(&"a").await.unwrap();
        drop(queued(&slots, "b"));
        let mut next = queued(&slots, "c");
        drop(held);
        let place = (&mut next).now_or_never().unwrap().unwrap();
        drop(place);
        assert!(
            slots.lock_state().keys.is_empty(),
            "no state is kept of a dropped waiter"
        );
        assert_eq!(slots.lock_state().free, 1);
    }

    #[tokio::test]
    async fn count_ahead_is_held_slots_own_waiters_and_one_turn_of_each_other_key() {
        let slots = slots(1, 1);
        let _held = slots.acquire(&"a").await.unwrap();
        assert_eq!(slots.count_ahead(&"b"), 1);
        let _greedy: Vec<_> = (0..3).map(|_| queued(&slots, "a")).collect();
        assert_eq!(slots.count_ahead(&"b"), 2, "one of the three is served before");
        let _own = queued(&slots, "b");
        assert_eq!(slots.count_ahead(&"b"), 4);
        assert_eq!(slots.count_ahead(&"a"), 5);
    }

    #[tokio::test]
    async fn equal_keys_take_turns() {
        let slots = slots(1, 1);
        let mut held = Some(slots.acquire(&"a").await.unwrap());
        let mut waiters = vec![
            ("a", queued(&slots, "a")),
            ("a", queued(&slots, "a")),
            ("b", queued(&slots, "b")),
            ("b", queued(&slots, "b")),
        ];
        let mut order = Vec::new();
        while !waiters.is_empty() {
            held.take();
            let position = waiters
                .iter_mut()
                .position(|(_, waiter)| match waiter.now_or_never() {
                    Some(slot) => {
                        held = Some(slot.unwrap());
                        true
                    }
                    None => false,
                })
                .unwrap();
            order.push(waiters.remove(position).0);
        }
        assert_eq!(order, ["b", "a", "b", "a"]);
    }
}
