//! How the shim waits: for events of its unit, for the end of its processes, and for their last output.

use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::processes::ShimEvent;
use super::shim::UnitShim;
use crate::sandbox::{cgroup, proc};

/// A state that could not be written (disk full) is retried after this.
const SAVE_RETRY: Duration = Duration::from_secs(2);
/// How long to wait for the last output of processes that have ended.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(500);
/// How many times leftover children are killed without a pause.
const QUICK_KILL_ROUNDS: u32 = 50;
/// How long to wait for the end of killed processes.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

impl UnitShim {
    /// Waits for a matching event. `None` = the unit must stop; `Some(None)` = timeout, or its processes must
    /// end.
    pub(super) fn wait_for_event<T>(
        &mut self,
        until: Instant,
        fits: impl Fn(&ShimEvent) -> Option<T>,
    ) -> Option<Option<T>> {
        loop {
            // The request to stop may also have come while leftovers of a run were killed.
            if self.state.stopping {
                self.save_state();
                return None;
            }
            if self.forced_end.is_some() {
                return Some(None);
            }
            match self.next_event(until) {
                Some(event) => {
                    if let Some(found) = fits(&event) {
                        return Some(Some(found));
                    }
                }
                None => return Some(None),
            }
        }
    }

    /// Returns the next event, or `None` on timeout. Saves a state that could not be saved before.
    fn next_event(&mut self, until: Instant) -> Option<ShimEvent> {
        loop {
            let mut wait = until.saturating_duration_since(Instant::now());
            if self.unsaved {
                wait = wait.min(SAVE_RETRY);
            }
            match self.events.recv_timeout(wait) {
                Ok(event) => {
                    match &event {
                        ShimEvent::NoneLeft(count) => self.ended_count = self.ended_count.max(*count),
                        ShimEvent::Stop => self.state.stopping = true,
                        ShimEvent::StopNow => (self.state.stopping, self.stop_now) = (true, true),
                        ShimEvent::MustEnd(cause) => self.forced_end = Some(cause.clone()),
                        ShimEvent::ChildEnded(..) => {}
                    }
                    return Some(event);
                }
                Err(RecvTimeoutError::Timeout) if self.unsaved && Instant::now() < until => self.save_state(),
                Err(_) => return None,
            }
        }
    }

    fn has_no_processes(&self) -> bool {
        self.ended_count >= self.processes.count_started()
    }

    /// Waits until no process of the unit is left, or the unit must stop at once.
    pub(super) fn wait_until_empty(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.has_no_processes() && !self.stop_now && self.next_event(until).is_some() {}
        self.has_no_processes()
    }

    /// Kills what is left of a run, and waits for its last output.
    pub(super) fn kill_leftovers(&mut self) {
        let until = Instant::now() + KILL_TIMEOUT;
        // Usually nothing is left, and the event for that is about to arrive.
        let mut late = Instant::now() + Duration::from_millis(20);
        while !self.has_no_processes() && Instant::now() < until {
            if self.next_event(late).is_none() {
                self.kill_descendants();
                late = Instant::now() + Duration::from_millis(50);
            }
        }
        let until = Instant::now() + LAST_LINES_TIMEOUT;
        while Instant::now() < until {
            self.log_readers.retain(|follower| !follower.is_finished());
            if self.log_readers.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill_descendants(&self) {
        self.processes.signal_groups(Signal::SIGKILL);
        for cgroup in self.state.cgroup_paths() {
            cgroup::kill_members(cgroup);
        }
        proc::kill_each(proc::list_descendants());
        // A process that keeps starting a child and exiting is reparented to the shim, and caught by killing
        // fast enough.
        for _ in 0..QUICK_KILL_ROUNDS {
            proc::kill_each(proc::list_children());
        }
    }
}
