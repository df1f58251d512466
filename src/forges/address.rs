//! Addresses of repositories: HTTP URLs, and SSH in both of git's notations.

use std::fmt;
use std::net::Ipv6Addr;

use url::Url;

use crate::kernel::error::Error;

const MAX_LENGTH: usize = 2000;
const DEFAULT_SSH_PORT: u16 = 22;
/// The user if the address names none.
const DEFAULT_USER: &str = "git";

/// The address of a repository; it contains no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ForgeAddress {
    /// `http(s)`, without user name, password, query or fragment.
    Http(Url),
    Ssh(SshAddress),
}

/// An SSH server and the path of a repository there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SshAddress {
    pub(super) user: String,
    /// A host name or an IP address; IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As git sends it: `path` for `user@host:path`, `/path` for `ssh://host/path`.
    path: String,
}

impl ForgeAddress {
    /// Parses `https://host/path`, `ssh://[user@]host[:port]/path` or `user@host:path`. Characters with a
    /// meaning to a shell, and option syntax, are refused.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let found = match text.strip_prefix("ssh://") {
            _ if text.len() > MAX_LENGTH => None,
            Some(rest) => parse_ssh_url(rest).map(Self::Ssh),
            None if !text.contains("://") => parse_scp_form(text).map(Self::Ssh),
            None => parse_http_url(text).map(Self::Http),
        };
        found.ok_or_else(|| {
            Error::invalid(
                "Give the repository's address as https://host/path.git, ssh://user@host:port/path.git or \
                 user@host:path.git; a user name and a password for https go into fields of their own.",
            )
        })
    }
}

impl fmt::Display for ForgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Ssh(ssh) => ssh.fmt(f),
        }
    }
}

impl fmt::Display for SshAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, path, .. } = self;
        match path.starts_with('/') {
            true => write!(f, "ssh://{user}@{}{path}", self.host_and_port()),
            false if path.starts_with('~') => write!(f, "ssh://{user}@{}/{path}", self.host_and_port()),
            false => write!(f, "{user}@{}:{path}", self.host_and_port()),
        }
    }
}

impl SshAddress {
    /// Returns host and port; the port is omitted if it is the default.
    pub(super) fn host_and_port(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            DEFAULT_SSH_PORT => host,
            port => format!("{host}:{port}"),
        }
    }

    /// Returns the only command that is run there.
    pub(super) fn upload_pack_command(&self) -> String {
        format!("git-upload-pack '{}'", self.path)
    }
}

fn parse_http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let fits = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    fits.then_some(url)
}

/// Parses `[user@]host[:port]/path`.
fn parse_ssh_url(rest: &str) -> Option<SshAddress> {
    let (server, path) = rest.split_at(rest.find('/')?);
    let (user, server) = server.split_once('@').unwrap_or((DEFAULT_USER, server));
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| is_ipv6(host))?,
        None => server.split_at(server.find(':').unwrap_or(server.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => DEFAULT_SSH_PORT,
        None => return None,
    };
    // As in git: a home directory is not below the root.
    let path = match path.starts_with("/~") {
        true => &path[1..],
        false => path,
    };
    build_ssh_address(user, host, port, path)
}

/// Parses `user@host:path`.
fn parse_scp_form(text: &str) -> Option<SshAddress> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").filter(|(host, _)| is_ipv6(host))?,
        None => rest.split_once(':')?,
    };
    build_ssh_address(user, host, DEFAULT_SSH_PORT, path)
}

fn is_ipv6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

fn build_ssh_address(user: &str, host: &str, port: u16, path: &str) -> Option<SshAddress> {
    let is_word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let is_host = is_word(host) || is_ipv6(host);
    let is_path = !path.trim_matches('/').is_empty()
        && !path.starts_with('-')
        && path
            .chars()
            .all(|c| c.is_alphanumeric() || "._~/+@=,:- ".contains(c));
    (is_word(user) && is_host && is_path).then(|| SshAddress {
        user: user.to_owned(),
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forge_address_is_http_or_ssh_without_secret() {
        for good in [
            "https://git.example.com/ana/shop.git",
            "http://127.0.0.1:3000/ana/shop",
            "ssh://git@git.example.com/ana/shop.git",
            "ssh://ana@10.0.0.1:2222/shop.git",
            "ssh://git@[::1]:2222/a b/shop.git",
            "ssh://git@host/~ana/shop.git",
            "git@git.example.com:ana/shop.git",
            "git@[::1]:/srv/shop.git",
        ] {
            let address = ForgeAddress::parse(good).unwrap();
            let again = ForgeAddress::parse(&address.to_string()).unwrap();
            assert_eq!(address, again, "{good}");
        }
        for bad in [
            "",
            "shop.git",
            "host:shop.git",
            "/etc",
            "file:///etc",
            "ext::sh -c id",
            "fd::3",
            "https://ana:secret@h/x.git",
            "https://token@h/x.git",
            "https://h/x.git?a=b",
            "https://h/x.git#a",
            "https://",
            "ssh://git:secret@h/x.git",
            "ssh://h",
            "ssh://h/",
            "ssh://h:0/x.git",
            "ssh://h:x/x.git",
            "ssh://[h]/x.git",
            "ssh://-oProxyCommand=id/x.git",
            "ssh://git@-oProxyCommand=id/x.git",
            "ssh://-l@h/x.git",
            "ssh://git@h/x'; id; '.git",
            "ssh://git@h/$(id)",
            "ssh://git@h/x\n.git",
            "git@h:--exec=id",
            "git@h:",
            "-l@h:x.git",
            "git@-oProxyCommand=id:x.git",
            "git@h:`id`",
            "git@h:x\\.git",
        ] {
            assert!(ForgeAddress::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ssh_command_is_one_upload_pack_of_the_quoted_path() {
        for (text, server, command) in [
            ("ssh://h/ana/shop.git", "h", "git-upload-pack '/ana/shop.git'"),
            ("ssh://ana@h:2222/~ana/x", "h:2222", "git-upload-pack '~ana/x'"),
            ("git@h:ana/shop.git", "h", "git-upload-pack 'ana/shop.git'"),
            ("git@[::1]:/srv/x y", "[::1]", "git-upload-pack '/srv/x y'"),
        ] {
            let Ok(ForgeAddress::Ssh(ssh)) = ForgeAddress::parse(text) else {
                panic!("{text}");
            };
            assert_eq!(
                (ssh.host_and_port(), ssh.upload_pack_command()),
                (server.to_owned(), command.to_owned())
            );
        }
    }
}
