//! `tancho unit-shim <folder>`: the long-running supervisor of one unit. It starts the unit's processes,
//! writes their log, restarts them, and ends them; it outlives Tancho. It is small: no async runtime, a few
//! threads that sleep.
//!
//! Standard input is the spec (see `spec_transfer`), standard output the held lock of the folder. Until it is
//! asked to stop (SIGTERM; SIGQUIT means at once), the unit runs its hooks, its command, and the hooks after
//! the start. When the command ends, the remaining processes are killed, and after a pause the command runs
//! again, unless the unit is not to be restarted: then it is stopped, with the exit status.

use std::io;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, setsid};

use super::folder::{ShimState, UnitFolder};
use super::launch::{shorten_line, spawn_thread};
use super::log::LogWriter;
use super::processes::{ShimEvent, UnitProcesses};
use super::spec_transfer::ShimSpec;
use super::volume_limit::{ForcedEnd, watch_marks};
use super::volumes::ShimVolume;
use super::{RestartPolicy, UnitState, scratch_limit};
use crate::kernel::host_clock::host_now;
use crate::sandbox::cgroup;
use crate::sandbox::exec_stage::close_inherited;
use crate::sandbox::proc::ProcessHandle;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Between two attempts to write the last state of a unit.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// After a run of this length the pauses start from the first again.
const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// Runs the shim until its unit is to stop.
pub fn run_shim() -> ExitCode {
    close_inherited();
    let Some(folder) = std::env::args_os().nth(2) else {
        return ExitCode::from(2);
    };
    // Blocked in every later thread, so that the thread that waits for signals receives them all.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        signals.add(signal);
    }
    match prepare_process(&signals)
        .and_then(|()| UnitShim::from_stdin(UnitFolder::from_path(folder), signals))
    {
        Ok(mut shim) => {
            shim.run_until_stopped();
            ExitCode::SUCCESS
        }
        // Standard error is a file in the folder, for this and for panics.
        Err(error) => {
            let _nowhere_to_tell = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn prepare_process(signals: &SigSet) -> io::Result<()> {
    signals.thread_block()?;
    // Fails only for the leader of a process group, which does not need it.
    let _already = setsid();
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/")?;
    prctl::set_child_subreaper(true)?;
    // Its memory contains secrets.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Why a run ended.
pub(super) enum RunEnd {
    /// The shim was asked to stop.
    Stop,
    /// The text for `reason`, and the exit status.
    Failed(String, Option<i32>),
}

/// A hook that runs beside the command.
struct RunningHook {
    pid: u32,
    line: String,
    deadline: Instant,
}

/// Returns an instant that no unit reaches.
fn never() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

pub(super) struct UnitShim {
    pub(super) folder: UnitFolder,
    pub(super) spec: ShimSpec,
    pub(super) state: ShimState,
    /// `state` has changes that are not saved.
    pub(super) unsaved: bool,
    pub(super) log: Arc<Mutex<LogWriter>>,
    pub(super) processes: UnitProcesses,
    pub(super) events: Receiver<ShimEvent>,
    /// The newest count of children of which no process is left.
    pub(super) ended_count: u64,
    /// The threads that read the unit's output.
    pub(super) log_readers: Vec<JoinHandle<()>>,
    /// The unit was asked to stop at once.
    pub(super) stop_now: bool,
    /// Why the running processes must end.
    pub(super) forced_end: Option<ForcedEnd>,
    /// Holds the port; released when dropped.
    pub(super) port_lock: Option<std::fs::File>,
}

impl UnitShim {
    fn from_stdin(folder: UnitFolder, signals: SigSet) -> io::Result<Self> {
        let spec = ShimSpec::read_from(io::stdin())?;
        let mut state = ShimState::new(&spec);
        state.shim = ProcessHandle::current();
        state.state = UnitState::Starting;
        let name = format!("tancho-{}-{}", spec.unit, Pid::this());
        let want = cgroup::CgroupRequest {
            memory: spec.memory_bytes,
            processes: spec.limits.processes,
            cpu_milli: spec.cpu_milli,
        };
        let made = cgroup::create_cgroups(spec.cgroup.as_deref(), &name, &want);
        (state.cgroup, state.more_cgroups) = (made.memory, made.others);

        let (tell, notes) = channel();
        let family = UnitProcesses::default();
        let (reaper, events) = (family.clone(), tell.clone());
        spawn_thread("reaper", move || reaper.reap_forever(&events))?;
        let scratch_bytes = spec.limits.scratch_bytes;
        if scratch_bytes > 0 {
            let (home, cgroup, tell) = (
                folder.home_dir(),
                state.cgroup_paths().next().cloned(),
                tell.clone(),
            );
            spawn_thread("scratch", move || {
                scratch_limit::watch_scratch(&home, cgroup.as_ref(), scratch_bytes, &tell);
            })?;
        }
        let volumes: Vec<ShimVolume> = spec.volumes.iter().filter(|v| v.is_bounded()).cloned().collect();
        if !volumes.is_empty() {
            let tell = tell.clone();
            spawn_thread("volumes", move || watch_marks(&volumes, &tell))?;
        }
        spawn_thread("signals", move || forward_signals(&signals, &tell))?;
        let log = Arc::new(Mutex::new(LogWriter::open(folder.path())));
        let mut shim = Self {
            folder,
            spec,
            state,
            unsaved: true,
            log,
            processes: family,
            events: notes,
            ended_count: 0,
            log_readers: Vec::new(),
            stop_now: false,
            forced_end: None,
            port_lock: None,
        };
        shim.save_state();
        Ok(shim)
    }

    fn run_until_stopped(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut prepared = false;
        loop {
            let began = Instant::now();
            let end = match self
                .prepare_run()
                .and_then(|()| if prepared { Ok(()) } else { self.run_before_hooks() })
            {
                Ok(()) => self.run_command(&mut prepared),
                Err(end) => end,
            };
            let RunEnd::Failed(reason, exit) = end else { break };
            self.kill_leftovers();
            if self.spec.restart == RestartPolicy::Never {
                return self.end_for_good(reason, exit);
            }
            if self
                .forced_end
                .take()
                .is_some_and(|cause| cause.empties_scratch())
            {
                let _seen_again = self.folder.empty_home();
            }
            if began.elapsed() >= HEALTHY_RUN {
                pause = FIRST_PAUSE;
            }
            self.log_notice(&format!(
                "{reason}; starting again in {:.1} s",
                pause.as_secs_f32()
            ));
            self.state.state = UnitState::Error;
            self.state.child = None;
            (self.state.reason, self.state.exit) = (Some(reason), exit);
            self.save_state();
            if self
                .wait_for_event(Instant::now() + pause, |_| None::<()>)
                .is_none()
            {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.state.restarts += 1;
        }
        self.stop_unit();
    }

    fn run_before_hooks(&mut self) -> Result<(), RunEnd> {
        for hook in self.spec.before.clone() {
            let pid = self.spawn_line(&hook)?;
            let ended = self.wait_for_event(self.hook_deadline(), |note| match note {
                ShimEvent::ChildEnded(ended, status) if *ended == pid => Some(*status),
                _ => None,
            });
            let what = format!("the hook {:?}", shorten_line(&hook));
            match ended {
                None => return Err(RunEnd::Stop),
                Some(None) => {
                    let cause = self.forced_end.as_ref().map(ForcedEnd::describe);
                    let words = cause.unwrap_or_else(|| self.hook_timeout_words(&hook));
                    return Err(RunEnd::Failed(words, None));
                }
                Some(Some(Some(status))) if status.success() => {}
                Some(Some(status)) => {
                    let (words, exit) = self.describe_exit(status, 0);
                    return Err(RunEnd::Failed(format!("{what} failed: {words}"), exit));
                }
            }
        }
        Ok(())
    }

    /// Runs the command until it ends and, once, the hooks after its start.
    fn run_command(&mut self, prepared: &mut bool) -> RunEnd {
        let kills = self.state.cgroup.as_deref().map_or(0, cgroup::count_oom_kills);
        let pid = match self.spawn_line(&self.spec.command.clone()) {
            Ok(pid) => pid,
            Err(end) => return end,
        };
        self.state.state = UnitState::Started;
        self.state.child = Some(pid);
        self.state.started_at = Some(host_now());
        self.save_state();
        let mut hooks = if std::mem::replace(prepared, true) {
            Vec::new()
        } else {
            self.spec.after.clone()
        };
        hooks.reverse();
        loop {
            let hook = self.start_next_hook(&mut hooks);
            let hook_pid = hook.as_ref().map(|hook| hook.pid);
            let until = hook.as_ref().map_or_else(never, |hook| hook.deadline);
            let ended = self.wait_for_event(until, |note| match note {
                ShimEvent::ChildEnded(ended, status) if *ended == pid || Some(*ended) == hook_pid => {
                    Some((*ended, *status))
                }
                _ => None,
            });
            let line = hook.map(|hook| hook.line).unwrap_or_default();
            match ended {
                None => return RunEnd::Stop,
                Some(Some((ended, status))) if ended == pid => {
                    let (words, exit) = self.describe_exit(status, kills);
                    return RunEnd::Failed(words, exit);
                }
                Some(Some((_, status))) if status.is_some_and(|status| status.success()) => {}
                Some(Some((_, status))) => {
                    let (words, _) = self.describe_exit(status, kills);
                    self.log_notice(&format!("the hook {:?} failed: {words}", shorten_line(&line)));
                }
                Some(None) => {
                    if let Some(cause) = &self.forced_end {
                        return RunEnd::Failed(cause.describe(), None);
                    }
                    if let Some(hook_pid) = hook_pid {
                        self.processes.signal_group_of(hook_pid, Signal::SIGKILL);
                        self.log_notice(&format!("{}, and is killed", self.hook_timeout_words(&line)));
                    }
                }
            }
        }
    }

    /// Starts the next hook that can be started; `None` if there is none.
    fn start_next_hook(&mut self, hooks: &mut Vec<String>) -> Option<RunningHook> {
        while let Some(line) = hooks.pop() {
            match self.spawn_line(&line) {
                Ok(pid) => {
                    let deadline = self.hook_deadline();
                    return Some(RunningHook { pid, line, deadline });
                }
                Err(RunEnd::Failed(words, _)) => {
                    self.log_notice(&format!("the hook {:?} {words}", shorten_line(&line)));
                }
                Err(RunEnd::Stop) => return None,
            }
        }
        None
    }

    fn hook_deadline(&self) -> Instant {
        match self.spec.limits.hook_seconds {
            0 => never(),
            seconds => Instant::now() + Duration::from_secs(seconds),
        }
    }

    fn hook_timeout_words(&self, line: &str) -> String {
        let seconds = self.spec.limits.hook_seconds;
        format!("the hook {:?} took longer than {seconds} s", shorten_line(line))
    }

    /// Reports the end of a unit that is not restarted. It is written however long that takes: without it, the unit
    /// would count as killed.
    fn end_for_good(&mut self, reason: String, exit: Option<i32>) {
        for cgroup in self.state.cgroup_paths() {
            let _killed_above = cgroup::kill_and_remove(cgroup);
        }
        self.state.state = UnitState::Stopped;
        self.state.child = None;
        (self.state.reason, self.state.exit) = (Some(reason), exit);
        self.save_state();
        while self.unsaved && !self.state.stopping {
            let _saves_again = self.wait_for_event(Instant::now() + SAVE_INTERVAL, |_| None::<()>);
        }
    }

    /// Signals all processes to end, kills the rest after the grace period, and saves the state.
    fn stop_unit(&mut self) {
        self.processes.signal_groups(Signal::SIGTERM);
        self.wait_until_empty(self.spec.grace);
        self.kill_leftovers();
        for cgroup in self.state.cgroup_paths() {
            if !cgroup::kill_and_remove(cgroup) {
                self.log_notice(&format!(
                    "cannot kill all processes of the unit: see {}",
                    cgroup.display()
                ));
            }
        }
        self.state.state = UnitState::Stopped;
        self.state.child = None;
        self.state.reason = Some("stopped on request".into());
        self.save_state();
    }

    pub(super) fn save_state(&mut self) {
        self.unsaved = self.folder.write_state(&self.state).is_err();
    }

    fn log_notice(&self, words: &str) {
        if let Ok(mut log) = self.log.lock() {
            log.write_notice(words);
        }
    }
}

fn forward_signals(signals: &SigSet, tell: &Sender<ShimEvent>) {
    while let Ok(signal) = signals.wait() {
        let note = match signal {
            Signal::SIGTERM | Signal::SIGINT => ShimEvent::Stop,
            Signal::SIGQUIT => ShimEvent::StopNow,
            _ => continue,
        };
        if tell.send(note).is_err() {
            return;
        }
    }
}
