//! Broadcast feeds by key: one task reads the items of a key for all its listeners, started by the first
//! listener. A feed ends when its last listener is gone.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;

/// How many items a slow listener may lag behind before it has to read the missed ones itself.
const CAPACITY: usize = 64;

/// The feeds by key. See the module. Cheap to clone.
pub struct FeedHub<K, T>(Arc<Mutex<HashMap<K, broadcast::Sender<T>>>>);

/// The sending end of a feed, held by the task that reads the items. Dropping it ends the feed for its
/// listeners.
pub struct FeedSender<K: Eq + Hash, T> {
    feeds: FeedHub<K, T>,
    key: K,
    sender: broadcast::Sender<T>,
}

impl<K, T> Clone for FeedHub<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> Default for FeedHub<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K, T> fmt::Debug for FeedHub<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feeds").finish_non_exhaustive()
    }
}

impl<K, T> FeedHub<K, T> {
    fn lock_senders(&self) -> MutexGuard<'_, HashMap<K, broadcast::Sender<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T: Clone> FeedHub<K, T> {
    /// Subscribes to a key. The first subscriber also gets the sending end and must start a task that sends.
    pub fn subscribe(&self, key: &K) -> (broadcast::Receiver<T>, Option<FeedSender<K, T>>) {
        let mut senders = self.lock_senders();
        if let Some(sender) = senders.get(key) {
            return (sender.subscribe(), None);
        }
        let (sender, receiver) = broadcast::channel(CAPACITY);
        senders.insert(key.clone(), sender.clone());
        let feed = FeedSender {
            feeds: self.clone(),
            key: key.clone(),
            sender,
        };
        (receiver, Some(feed))
    }
}

impl<K: Eq + Hash, T> FeedSender<K, T> {
    /// Sends to all listeners.
    pub fn send(&self, item: T) {
        // There may be no listener any more; `close_if_unused` detects that.
        let _ = self.sender.send(item);
    }

    /// Ends the feed if it has no listeners, so that the next one starts a new feed. Returns whether it
    /// ended.
    pub fn close_if_unused(&self) -> bool {
        let mut senders = self.feeds.lock_senders();
        // Nobody can subscribe while the lock is held.
        let is_unheard = self.sender.receiver_count() == 0;
        if is_unheard {
            self.remove_from(&mut senders);
        }
        is_unheard
    }

    fn remove_from(&self, senders: &mut HashMap<K, broadcast::Sender<T>>) {
        if senders
            .get(&self.key)
            .is_some_and(|sender| sender.same_channel(&self.sender))
        {
            senders.remove(&self.key);
        }
    }
}

impl<K: Eq + Hash, T> Drop for FeedSender<K, T> {
    fn drop(&mut self) {
        self.remove_from(&mut self.feeds.lock_senders());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listeners_of_a_key_share_one_feed_until_nobody_listens() {
        let feeds: FeedHub<&str, u32> = FeedHub::default();
        let (mut first, feed) = feeds.subscribe(&"a");
        let feed = feed.unwrap();
        let (mut second, none) = feeds.subscribe(&"a");
        assert!(none.is_none() && feeds.subscribe(&"b").1.is_some());
        feed.send(7);
        assert_eq!((first.recv().await, second.recv().await), (Ok(7), Ok(7)));
        drop(first);
        assert!(!feed.close_if_unused());
        drop(second);
        assert!(feed.close_if_unused());
        let (mut third, new) = feeds.subscribe(&"a");
        assert!(new.is_some(), "a new listener begins a new feed");
        drop(feed);
        assert!(
            feeds.subscribe(&"a").1.is_none(),
            "closing the old feed does not close the new one"
        );
        drop(new);
        assert!(third.recv().await.is_err(), "listeners see the end of a feed");
        assert!(feeds.lock_senders().is_empty());
    }
}
