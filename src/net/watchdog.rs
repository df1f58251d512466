//! Closes connections without progress.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::net::client_io::ConnState;

/// How long a connection may make no progress.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnTimeouts {
    /// For a head, from its first byte.
    pub(crate) head: Duration,
    /// Without a byte, between requests or while the client does not read its response.
    pub(crate) idle: Duration,
    /// Without a byte during a request.
    pub(crate) busy: Duration,
}

/// Closes a connection without progress. It wakes a few times per deadline and checks whether the counters
/// have changed, so that requests themselves touch no timer.
pub(crate) struct ConnWatchdog {
    sleep: Pin<Box<Sleep>>,
    tick: Duration,
    timeouts: ConnTimeouts,
    last_io: (u32, Instant),
    last_head: (u32, Instant),
}

impl ConnWatchdog {
    pub(crate) fn new(timeouts: ConnTimeouts) -> Self {
        let tick =
            (timeouts.head.min(timeouts.idle) / 4).clamp(Duration::from_millis(5), Duration::from_secs(5));
        let now = Instant::now();
        Self {
            sleep: Box::pin(sleep(tick)),
            tick,
            timeouts,
            last_io: (0, now),
            last_head: (0, now),
        }
    }

    /// Ready when a head takes too long or there is no progress.
    pub(crate) fn poll_expired(
        &mut self,
        cx: &mut Context<'_>,
        watch: &ConnState,
        crowded: bool,
    ) -> Poll<()> {
        ready!(self.poll_tick(cx, |this, now| {
            let heads = watch.head_counter();
            if this.last_head.0 != heads {
                this.last_head = (heads, now);
            }
            let idle = this.idle_for(now, watch);
            let in_head = heads % 2 == 1;
            (in_head && now - this.last_head.1 >= this.timeouts.head)
                || idle
                    >= if watch.is_busy() && !watch.is_write_blocked() {
                        this.timeouts.busy
                    } else {
                        this.timeouts.idle
                    }
                || (crowded && !watch.is_busy() && idle >= this.timeouts.head)
        }));
        Poll::Ready(())
    }

    /// Ready when there is no progress in a tunnel.
    pub(crate) fn poll_idle(&mut self, cx: &mut Context<'_>, watch: &ConnState) -> Poll<()> {
        self.poll_tick(cx, |this, now| this.idle_for(now, watch) >= this.timeouts.idle)
    }

    fn idle_for(&mut self, now: Instant, watch: &ConnState) -> Duration {
        let moves = watch.io_count();
        if self.last_io.0 != moves {
            self.last_io = (moves, now);
        }
        now - self.last_io.1
    }

    fn poll_tick(
        &mut self,
        cx: &mut Context<'_>,
        mut is_over: impl FnMut(&mut Self, Instant) -> bool,
    ) -> Poll<()> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            let now = Instant::now();
            if is_over(self, now) {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(now + self.tick);
        }
    }
}
