//! How a shim starts a process of its unit: the port, the home, the log pipes, the exec stage; and how it
//! describes the end of a process.

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
use super::log;
use super::shim::{RunEnd, UnitShim};
use super::spec_transfer::unit_env;
use super::{LogStream, PORTS_FILE, UnitState};
use crate::kernel::byte_size::ByteSize;
use crate::sandbox::cgroup;
use crate::sandbox::exec_stage::{FAILED, prefix_env};
use crate::sandbox::shell::shell_for;

/// Below the ephemeral ports that the kernel usually picks (from 32768 on): no other program gets a unit's
/// port by chance while the unit restarts.
const UNIT_PORTS: Range<u16> = 20_000..26_000;
/// A smaller range is too small for units.
const MIN_PORTS: usize = 1_000;

/// Chooses the ports for units on a host whose ephemeral ports are `first` to `last`.
fn choose_port_range(first: u16, last: u16) -> Range<u16> {
    let beyond = last.saturating_add(1);
    let candidates = [
        UNIT_PORTS.start..UNIT_PORTS.end.min(first),
        UNIT_PORTS.start.max(beyond)..UNIT_PORTS.end,
        10_000..first.min(UNIT_PORTS.end),
        2_000..first,
        beyond..u16::MAX,
    ];
    let enough = candidates.into_iter().find(|ports| ports.len() >= MIN_PORTS);
    enough.unwrap_or(UNIT_PORTS)
}

/// Returns the port range for this host.
fn host_port_range() -> Range<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut range = text.split_whitespace().map(|port| port.parse().ok());
    match (range.next().flatten(), range.next().flatten()) {
        (Some(first), Some(last)) => choose_port_range(first, last),
        _ => UNIT_PORTS,
    }
}

fn random_bytes() -> [u8; 2] {
    let [first, second, ..] = *uuid::Uuid::new_v4().as_bytes();
    [first, second]
}

impl UnitShim {
    /// Prepares the port and the home.
    pub(super) fn prepare_run(&mut self) -> Result<(), RunEnd> {
        self.state.state = UnitState::Starting;
        let ready = self
            .claim_port()
            .and_then(|()| self.folder.create_home(self.spec.user));
        self.save_state();
        ready.map_err(|error| RunEnd::Failed(format!("could not be prepared: {error}"), None))
    }

    /// Keeps the port, or takes another one if it is in use meanwhile. A port is claimed for this unit by
    /// locking the byte of that number in a file that all shims share.
    fn claim_port(&mut self) -> io::Result<()> {
        let ports = host_port_range();
        for attempt in 0..200 {
            let any = ports.start + u16::from_le_bytes(random_bytes()) % (ports.end - ports.start);
            let wanted = self.state.port.filter(|_| attempt == 0).unwrap_or(any);
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, wanted)) else {
                continue;
            };
            let port = listener.local_addr()?.port();
            if self.port_lock.is_some() && self.state.port == Some(port) {
                return Ok(());
            }
            let shared = self.folder.path().with_file_name(PORTS_FILE);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(shared)?;
            if lock_range(&file, port.into(), 1)? {
                (self.port_lock, self.state.port) = (Some(file), Some(port));
                return Ok(());
            }
        }
        Err(io::Error::other("no free port was found"))
    }

    pub(super) fn spawn_line(&mut self, line: &str) -> Result<u32, RunEnd> {
        self.try_spawn(line)
            .map_err(|error| RunEnd::Failed(format!("could not be started: {error}"), None))
    }

    fn try_spawn(&mut self, line: &str) -> io::Result<u32> {
        let parent = Some(Pid::this().as_raw());
        let stage = self
            .spec
            .limits
            .build_stage(&self.spec, &self.state, &self.folder, parent);
        let (out, out_end) = io::pipe()?;
        let (err, err_end) = io::pipe()?;
        let shell = shell_for(self.spec.env.iter().map(|(name, _)| name.as_str()));
        let argv = [shell, "-c", line].map(str::to_owned);
        let port = self.state.port.unwrap_or_default();
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("tancho")
            .args(stage.command_args(&argv)?)
            .env_clear()
            .envs(prefix_env(unit_env(&self.spec, &self.folder.home_dir(), port)))
            .stdin(Stdio::null())
            .stdout(out_end)
            .stderr(err_end)
            .process_group(0);
        self.forward_output(out, LogStream::Stdout)?;
        self.forward_output(err, LogStream::Stderr)?;
        self.processes.spawn_child(&mut command)
    }

    fn forward_output(&mut self, from: PipeReader, stream: LogStream) -> io::Result<()> {
        let log = Arc::clone(&self.log);
        self.log_readers.push(spawn_thread("log", move || {
            log::read_lines(from, |line| {
                if let Ok(mut log) = log.lock() {
                    log.write_line(stream, line);
                }
            });
        })?);
        Ok(())
    }

    /// Describes the end of a process, as a message and as a number. `kills` is the cgroup's OOM kill count
    /// before the run.
    pub(super) fn describe_exit(&self, status: Option<ExitStatus>, kills: u64) -> (String, Option<i32>) {
        let Some(status) = status else {
            return ("ended with an unknown status".into(), None);
        };
        let exit = status.code().or(status.signal().map(|signal| 128 + signal));
        let now = self.state.cgroup.as_deref().map_or(0, cgroup::count_oom_kills);
        let message = match (status.code(), status.signal()) {
            _ if now > kills => format!(
                "killed: over its memory limit of {}",
                ByteSize(self.spec.memory_bytes)
            ),
            (Some(FAILED), _) => format!("exited with status {FAILED} (could not be started: see its log)"),
            (Some(code), _) => format!("exited with status {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => "ended".into(),
        };
        (message, exit)
    }
}

/// Spawns a thread with a small stack.
pub(super) fn spawn_thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(name.into())
        .stack_size(128 << 10)
        .spawn(work)
}

pub(super) fn shorten_line(line: &str) -> String {
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_ports_avoid_the_ephemeral_range() {
        assert_eq!(choose_port_range(32_768, 60_999), UNIT_PORTS);
        for (first, last) in [
            (1_024, 65_535 - 1_100),
            (22_000, 65_535),
            (15_000, 30_000),
            (5_000, 65_535),
            (1_024, 24_000),
        ] {
            let ports = choose_port_range(first, last);
            assert!(ports.len() >= MIN_PORTS, "{first}-{last}: {ports:?}");
            assert!(
                ports.end <= first || ports.start > last,
                "{first}-{last}: {ports:?}"
            );
        }
        // There is no better range.
        assert_eq!(choose_port_range(1_024, 65_535), UNIT_PORTS);
    }
}
