//! The processes of one unit, as seen by its shim: the children it started, and their orphaned descendants,
//! which the kernel reparents to the shim. All are reaped; an event reports the end of each child, and the
//! moment when no process is left.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use super::volume_limit::ForcedEnd;

/// An event for the shim.
#[derive(Debug)]
pub(super) enum ShimEvent {
    /// The unit must stop, with its grace period.
    Stop,
    /// The unit must stop at once.
    StopNow,
    /// The running processes must end.
    MustEnd(ForcedEnd),
    /// A child ended; `None` if its status is unknown.
    ChildEnded(u32, Option<ExitStatus>),
    /// Of the first so many children, no descendant is left.
    NoneLeft(u64),
}

#[derive(Default)]
struct ChildTable {
    children: Vec<Child>,
    /// How many children were started in total.
    started: u64,
}

/// The processes of a unit; see the module.
#[derive(Clone, Default)]
pub(super) struct UnitProcesses(Arc<(Mutex<ChildTable>, Condvar)>);

impl UnitProcesses {
    fn lock_table(&self) -> MutexGuard<'_, ChildTable> {
        self.0.0.lock().expect("no holder of this lock panics")
    }

    /// Starts a child. The calling thread must live as long as the shim: the child's parent-death signal
    /// depends on it.
    pub(super) fn spawn_child(&self, command: &mut Command) -> io::Result<u32> {
        let mut inner = self.lock_table();
        let child = command.spawn()?;
        let pid = child.id();
        inner.children.push(child);
        inner.started += 1;
        self.0.1.notify_all();
        Ok(pid)
    }

    /// How many children were started in total.
    pub(super) fn count_started(&self) -> u64 {
        self.lock_table().started
    }

    /// Signals the process groups of all children that are not reaped (whose ids therefore cannot have been
    /// reused).
    pub(super) fn signal_groups(&self, signal: Signal) {
        self.signal_groups_if(signal, |_| true);
    }

    /// Signals the process group of one child, unless it is reaped.
    pub(super) fn signal_group_of(&self, pid: u32, signal: Signal) {
        self.signal_groups_if(signal, |child| child == pid);
    }

    fn signal_groups_if(&self, signal: Signal, is_meant: impl Fn(u32) -> bool) {
        let table = self.lock_table();
        for pid in table.children.iter().map(Child::id).filter(|pid| is_meant(*pid)) {
            if let Ok(pid) = i32::try_from(pid) {
                let _gone_already = killpg(Pid::from_raw(pid), signal);
            }
        }
    }

    /// Reaps forever, on a thread of its own.
    pub(super) fn reap_forever(&self, sender: &Sender<ShimEvent>) {
        loop {
            let started = self.count_started();
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Err(nix::Error::ECHILD) => {
                    let inner = self.lock_table();
                    if inner.started != started {
                        continue;
                    }
                    if sender.send(ShimEvent::NoneLeft(started)).is_err() {
                        return;
                    }
                    drop(self.0.1.wait_while(inner, |inner| inner.started == started));
                }
                Err(nix::Error::EINTR) => {}
                // An error here is a death by a signal that `nix` cannot represent (a real-time signal).
                found => self.reap_one(found.ok().and_then(|status| status.pid()), sender),
            }
        }
    }

    fn reap_one(&self, pid: Option<Pid>, sender: &Sender<ShimEvent>) {
        let mut inner = self.lock_table();
        let mut ended = Vec::new();
        inner.children.retain_mut(|child| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                ended.push(ShimEvent::ChildEnded(child.id(), Some(status)));
                false
            }
            Err(_) => {
                ended.push(ShimEvent::ChildEnded(child.id(), None));
                false
            }
        });
        if ended.is_empty() {
            let _reaped = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
        for event in ended {
            let _the_shim_is_ending = sender.send(event);
        }
    }
}
