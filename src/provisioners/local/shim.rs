//! `tancho unit-shim <folder>`: the long-lived companion of one unit. It starts the unit's processes,
//! keeps their log, starts them again, and ends them; it outlives Tancho. Small: no runtime, five
//! threads that sleep.
//!
//! Standard input is the spec (see `handover`), standard output the held lock of the folder. Until it
//! is told to stop (SIGTERM; a second one means at once), the unit is: hooks, command, hooks; and
//! when the command ends, whatever is left of it is killed, and after a pause the command runs again.

use std::fs::OpenOptions;
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, setsid};

use super::family::{Family, Note};
use super::folder::{Folder, State, lock_range};
use super::handover::{Handover, environment};
use super::log::{self, Writer};
use super::proc::{self, Process};
use super::stage::{FAILED, Stage, close_inherited, wrapped};
use super::{LogStream, PORTS, UnitSpec, UnitState, cgroup};
use crate::kernel::size::Bytes;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A command that ran this long begins with the first pause again.
const SOUND: Duration = Duration::from_secs(60);
/// A hook may take this long.
const HOOK: Duration = Duration::from_secs(600);
/// A state that could not be written (a full disk) is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// How long to wait for the end of what was killed.
const KILLED: Duration = Duration::from_secs(5);

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
enum End {
    /// The shim was told to stop.
    Stop,
    /// The words for `reason`, and the exit status.
    Failed(String, Option<i32>),
}

struct Shim {
    folder: Folder,
    spec: UnitSpec,
    state: State,
    /// The state on disk is older than `state`.
    unsaved: bool,
    log: Arc<Mutex<Writer>>,
    family: Family,
    notes: Receiver<Note>,
    /// The newest count of children of which nothing is left.
    alone: u64,
    /// Told to stop at once.
    at_once: bool,
    /// Holds the port for us; released with us.
    ports: Option<std::fs::File>,
}

impl Shim {
    fn start(folder: Folder, signals: SigSet) -> io::Result<Self> {
        let handover = Handover::read(io::stdin())?;
        let parent = handover.cgroup.clone();
        let spec = handover.into_spec();
        let mut state = State::new(&spec);
        state.shim = Process::current();
        state.state = UnitState::Starting;
        let name = format!("tancho-{}-{}", spec.unit, Pid::this());
        state.cgroup = cgroup::make(parent.as_deref(), &name, spec.memory_bytes);

        let (tell, notes) = channel();
        let family = Family::default();
        let (reaper, told) = (family.clone(), tell.clone());
        helper("reaper", move || reaper.reap(&told))?;
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
            at_once: false,
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

    /// Gets the port and the home ready.
    fn open(&mut self) -> Result<(), End> {
        self.state.state = UnitState::Starting;
        let ready = self
            .claim_port()
            .and_then(|()| self.folder.create_home(self.spec.user));
        self.save();
        ready.map_err(|error| End::Failed(format!("could not be prepared: {error}"), None))
    }

    /// Keeps the port, or takes another if somebody else took it meanwhile. A port is claimed for this
    /// unit by locking the byte of that number in a file that all shims share.
    fn claim_port(&mut self) -> io::Result<()> {
        for attempt in 0..50 {
            let wanted = self.state.port.filter(|_| attempt == 0).unwrap_or(0);
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) else {
                continue;
            };
            let port = listener.local_addr()?.port();
            if self.ports.is_some() && self.state.port == Some(port) {
                return Ok(());
            }
            let shared = self.folder.path().with_file_name(PORTS);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(shared)?;
            if lock_range(&file, port.into(), 1)? {
                (self.ports, self.state.port) = (Some(file), Some(port));
                return Ok(());
            }
        }
        Err(io::Error::other("no free port was found"))
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
                Some(None) => {
                    return Err(End::Failed(
                        format!("{what} took longer than {} s", HOOK.as_secs()),
                        None,
                    ));
                }
                Some(Some(Some(status))) if status.success() => self.clear(),
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
        self.state.reason = None;
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

    fn spawn(&mut self, line: &str) -> Result<u32, End> {
        self.try_spawn(line)
            .map_err(|error| End::Failed(format!("could not be started: {error}"), None))
    }

    fn try_spawn(&mut self, line: &str) -> io::Result<u32> {
        let unlimited = self.spec.memory_bytes == 0 || self.state.cgroup.is_some();
        let stage = Stage {
            user: self.spec.user,
            dir: self.spec.dir.clone(),
            cgroup: self.state.cgroup.clone(),
            data: (!unlimited).then_some(self.spec.memory_bytes),
            parent: Some(Pid::this().as_raw()),
        };
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        let argv = ["/bin/sh", "-c", line].map(str::to_owned);
        let port = self.state.port.unwrap_or_default();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("tancho")
            .args(stage.arguments(&argv)?)
            .env_clear()
            .envs(wrapped(environment(&self.spec, &self.folder.home(), port)))
            .stdin(Stdio::null())
            .stdout(out_end)
            .stderr(err_end)
            .process_group(0);
        self.follow(out, LogStream::Stdout)?;
        self.follow(err, LogStream::Stderr)?;
        self.family.spawn(&mut command)
    }

    fn follow(&self, from: PipeReader, stream: LogStream) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        helper("log", move || {
            log::lines(from, |line| {
                if let Ok(mut log) = log.lock() {
                    log.line(stream, line);
                }
            });
        })
    }

    /// Waits for a note that fits. `None` = told to stop, `Some(None)` = too late.
    fn wait_for<T>(&mut self, until: Instant, fits: impl Fn(&Note) -> Option<T>) -> Option<Option<T>> {
        loop {
            match self.next_note(until) {
                Some(Note::Stop) => {
                    self.state.stopping = true;
                    self.save();
                    return None;
                }
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
                    if let Note::Alone(count) = note {
                        self.alone = self.alone.max(count);
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

    /// Waits until nothing is left of the unit. A further call to stop ends the wait.
    fn wait_alone(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.is_alone() && !self.at_once {
            match self.next_note(until) {
                Some(Note::Stop) => {
                    self.at_once |= self.state.stopping;
                    self.state.stopping = true;
                }
                Some(_) => {}
                None => break,
            }
        }
        self.is_alone()
    }

    /// Kills what is left of a run.
    fn clear(&mut self) {
        let until = Instant::now() + KILLED;
        // Most often nothing is left, and the news of it is on its way.
        let mut wait = Duration::from_millis(20);
        while !self.wait_alone(wait) && Instant::now() < until {
            self.kill_all();
            wait = Duration::from_millis(50);
            self.at_once = false;
        }
    }

    fn kill_all(&self) {
        self.family.signal(Signal::SIGKILL);
        if let Some(cgroup) = &self.state.cgroup {
            cgroup::kill_all(cgroup);
        }
        proc::kill_each(proc::descendants());
    }

    /// Asks all to end, kills what is left after the grace, and says so.
    fn stop(&mut self) {
        self.family.signal(Signal::SIGTERM);
        self.wait_alone(self.spec.grace);
        self.clear();
        if let Some(cgroup) = &self.state.cgroup {
            cgroup::remove(cgroup);
        }
        self.state.state = UnitState::Stopped;
        self.state.child = None;
        self.state.reason = Some("stopped on request".into());
        self.save();
    }

    fn save(&mut self) {
        self.unsaved = self.folder.write_state(&self.state).is_err();
    }

    fn say(&self, words: &str) {
        if let Ok(mut log) = self.log.lock() {
            log.say(words);
        }
    }

    /// How a process ended, in words and as a number. `kills`: of the cgroup, before the run.
    fn describe(&self, status: Option<ExitStatus>, kills: u64) -> (String, Option<i32>) {
        let Some(status) = status else {
            return ("ended; nobody could tell how".into(), None);
        };
        let exit = status.code().or(status.signal().map(|signal| 128 + signal));
        let now = self.state.cgroup.as_deref().map_or(0, cgroup::kills);
        let words = match (status.code(), status.signal()) {
            _ if now > kills => format!(
                "killed: over its memory limit of {}",
                Bytes(self.spec.memory_bytes)
            ),
            (Some(FAILED), _) => format!("exited with status {FAILED} (could not be started: see its log)"),
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".into(),
        };
        (words, exit)
    }
}

fn watch_signals(signals: &SigSet, tell: &Sender<Note>) {
    while let Ok(signal) = signals.wait() {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT) && tell.send(Note::Stop).is_err() {
            return;
        }
    }
}

/// A thread with a small stack.
fn helper(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(work)
        .map(drop)
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
