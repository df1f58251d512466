//! The processes of one unit, seen from its shim: the children it started, and the orphans among their
//! descendants, which the kernel hands to the shim. All are reaped; the end of a child is told, and
//! so is the moment when none is left.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

/// What the shim waits for.
#[derive(Debug)]
pub(super) enum Note {
    /// The shim was told to stop its unit nicely.
    Stop,
    /// The shim was told to stop its unit at once.
    StopNow,
    /// The scratch home holds too much.
    Full,
    /// A child ended; `None` if nobody could tell how.
    Ended(u32, Option<ExitStatus>),
    /// No descendant is left of the first so many children.
    Alone(u64),
}

#[derive(Default)]
struct Inner {
    children: Vec<Child>,
    /// How many children were ever started.
    started: u64,
}

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Family(Arc<(Mutex<Inner>, Condvar)>);

impl Family {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.0.lock().expect("no holder of this lock panics")
    }

    /// Starts a child. The calling thread must live as long as the shim: the child's parent-death
    /// signal hangs on it.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<u32> {
        let mut inner = self.lock();
        let child = command.spawn()?;
        let pid = child.id();
        inner.children.push(child);
        inner.started += 1;
        self.0.1.notify_all();
        Ok(pid)
    }

    /// How many children were ever started.
    pub(super) fn started(&self) -> u64 {
        self.lock().started
    }

    /// Signals the process groups of all children that are not reaped (so that their numbers are
    /// still theirs).
    pub(super) fn signal(&self, signal: Signal) {
        for child in &self.lock().children {
            if let Ok(pid) = i32::try_from(child.id()) {
                let _gone_already = killpg(Pid::from_raw(pid), signal);
            }
        }
    }

    /// Reaps for ever, on a thread of its own.
    pub(super) fn reap(&self, tell: &Sender<Note>) {
        loop {
            let started = self.started();
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Err(nix::Error::ECHILD) => {
                    let inner = self.lock();
                    if inner.started != started {
                        continue;
                    }
                    if tell.send(Note::Alone(started)).is_err() {
                        return;
                    }
                    drop(self.0.1.wait_while(inner, |inner| inner.started == started));
                }
                Err(nix::Error::EINTR) => {}
                // An error here means a death that `nix` cannot name (a real-time signal).
                found => self.reap_one(found.ok().and_then(|status| status.pid()), tell),
            }
        }
    }

    fn reap_one(&self, pid: Option<Pid>, tell: &Sender<Note>) {
        let mut inner = self.lock();
        let mut ended = Vec::new();
        inner.children.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended.push(Note::Ended(child.id(), Some(status)));
                false
            }
            Err(_) => {
                ended.push(Note::Ended(child.id(), None));
                false
            }
        });
        if ended.is_empty() {
            let _reaped = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        for note in ended {
            let _the_shim_is_ending = tell.send(note);
        }
    }
}
