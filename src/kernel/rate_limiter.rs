//! Rate limiting by key: each key has a token bucket, which refills at a steady rate up to a maximum. So a
//! key may burst but not sustain it, and keys do not affect each other.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// At this number of keys, idle ones are evicted.
const MAX_KEYS: usize = 10_000;

/// Token buckets by key. See the module.
#[derive(Debug)]
pub struct RateLimiter<K> {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<K, TokenBucket>>,
}

#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    tokens: f64,
    at: Instant,
}

impl<K: Clone + Eq + Hash> RateLimiter<K> {
    /// Each key gets `per_second` tokens a second, and at most `burst` at once.
    pub fn new(per_second: u32, burst: u32) -> Self {
        Self {
            per_second: per_second.into(),
            burst: burst.into(),
            buckets: Mutex::default(),
        }
    }

    /// How many tokens there are. Taken are those of what comes about, by `charge`.
    pub fn available(&self, key: &K) -> usize {
        // Whole, and not negative.
        self.with_bucket(key, |bucket| bucket.tokens.floor().max(0.0) as usize)
    }

    /// Takes tokens for what has come about. Too few are a debt, which is paid first.
    pub fn charge(&self, key: &K, count: usize) {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        self.with_bucket(key, |bucket| bucket.tokens -= count);
    }

    /// Takes all `wanted` tokens or none; returns false if there are too few.
    pub fn try_take(&self, key: &K, wanted: usize) -> bool {
        let wanted = f64::from(u32::try_from(wanted).unwrap_or(u32::MAX));
        self.with_bucket(key, |bucket| {
            let enough = bucket.tokens >= wanted;
            if enough {
                bucket.tokens -= wanted;
            }
            enough
        })
    }

    fn with_bucket<T>(&self, key: &K, change: impl FnOnce(&mut TokenBucket) -> T) -> T {
        let now = Instant::now();
        let mut buckets = self.lock_buckets();
        if buckets.len() >= MAX_KEYS && !buckets.contains_key(key) {
            buckets.retain(|_, bucket| self.refill_bucket(*bucket, now).tokens < self.burst);
        }
        let full = TokenBucket {
            tokens: self.burst,
            at: now,
        };
        let bucket = buckets.entry(key.clone()).or_insert(full);
        *bucket = self.refill_bucket(*bucket, now);
        change(bucket)
    }

    fn refill_bucket(&self, bucket: TokenBucket, now: Instant) -> TokenBucket {
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        TokenBucket {
            tokens: (bucket.tokens + passed * self.per_second).min(self.burst),
            at: now,
        }
    }

    fn lock_buckets(&self) -> MutexGuard<'_, HashMap<K, TokenBucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_limited_to_its_burst_and_does_not_affect_others() {
        let limiter = RateLimiter::new(1, 10);
        limiter.charge(&"a", 4);
        assert_eq!(limiter.available(&"a"), 6);
        assert!(!limiter.try_take(&"a", 8), "more than is left is refused whole");
        assert!(limiter.try_take(&"a", 6));
        assert_eq!(limiter.available(&"a"), 0);
        assert_eq!(limiter.available(&"b"), 10);
    }

    #[test]
    fn what_is_charged_beyond_the_tokens_is_paid_before_more_is_given() {
        let limiter = RateLimiter::new(1000, 10);
        limiter.charge(&"a", 1_000_000);
        assert_eq!(limiter.available(&"a"), 0);
        assert!(!limiter.try_take(&"a", 1));
        assert!(limiter.try_take(&"b", 10));
    }

    #[test]
    fn idle_keys_are_evicted() {
        let limiter = RateLimiter::new(u32::MAX, 1);
        for key in 0..=MAX_KEYS {
            limiter.charge(&key, 1);
        }
        assert!(limiter.lock_buckets().len() < MAX_KEYS);
    }
}
