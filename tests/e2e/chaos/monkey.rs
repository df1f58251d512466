//! What goes wrong: one calamity after the other, each over before the next.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::Rng;
use proptest::test_runner::TestRng;
use serde_json::Value;

use super::Scene;
use crate::house::{names, seconds};

pub(super) struct Monkey {
    dice: TestRng,
    began: Instant,
    done: BTreeMap<&'static str, usize>,
    story: Vec<String>,
}

impl Monkey {
    pub(super) fn new(dice: TestRng, began: Instant) -> Self {
        Self {
            dice,
            began,
            done: BTreeMap::new(),
            story: Vec::new(),
        }
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.dice.next_u64() % limit
    }

    /// Lets things be for a while, up to so many milliseconds.
    fn rest(&mut self, limit: u64) {
        let pause = self.below(limit);
        std::thread::sleep(Duration::from_millis(pause));
    }

    /// One calamity.
    pub(super) fn act(&mut self, scene: &mut Scene) {
        self.rest(3_000);
        let which = usize::try_from(self.below(2)).unwrap();
        let what = match self.below(11) {
            0..=2 => self.kill_replica(scene, which),
            3 => stop_replica(scene, which),
            4 => self.kill_both(scene),
            5 => self.kill_postgres(scene),
            6 => self.hang_postgres(scene),
            7 => self.hang_replica(scene, which),
            8 => self.kill_service(scene),
            9 => self.kill_some(scene, which, "/child", "a unit killed"),
            _ => self.kill_some(scene, which, "/shim/pid", "a shim killed"),
        };
        *self.done.entry(what).or_default() += 1;
        println!("{} {what}", super::clock());
        self.story
            .push(format!("{:.1} s {what}", self.began.elapsed().as_secs_f64()));
    }

    fn kill_replica(&mut self, scene: &mut Scene, which: usize) -> &'static str {
        scene.replicas[which].house.kill();
        self.rest(2_000);
        scene.replicas[which].serve();
        "a replica killed"
    }

    fn kill_both(&mut self, scene: &mut Scene) -> &'static str {
        for one in &mut scene.replicas {
            one.house.kill();
        }
        self.rest(2_000);
        for one in &mut scene.replicas {
            one.serve();
        }
        "both replicas killed"
    }

    fn kill_postgres(&mut self, scene: &mut Scene) -> &'static str {
        scene.cluster.kill();
        self.rest(2_000);
        scene.cluster.go_on();
        "Postgres killed"
    }

    fn hang_postgres(&mut self, scene: &mut Scene) -> &'static str {
        scene.cluster.signal(Signal::SIGSTOP);
        self.rest(4_000);
        scene.cluster.signal(Signal::SIGCONT);
        "Postgres hung"
    }

    /// Longer than its leases live, at times: what it has begun is then somebody else's.
    fn hang_replica(&mut self, scene: &mut Scene, which: usize) -> &'static str {
        scene.replicas[which].house.running().signal(Signal::SIGSTOP);
        self.rest(20_000);
        scene.replicas[which].house.running().signal(Signal::SIGCONT);
        "a replica hung"
    }

    fn kill_service(&mut self, scene: &mut Scene) -> &'static str {
        scene.slow = None;
        self.rest(2_000);
        scene.start_service();
        "the service killed"
    }

    /// Kills a process that a shim's note names.
    fn kill_some(&mut self, scene: &Scene, which: usize, who: &str, what: &'static str) -> &'static str {
        let units = scene.replicas[which].house.data.join("units");
        let folders = names(&units);
        if folders.is_empty() {
            return "nothing to kill";
        }
        let count = u64::try_from(folders.len()).unwrap();
        let folder = &folders[usize::try_from(self.below(count)).unwrap()];
        let note = fs::read(units.join(folder).join("state.json")).unwrap_or_default();
        let note: Value = serde_json::from_slice(&note).unwrap_or_default();
        let Some(pid) = note
            .pointer(who)
            .and_then(Value::as_i64)
            .and_then(|pid| i32::try_from(pid).ok())
        else {
            return "nothing to kill";
        };
        // Ended meanwhile is as good. A number that belongs to somebody else by now would be bad.
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

/// As an upgrade does it.
fn stop_replica(scene: &mut Scene, which: usize) -> &'static str {
    let house = &mut scene.replicas[which].house;
    house.running().signal(Signal::SIGTERM);
    let ended = house.program.as_mut().unwrap().wait(seconds(60));
    assert_eq!(ended, Some(0), "the end of a replica that was asked to stop");
    scene.replicas[which].serve();
    "a replica stopped"
}
