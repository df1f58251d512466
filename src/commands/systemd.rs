//! What systemd and Tancho say to each other: sockets that systemd has opened (`LISTEN_FDS`), and that Tancho is ready
//! (`NOTIFY_SOCKET`).

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use crate::commands::listeners::{GivenListeners, ListenerName};
use crate::config::process_variable;
use crate::kernel::error::Error;

/// The first descriptor that systemd passes.
const FIRST_DESCRIPTOR: i32 = 3;
/// More than Tancho has listeners: what comes beyond is a mistake of the settings.
const MAX_SOCKETS: i32 = 16;

/// Sockets that systemd has passed to this process, with the names of their units.
#[derive(Debug, Default)]
pub struct ActivationSockets(Vec<(String, OwnedFd)>);

impl ActivationSockets {
    /// Takes the sockets out of the environment. The descriptors that systemd has opened may be closed afterwards.
    pub fn from_environment() -> Self {
        let own = std::process::id().to_string();
        let count = match process_variable("LISTEN_PID") {
            Some(pid) if pid == own => process_variable("LISTEN_FDS")
                .and_then(|count| count.parse().ok())
                .unwrap_or(0),
            _ => 0,
        };
        let names = process_variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let sockets = (0..i32::min(count, MAX_SOCKETS)).filter_map(|number| {
            let name = names.next().unwrap_or_default().to_owned();
            Some((name, duplicate_descriptor(FIRST_DESCRIPTOR + number)?))
        });
        Self(sockets.collect())
    }

    /// Returns the descriptors that this process must keep.
    pub fn descriptors(&self) -> Vec<i32> {
        use std::os::fd::AsRawFd;
        self.0.iter().map(|(_, socket)| socket.as_raw_fd()).collect()
    }

    /// Returns the sockets as listeners. A name that is none of Tancho's is that of the unit: its address counts.
    pub(super) fn into_listeners(self) -> Result<GivenListeners, Error> {
        let mut given = GivenListeners::default();
        for (name, socket) in self.0 {
            given.push(ListenerName::parse(&name), socket)?;
        }
        Ok(given)
    }
}

/// Opens a descriptor of this process once more, by its number; it is not passed on to programs.
fn duplicate_descriptor(number: i32) -> Option<OwnedFd> {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    pidfd_getfd(own, number, PidfdGetfdFlags::empty()).ok()
}

/// Says that this process is ready, and is the main one of its service from now on.
pub(super) fn notify_ready() {
    let Some(path) = process_variable("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let state = format!("READY=1\nMAINPID={}", std::process::id());
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell systemd that this process is ready");
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn descriptor_is_opened_once_more_by_its_number() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let again = duplicate_descriptor(socket.as_raw_fd()).unwrap();
        let sockets = ActivationSockets(vec![("api".to_owned(), again)]);
        assert_ne!(sockets.descriptors(), [socket.as_raw_fd()]);
        sockets.into_listeners().unwrap();
        assert!(duplicate_descriptor(1_000_000).is_none());
    }
}
