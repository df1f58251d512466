//! The listening sockets of a process: given by the process that ran before or by systemd, or bound.
//!
//! A given socket is used for the listener of its name if it has the address of the settings. So a new address in the
//! settings takes effect at an upgrade.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::config::{ServerRole, Settings};
use crate::kernel::error::Error;

/// The purpose of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ListenerName {
    Api,
    ApiHttps,
    Ssh,
    Router,
    RouterHttps,
}

impl ListenerName {
    const ALL: [Self; 5] = [
        Self::Api,
        Self::ApiHttps,
        Self::Ssh,
        Self::Router,
        Self::RouterHttps,
    ];

    /// Parses a name as systemd gives it (`FileDescriptorName=`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::ApiHttps => "api_https",
            Self::Ssh => "ssh",
            Self::Router => "router",
            Self::RouterHttps => "router_https",
        }
    }

    /// The option that sets the address, for messages.
    fn option(self) -> &'static str {
        match self {
            Self::Api | Self::ApiHttps => "api",
            Self::Ssh => "ssh",
            Self::Router | Self::RouterHttps => "router",
        }
    }

    fn role(self) -> ServerRole {
        match self {
            Self::Api | Self::ApiHttps | Self::Ssh => ServerRole::Api,
            Self::Router | Self::RouterHttps => ServerRole::Router,
        }
    }

    /// The address of the settings; `None` if the process is not to have the listener.
    fn address(self, settings: &Settings) -> Option<SocketAddr> {
        let address = match self {
            Self::Api => Some(settings.api.listen),
            Self::ApiHttps => settings.api.https_listen,
            Self::Ssh => settings.ssh.listen,
            Self::Router => Some(settings.router.listen),
            Self::RouterHttps => settings.router.https_listen,
        };
        address.filter(|_| settings.roles.contains(&self.role()))
    }
}

/// Sockets that another process has opened.
#[derive(Debug, Default)]
pub(super) struct GivenListeners(Vec<GivenListener>);

#[derive(Debug)]
struct GivenListener {
    /// `None`: told by its address.
    name: Option<ListenerName>,
    address: SocketAddr,
    socket: std::net::TcpListener,
}

impl GivenListeners {
    /// Adds a socket. Errors: `Invalid` if it does not listen for TCP connections.
    pub(super) fn push(&mut self, name: Option<ListenerName>, socket: OwnedFd) -> Result<(), Error> {
        let listens = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
        let socket = std::net::TcpListener::from(socket);
        let refused =
            || Error::invalid("A socket that was given to Tancho does not listen for TCP connections.");
        let address = socket.local_addr().map_err(|_| refused())?;
        if !listens {
            return Err(refused());
        }
        socket.set_nonblocking(true).map_err(Error::internal)?;
        self.0.push(GivenListener {
            name,
            address,
            socket,
        });
        Ok(())
    }

    /// Removes and returns the socket for a listener.
    fn take(&mut self, name: ListenerName, address: SocketAddr) -> Option<std::net::TcpListener> {
        let fits = |given: &GivenListener| {
            let is_same = match address.port() {
                0 => given.address.ip() == address.ip(),
                _ => given.address == address,
            };
            match given.name {
                Some(known) => known == name && is_same,
                None => given.address == address,
            }
        };
        let at = self.0.iter().position(fits)?;
        Some(self.0.swap_remove(at).socket)
    }

    /// Errors: `Invalid` if a socket is left: systemd would keep it open, and nobody would answer.
    pub(super) fn refuse_rest(&self) -> Result<(), Error> {
        match self.0.first() {
            None => Ok(()),
            Some(left) => Err(Error::invalid(format!(
                "The socket {} that systemd gives belongs to no listener of the settings; give its unit the \
                 `FileDescriptorName=` api, api_https, ssh, router or router_https, and the address of the settings.",
                left.address
            ))),
        }
    }
}

/// The listeners of a process.
pub(super) struct ProcessListeners(Vec<(ListenerName, TcpListener)>);

impl ProcessListeners {
    /// Opens what the settings name, from what was given where it fits. Must be called inside a runtime.
    pub(super) async fn open(settings: &Settings, given: &mut GivenListeners) -> Result<Self, Error> {
        let mut opened = Vec::new();
        for name in ListenerName::ALL {
            let Some(address) = name.address(settings) else {
                continue;
            };
            let listener = match given.take(name, address) {
                Some(socket) => TcpListener::from_std(socket).map_err(Error::internal)?,
                None => bind_listener(name, address).await?,
            };
            opened.push((name, listener));
        }
        Ok(Self(opened))
    }

    /// Removes and returns a listener.
    pub(super) fn take(&mut self, name: ListenerName) -> Option<TcpListener> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Returns the address of a listener, or that of the settings where it belongs to another process.
    pub(super) fn address_or(&self, name: ListenerName, settings: SocketAddr) -> Result<SocketAddr, Error> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map_or(Ok(settings), |(_, listener)| {
            listener.local_addr().map_err(Error::internal)
        })
    }

    /// Opens every listener once more, for the process that comes after this one.
    pub(super) fn duplicate(&self) -> Result<Vec<(ListenerName, OwnedFd)>, Error> {
        let duplicated = self
            .0
            .iter()
            .map(|(name, listener)| Ok((*name, listener.as_fd().try_clone_to_owned()?)));
        duplicated
            .collect::<std::io::Result<_>>()
            .map_err(Error::internal)
    }
}

async fn bind_listener(name: ListenerName, address: SocketAddr) -> Result<TcpListener, Error> {
    let option = name.option();
    TcpListener::bind(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => Error::conflict(format!(
                "{address} is in use: give the {option} another address with --{option}, or port 0."
            )),
            _ => Error::invalid(format!("The {option} cannot listen on {address}: {error}.")),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> (OwnedFd, SocketAddr) {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (socket.into(), address)
    }

    fn worker_settings() -> Settings {
        let mut settings = Settings::defaults();
        settings.roles = vec![ServerRole::Worker];
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        (settings.api.listen, settings.router.listen) = (any, any);
        settings.ssh.listen = None;
        settings
    }

    #[tokio::test]
    async fn port_is_bound_only_by_a_process_with_its_role() {
        let mut settings = worker_settings();
        let mut given = GivenListeners::default();
        let opened = ProcessListeners::open(&settings, &mut given).await.unwrap();
        assert!(opened.0.is_empty());
        settings.roles.push(ServerRole::Api);
        let mut opened = ProcessListeners::open(&settings, &mut given).await.unwrap();
        assert_eq!(opened.duplicate().unwrap().len(), 1);
        assert!(opened.take(ListenerName::Api).is_some() && opened.take(ListenerName::Api).is_none());
    }

    #[tokio::test]
    async fn given_socket_is_used_for_its_name_and_address_alone() {
        let mut settings = worker_settings();
        settings.roles = vec![ServerRole::Api, ServerRole::Router];
        let mut given = GivenListeners::default();
        let (api, api_address) = socket();
        let (router, router_address) = socket();
        given.push(Some(ListenerName::Api), api).unwrap();
        given.push(None, router).unwrap();
        settings.router.listen = router_address;
        let opened = ProcessListeners::open(&settings, &mut given).await.unwrap();
        let any = settings.api.listen;
        assert_eq!(opened.address_or(ListenerName::Api, any).unwrap(), api_address);
        assert_eq!(
            opened.address_or(ListenerName::Router, any).unwrap(),
            router_address
        );
        given.refuse_rest().unwrap();
        // Another address in the settings: the given socket is left over.
        let (api, given_address) = socket();
        given.push(Some(ListenerName::Api), api).unwrap();
        settings.api.listen = "127.0.0.2:0".parse().unwrap();
        settings.roles = vec![ServerRole::Api];
        let opened = ProcessListeners::open(&settings, &mut given).await.unwrap();
        assert_ne!(opened.address_or(ListenerName::Api, any).unwrap(), given_address);
        let words = given.refuse_rest().unwrap_err().to_string();
        assert!(words.contains(&given_address.to_string()), "{words}");
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        for socket in [OwnedFd::from(one), OwnedFd::from(udp), OwnedFd::from(file)] {
            assert!(GivenListeners::default().push(None, socket).is_err());
        }
        assert_eq!(
            ListenerName::parse("router_https"),
            Some(ListenerName::RouterHttps)
        );
        assert_eq!(ListenerName::parse("unknown"), None);
    }
}
