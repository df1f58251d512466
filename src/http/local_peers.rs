//! Identifies the peer of a connection from this machine: the kernel knows the user of each socket.
//!
//! Apps run on the machine of an API that listens on loopback, and reach it as its users do. Where Tancho
//! runs as root, each app has its own user, which identifies it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::unistd::{Uid, User};

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::request_context::{Actor, RequestContext};

/// The local address of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalAddress(pub(super) SocketAddr);

/// TCP_ESTABLISHED: both ends are open, so the socket has an owner.
const TCP_ESTABLISHED: &str = "01";

/// Refuses to let an app register a user: an app that authenticates as one, and an anonymous app where
/// everybody on this machine may register. Errors: `Forbidden`.
pub(super) async fn refuse_app_registration(
    core: &Core,
    call: &RequestContext,
    peer: Option<SocketAddr>,
    local: Option<LocalAddress>,
) -> Result<(), Error> {
    let refused = || {
        Error::forbidden(
            "An app cannot register users here; an administrator can, or the setting auth.registration.",
        )
    };
    if matches!(call.actor, Actor::App { .. }) {
        return Err(refused());
    }
    let (Some(peer), Some(LocalAddress(local))) = (peer, local) else {
        return Ok(());
    };
    let settings = &core.settings;
    let are_told_apart = core.data_dir.runs_as_root() && settings.local.first_uid > 0;
    if call.actor != Actor::Nobody
        || !are_told_apart
        || !settings.auth.is_open_on_loopback_only(&settings.api)
        || !peer.ip().to_canonical().is_loopback()
    {
        return Ok(());
    }
    let first_uid = settings.local.first_uid;
    let who = tokio::task::spawn_blocking(move || {
        find_socket_owner(peer, local).map(|uid| is_unit_uid(uid, first_uid))
    })
    .await
    .map_err(Error::internal)?;
    match who {
        Some(false) => Ok(()),
        Some(true) => Err(refused()),
        None => Err(Error::forbidden(
            "The process that sent this request is unknown: keep the connection open until the response has arrived.",
        )),
    }
}

/// Returns true for the users of units: numbers from `first_uid` on that no account of the machine has.
fn is_unit_uid(uid: u32, first_uid: u32) -> bool {
    uid >= first_uid && !matches!(User::from_uid(Uid::from_raw(uid)), Ok(Some(_)))
}

/// Returns the user of the socket at the other end of a connection from this machine. A closed socket has
/// none.
fn find_socket_owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    tables.iter().find_map(|table| {
        let lines = BufReader::new(File::open(table).ok()?).lines();
        lines
            .map_while(Result::ok)
            .find_map(|line| parse_socket_owner(&line, peer, local))
    })
}

fn parse_socket_owner(line: &str, peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [_, from, to, TCP_ESTABLISHED, _, _, _, uid, _, inode, ..] = fields.as_slice() else {
        return None;
    };
    let is_it = parse_proc_address(from)? == canonical_address(peer)
        && parse_proc_address(to)? == canonical_address(local);
    (is_it && *inode != "0").then(|| uid.parse().ok()).flatten()
}

fn canonical_address(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// Parses `0100007F:1F90`: 32-bit words in the machine's byte order, then the port.
fn parse_proc_address(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let words: Option<Vec<[u8; 4]>> = (0..address.len())
        .step_by(8)
        .map(|at| {
            let word = u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?;
            Some(word.to_ne_bytes())
        })
        .collect();
    let bytes = words?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)).to_canonical(),
        _ => return None,
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn socket_owner_is_found_only_while_open() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).unwrap();
            let (_server, peer) = listener.accept().unwrap();
            let us = Uid::effective().as_raw();
            assert_eq!(find_socket_owner(peer, local), Some(us), "{address}");
            // A different connection from the same port is not this one.
            let other = SocketAddr::new(local.ip(), local.port() ^ 1);
            assert_eq!(find_socket_owner(peer, other), None);
            drop(client);
            assert_eq!(
                find_socket_owner(peer, local),
                None,
                "nobody's, rather than root's"
            );
        }
    }

    #[test]
    fn kernel_socket_table_lines_are_parsed() {
        if cfg!(target_endian = "big") {
            return;
        }
        let line = "   1: 0100007F:D431 0100007F:1F90 01 00000000:00000000 00:00000000 00000000 200001        0 77 1 0";
        let (peer, local) = ("127.0.0.1:54321", "127.0.0.1:8080");
        let owner = |line: &str| parse_socket_owner(line, peer.parse().unwrap(), local.parse().unwrap());
        assert_eq!(owner(line), Some(200_001));
        assert_eq!(owner(&line.replace(" 77 ", " 0 ")), None);
        assert_eq!(owner(&line.replace(" 01 ", " 04 ")), None);
        assert_eq!(owner("  sl  local_address rem_address   st"), None);
        let mapped = line.replace("0100007F", "0000000000000000FFFF00000100007F");
        assert_eq!(owner(&mapped), Some(200_001));
    }
}
