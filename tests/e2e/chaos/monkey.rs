//! Injects faults: one after the other, each ended before the next.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::Rng;
use proptest::test_runner::TestRng;
use serde_json::Value;

use super::ChaosFixture;
use crate::test_instance::{list_names, seconds};

pub(super) struct ChaosMonkey {
    rng: TestRng,
    began: Instant,
    done: BTreeMap<&'static str, usize>,
    story: Vec<String>,
}

impl ChaosMonkey {
    pub(super) fn new(rng: TestRng, began: Instant) -> Self {
        Self {
            rng,
            began,
            done: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    fn random_below(&mut self, limit: u64) -> u64 {
        self.rng.next_u64() % limit
    }

    /// Waits for a random time of up to so many milliseconds.
    fn pause(&mut self, limit: u64) {
        let pause = self.random_below(limit);
        std::thread::sleep(Duration::from_millis(pause));
    }

    /// Injects one fault.
    pub(super) fn inject_fault(&mut self, fixture: &mut ChaosFixture) {
        self.pause(3_000);
        let which = usize::try_from(self.random_below(2)).unwrap();
        let what = match self.random_below(11) {
            0..=2 => self.kill_replica(fixture, which),
            3 => stop_replica(fixture, which),
            4 => self.kill_both(fixture),
            5 => self.kill_postgres(fixture),
            6 => self.hang_postgres(fixture),
            7 => self.hang_replica(fixture, which),
            8 => self.kill_service(fixture),
            9 => self.kill_some(fixture, which, "/child", "a unit killed"),
            _ => self.kill_some(fixture, which, "/shim/pid", "a shim killed"),
        };
        *self.done.entry(what).or_default() += 1;
        println!("{} {what}", super::clock());
        self.story
            .push(format!("{:.1} s {what}", self.began.elapsed().as_secs_f64()));
    }

    fn kill_replica(&mut self, fixture: &mut ChaosFixture, which: usize) -> &'static str {
        fixture.replicas[which].tancho.kill();
        self.pause(2_000);
        fixture.replicas[which].serve();
        "a replica killed"
    }

    fn kill_both(&mut self, fixture: &mut ChaosFixture) -> &'static str {
        for one in &mut fixture.replicas {
            one.tancho.kill();
        }
        self.pause(2_000);
        for one in &mut fixture.replicas {
            one.serve();
        }
        "both replicas killed"
    }

    fn kill_postgres(&mut self, fixture: &mut ChaosFixture) -> &'static str {
        fixture.cluster.kill();
        self.pause(2_000);
        fixture.cluster.start_server();
        "Postgres killed"
    }

    fn hang_postgres(&mut self, fixture: &mut ChaosFixture) -> &'static str {
        fixture.cluster.signal(Signal::SIGSTOP);
        self.pause(4_000);
        fixture.cluster.signal(Signal::SIGCONT);
        "Postgres hung"
    }

    /// At times longer than its leases live: its work is then taken over.
    fn hang_replica(&mut self, fixture: &mut ChaosFixture, which: usize) -> &'static str {
        fixture.replicas[which].tancho.running().signal(Signal::SIGSTOP);
        self.pause(20_000);
        fixture.replicas[which].tancho.running().signal(Signal::SIGCONT);
        "a replica hung"
    }

    fn kill_service(&mut self, fixture: &mut ChaosFixture) -> &'static str {
        fixture.slow = None;
        self.pause(2_000);
        fixture.start_service();
        "the service killed"
    }

    /// Kills a process that the pid file of a shim names.
    fn kill_some(
        &mut self,
        fixture: &ChaosFixture,
        which: usize,
        who: &str,
        what: &'static str,
    ) -> &'static str {
        let units = fixture.replicas[which].tancho.data.join("units");
        let folders = list_names(&units);
        if folders.is_empty() {
            return "nothing to kill";
        }
        let count = u64::try_from(folders.len()).unwrap();
        let folder = &folders[usize::try_from(self.random_below(count)).unwrap()];
        let note = fs::read(units.join(folder).join("state.json")).unwrap_or_default();
        let note: Value = serde_json::from_slice(&note).unwrap_or_default();
        let Some(pid) = note
            .pointer(who)
            .and_then(Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok())
        else {
            return "nothing to kill";
        };
        // The process may have exited. A pid that now belongs to another process must not be killed.
        let line = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let cmd = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let ours = [line, cmd]
            .iter()
            .any(|text| String::from_utf8_lossy(text).contains(folder.as_str()));
        if !ours {
            return "nothing to kill";
        }
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        what
    }

    pub(super) fn report(&self) -> String {
        format!("{:?}\n{}", self.done, self.story.join("\n"))
    }
}

/// Stops it gracefully, as an upgrade does.
fn stop_replica(fixture: &mut ChaosFixture, which: usize) -> &'static str {
    let tancho = &mut fixture.replicas[which].tancho;
    tancho.running().signal(Signal::SIGTERM);
    let ended = tancho.program.as_mut().unwrap().wait(seconds(60));
    assert_eq!(ended, Some(0), "the exit of a replica that was stopped");
    fixture.replicas[which].serve();
    "a replica stopped"
}
