//! How the shim waits: for news of its unit, for the end of what runs, for the last lines of what has ended.

use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::family::Note;
use super::shim::Shim;
use super::{cgroup, proc};

/// A state that could not be written (a full disk) is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// How long to wait for the last lines of what has ended.
const LAST_LINES: Duration = Duration::from_millis(500);
/// How long to wait for the end of what was killed.
const KILLED: Duration = Duration::from_secs(5);

impl Shim {
    /// Waits for a note that fits. `None` = told to stop, `Some(None)` = too late, or full.
    pub(super) fn wait_for<T>(
        &mut self,
        until: Instant,
        fits: impl Fn(&Note) -> Option<T>,
    ) -> Option<Option<T>> {
        loop {
            // Also a call that came while what was left of a run was killed.
            if self.state.stopping {
                self.save();
                return None;
            }
            if self.full {
                return Some(None);
            }
            match self.next_note(until) {
                Some(note) => {
                    if let Some(found) = fits(&note) {
                        return Some(Some(found));
                    }
                }
                None => return Some(None),
            }
        }
    }

    /// The next note, or `None` when it is late. Saves what could not be saved before.
    fn next_note(&mut self, until: Instant) -> Option<Note> {
        loop {
            let mut wait = until.saturating_duration_since(Instant::now());
            if self.unsaved {
                wait = wait.min(RETRY);
            }
            match self.notes.recv_timeout(wait) {
                Ok(note) => {
                    match note {
                        Note::Alone(count) => self.alone = self.alone.max(count),
                        Note::Stop => self.state.stopping = true,
                        Note::StopNow => (self.state.stopping, self.at_once) = (true, true),
                        Note::Full => self.full = true,
                        Note::Ended(..) => {}
                    }
                    return Some(note);
                }
                Err(RecvTimeoutError::Timeout) if self.unsaved && Instant::now() < until => self.save(),
                Err(_) => return None,
            }
        }
    }

    fn is_alone(&self) -> bool {
        self.alone >= self.family.started()
    }

    /// Waits until nothing is left of the unit, or it is to stop at once.
    pub(super) fn wait_alone(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.is_alone() && !self.at_once && self.next_note(until).is_some() {}
        self.is_alone()
    }

    /// Kills what is left of a run, and lets its last lines arrive.
    pub(super) fn clear(&mut self) {
        let until = Instant::now() + KILLED;
        // Most often nothing is left, and the news of it is on its way.
        let mut late = Instant::now() + Duration::from_millis(20);
        while !self.is_alone() && Instant::now() < until {
            if self.next_note(late).is_none() {
                self.kill_all();
                late = Instant::now() + Duration::from_millis(50);
            }
        }
        let until = Instant::now() + LAST_LINES;
        while Instant::now() < until {
            self.followers.retain(|follower| !follower.is_finished());
            if self.followers.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill_all(&self) {
        self.family.signal(Signal::SIGKILL);
        for cgroup in self.state.cgroups() {
            cgroup::kill_all(cgroup);
        }
        proc::kill_each(proc::descendants());
    }
}
