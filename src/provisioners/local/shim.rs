//! `tancho unit-shim <folder>`: the long-lived companion of one unit. It starts the unit's processes,
//! keeps their log, starts them again, and ends them; it outlives Tancho. Small: no runtime, a few
//! threads that sleep.
//!
//! Standard input is the spec (see `handover`), standard output the held lock of the folder. Until it
//! is told to stop (SIGTERM; SIGQUIT means at once), the unit is: hooks, command, hooks; and
//! when the command ends, whatever is left of it is killed, and after a pause the command runs again.

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

use super::family::{Family, Note};
use super::folder::{Folder, State};
use super::handover::Handover;
use super::launch::{helper, shorten};
use super::log::{self, Writer};
use super::proc::Process;
use super::{Bounds, UnitSpec, UnitState, cgroup, scratch};
use crate::confine::stage::close_inherited;
use crate::kernel::size::Bytes;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A command that ran this long begins with the first pause again.
const SOUND: Duration = Duration::from_secs(60);
/// A hook may take this long.
const HOOK: Duration = Duration::from_secs(600);

/// Runs the shim until its unit is to stop.
pub fn main() -> ExitCode {
    close_inherited();
    let Some(folder) = std::env::args_os().nth(2) else {
        return ExitCode::from(2);
    };
    // Blocked in every thread to come, so that the one that waits for them gets them all.
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
    match prepare(&signals).and_then(|()| Shim::start(Folder::at(folder), signals)) {
        Ok(mut shim) => {
            shim.live();
            ExitCode::SUCCESS
        }
        // Standard error is a file in the folder, for this and for panics.
        Err(error) => {
            let _nowhere_to_tell = io::Write::write_all(&mut io::stderr(), format!("{error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn prepare(signals: &SigSet) -> io::Result<()> {
    signals.thread_block()?;
    // Fails only for the leader of a group, which then has what it needs.
    let _already = setsid();
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/")?;
    prctl::set_child_subreaper(true)?;
    // Its memory holds secrets.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Why a run ended.
pub(super) enum End {
    /// The shim was told to stop.
    Stop,
    /// The words for `reason`, and the exit status.
    Failed(String, Option<i32>),
}

pub(super) struct Shim {
    pub(super) folder: Folder,
    pub(super) spec: UnitSpec,
    pub(super) state: State,
    /// The state on disk is older than `state`.
    pub(super) unsaved: bool,
    pub(super) log: Arc<Mutex<Writer>>,
    pub(super) family: Family,
    pub(super) notes: Receiver<Note>,
    /// The newest count of children of which nothing is left.
    pub(super) alone: u64,
    /// The threads that read what the unit says.
    pub(super) followers: Vec<JoinHandle<()>>,
    /// Told to stop at once.
    pub(super) at_once: bool,
    /// The scratch home holds too much: what runs must end.
    pub(super) full: bool,
    pub(super) bounds: Bounds,
    /// Holds the port for us; released with us.
    pub(super) ports: Option<std::fs::File>,
}

impl Shim {
    fn start(folder: Folder, signals: SigSet) -> io::Result<Self> {
        let handover = Handover::read(io::stdin())?;
        let (parent, bounds) = (handover.cgroup.clone(), handover.bounds.clone());
        let spec = handover.into_spec();
        let mut state = State::new(&spec);
        state.shim = Process::current();
        state.state = UnitState::Starting;
        let name = format!("tancho-{}-{}", spec.unit, Pid::this());
        let want = cgroup::Want {
            memory: spec.memory_bytes,
            processes: bounds.processes,
            cpu_milli: spec.cpu_milli,
        };
        let made = cgroup::make(parent.as_deref(), &name, &want);
        (state.cgroup, state.more_cgroups) = (made.memory, made.more);

        let (tell, notes) = channel();
        let family = Family::default();
        let (reaper, told) = (family.clone(), tell.clone());
        helper("reaper", move || reaper.reap(&told))?;
        if bounds.scratch_bytes > 0 {
            let (home, cgroup, tell) = (folder.home(), state.cgroups().next().cloned(), tell.clone());
            helper("scratch", move || {
                scratch::watch(&home, cgroup.as_ref(), bounds.scratch_bytes, &tell);
            })?;
        }
        helper("signals", move || watch_signals(&signals, &tell))?;
        let log = Arc::new(Mutex::new(Writer::open(folder.path())));
        let mut shim = Self {
            folder,
            spec,
            state,
            unsaved: true,
            log,
            family,
            notes,
            alone: 0,
            followers: Vec::new(),
            at_once: false,
            full: false,
            bounds,
            ports: None,
        };
        shim.save();
        Ok(shim)
    }

    fn live(&mut self) {
        let mut pause = FIRST_PAUSE;
        let mut prepared = false;
        loop {
            let began = Instant::now();
            let end = match self
                .open()
                .and_then(|()| if prepared { Ok(()) } else { self.before() })
            {
                Ok(()) => self.command(&mut prepared),
                Err(end) => end,
            };
            let End::Failed(reason, exit) = end else { break };
            self.clear();
            if std::mem::take(&mut self.full) {
                let _seen_again = self.folder.empty_home();
            }
            if began.elapsed() >= SOUND {
                pause = FIRST_PAUSE;
            }
            self.say(&format!(
                "{reason}; starting again in {:.1} s",
                pause.as_secs_f32()
            ));
            self.state.state = UnitState::Error;
            self.state.child = None;
            (self.state.reason, self.state.exit) = (Some(reason), exit);
            self.save();
            if self.wait_for(Instant::now() + pause, |_| None::<()>).is_none() {
                break;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.state.restarts += 1;
        }
        self.stop();
    }

    fn before(&mut self) -> Result<(), End> {
        for hook in self.spec.before.clone() {
            let pid = self.spawn(&hook)?;
            let ended = self.wait_for(Instant::now() + HOOK, |note| match note {
                Note::Ended(ended, status) if *ended == pid => Some(*status),
                _ => None,
            });
            let what = format!("the hook {:?}", shorten(&hook));
            match ended {
                None => return Err(End::Stop),
                Some(None) if self.full => return Err(self.overfull()),
                Some(None) => {
                    return Err(End::Failed(
                        format!("{what} took longer than {} s", HOOK.as_secs()),
                        None,
                    ));
                }
                Some(Some(Some(status))) if status.success() => {}
                Some(Some(status)) => {
                    let (words, exit) = self.describe(status, 0);
                    return Err(End::Failed(format!("{what} failed: {words}"), exit));
                }
            }
        }
        Ok(())
    }

    /// Runs the command until it ends, and beside it, once, the hooks that come after its start.
    fn command(&mut self, prepared: &mut bool) -> End {
        let kills = self.state.cgroup.as_deref().map_or(0, cgroup::kills);
        let pid = match self.spawn(&self.spec.command.clone()) {
            Ok(pid) => pid,
            Err(end) => return end,
        };
        self.state.state = UnitState::Started;
        self.state.child = Some(pid);
        self.state.started_at = Some(log::now());
        self.save();
        let mut hooks = if std::mem::replace(prepared, true) {
            Vec::new()
        } else {
            self.spec.after.clone()
        };
        hooks.reverse();
        loop {
            let hook = hooks.pop().map(|line| (self.spawn(&line).ok(), line));
            let hook_pid = hook.as_ref().and_then(|(pid, _)| *pid);
            let far = Duration::from_secs(365 * 24 * 3600);
            let ended = loop {
                let limit = if hook_pid.is_some() { HOOK } else { far };
                let ended = self.wait_for(Instant::now() + limit, |note| match note {
                    Note::Ended(ended, status) if *ended == pid || Some(*ended) == hook_pid => {
                        Some((*ended, *status))
                    }
                    _ => None,
                });
                match ended {
                    None => return End::Stop,
                    Some(Some(ended)) => break ended,
                    Some(None) if self.full => return self.overfull(),
                    Some(None) => {}
                }
            };
            let (ended, status) = ended;
            if ended == pid {
                let (words, exit) = self.describe(status, kills);
                return End::Failed(words, exit);
            }
            if !status.is_some_and(|status| status.success()) {
                let line = hook.map(|(_, line)| line).unwrap_or_default();
                let (words, _) = self.describe(status, kills);
                self.say(&format!("the hook {:?} failed: {words}", shorten(&line)));
            }
        }
    }

    fn overfull(&self) -> End {
        let limit = Bytes(self.bounds.scratch_bytes);
        End::Failed(
            format!("killed: its scratch files were more than {limit}, and are removed"),
            None,
        )
    }

    /// Asks all to end, kills what is left after the grace, and says so.
    fn stop(&mut self) {
        self.family.signal(Signal::SIGTERM);
        self.wait_alone(self.spec.grace);
        self.clear();
        for cgroup in self.state.cgroups() {
            cgroup::remove(cgroup);
        }
        self.state.state = UnitState::Stopped;
        self.state.child = None;
        self.state.reason = Some("stopped on request".into());
        self.save();
    }

    pub(super) fn save(&mut self) {
        self.unsaved = self.folder.write_state(&self.state).is_err();
    }

    fn say(&self, words: &str) {
        if let Ok(mut log) = self.log.lock() {
            log.say(words);
        }
    }
}

fn watch_signals(signals: &SigSet, tell: &Sender<Note>) {
    while let Ok(signal) = signals.wait() {
        let note = match signal {
            Signal::SIGTERM | Signal::SIGINT => Note::Stop,
            Signal::SIGQUIT => Note::StopNow,
            _ => continue,
        };
        if tell.send(note).is_err() {
            return;
        }
    }
}
