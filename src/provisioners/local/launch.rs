//! How a shim starts a process of its unit: the port, the home, the pipes to the log, the last step;
//! and how it tells how a process ended.

use std::fs::OpenOptions;
use std::io::{self, PipeReader};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::unistd::Pid;

use super::folder::lock_range;
use super::handover::environment;
use super::log;
use super::shim::{End, Shim};
use super::{LogStream, PORTS, UnitState, cgroup};
use crate::confine::stage::{FAILED, wrapped};
use crate::kernel::size::Bytes;

/// Below those that the kernel picks for who does not care (from 32768 on): nobody gets one by chance while its
/// unit is between two lives.
const UNIT_PORTS: Range<u16> = 20_000..26_000;

fn random() -> [u8; 2] {
    let [first, second, ..] = *uuid::Uuid::new_v4().as_bytes();
    [first, second]
}

impl Shim {
    /// Gets the port and the home ready.
    pub(super) fn open(&mut self) -> Result<(), End> {
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
        for attempt in 0..200 {
            let any = UNIT_PORTS.start + u16::from_le_bytes(random()) % (UNIT_PORTS.end - UNIT_PORTS.start);
            let wanted = self.state.port.filter(|_| attempt == 0).unwrap_or(any);
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

    pub(super) fn spawn(&mut self, line: &str) -> Result<u32, End> {
        self.try_spawn(line)
            .map_err(|error| End::Failed(format!("could not be started: {error}"), None))
    }

    fn try_spawn(&mut self, line: &str) -> io::Result<u32> {
        let parent = Some(Pid::this().as_raw());
        let stage = self.bounds.stage(&self.spec, &self.state, &self.folder, parent);
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

    fn follow(&mut self, from: PipeReader, stream: LogStream) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        self.followers.push(helper("log", move || {
            log::lines(from, |line| {
                if let Ok(mut log) = log.lock() {
                    log.line(stream, line);
                }
            });
        })?);
        Ok(())
    }

    /// How a process ended, in words and as a number. `kills`: of the cgroup, before the run.
    pub(super) fn describe(&self, status: Option<ExitStatus>, kills: u64) -> (String, Option<i32>) {
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

/// A thread with a small stack.
pub(super) fn helper(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(work)
}

pub(super) fn shorten(line: &str) -> String {
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
