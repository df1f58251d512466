//! Where a repository is: by HTTP, or by SSH in either of git's spellings.

use std::fmt;
use std::net::Ipv6Addr;

use url::Url;

use crate::kernel::problem::Problem;

const LONGEST: usize = 2000;
const SSH_PORT: u16 = 22;
/// Who is logged in where the address does not say.
const USER: &str = "git";

/// The address of a repository; it holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// `http(s)`, without name, password, query or fragment.
    Http(Url),
    Ssh(Ssh),
}

/// What is logged in to, and what is asked for there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ssh {
    pub(super) user: String,
    /// A name or a number; of IPv6 without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As git sends it: `user@host:path` leads to `path`, `ssh://host/path` to `/path`.
    path: String,
}

impl Address {
    /// Reads `https://host/path`, `ssh://[user@]host[:port]/path` or `user@host:path`. What a shell or an option
    /// would be made of is no part of them.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let found = match text.strip_prefix("ssh://") {
            _ if text.len() > LONGEST => None,
            Some(rest) => ssh_url(rest).map(Self::Ssh),
            None if !text.contains("://") => short(text).map(Self::Ssh),
            None => http(text).map(Self::Http),
        };
        found.ok_or_else(|| {
            Problem::invalid(
                "Give the repository's address as https://host/path.git, ssh://user@host:port/path.git or \
                 user@host:path.git; a user name and a password for https go into fields of their own.",
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(url) => url.fmt(f),
            Self::Ssh(ssh) => ssh.fmt(f),
        }
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, path, .. } = self;
        match path.starts_with('/') {
            true => write!(f, "ssh://{user}@{}{path}", self.server()),
            false if path.starts_with('~') => write!(f, "ssh://{user}@{}/{path}", self.server()),
            false => write!(f, "{user}@{}:{path}", self.server()),
        }
    }
}

impl Ssh {
    /// Host and port; the port is left out where it is the usual one.
    pub(super) fn server(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            SSH_PORT => host,
            port => format!("{host}:{port}"),
        }
    }

    /// The one command that is run there.
    pub(super) fn command(&self) -> String {
        format!("git-upload-pack '{}'", self.path)
    }
}

fn http(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let fits = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    fits.then_some(url)
}

/// `[user@]host[:port]/path`
fn ssh_url(rest: &str) -> Option<Ssh> {
    let (server, path) = rest.split_at(rest.find('/')?);
    let (user, server) = server.split_once('@').unwrap_or((USER, server));
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => rest.split_once(']').filter(|(host, _)| is_v6(host))?,
        None => server.split_at(server.find(':').unwrap_or(server.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None if port.is_empty() => SSH_PORT,
        None => return None,
    };
    // As git has it: a home is not below the root.
    let path = match path.starts_with("/~") {
        true => &path[1..],
        false => path,
    };
    ssh(user, host, port, path)
}

/// `user@host:path`
fn short(text: &str) -> Option<Ssh> {
    let (user, rest) = text.split_once('@')?;
    let (host, path) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").filter(|(host, _)| is_v6(host))?,
        None => rest.split_once(':')?,
    };
    ssh(user, host, SSH_PORT, path)
}

fn is_v6(host: &str) -> bool {
    host.parse::<Ipv6Addr>().is_ok()
}

fn ssh(user: &str, host: &str, port: u16, path: &str) -> Option<Ssh> {
    let is_word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
    };
    let is_host = is_word(host) || is_v6(host);
    let is_path = !path.trim_matches('/').is_empty()
        && !path.starts_with('-')
        && path
            .chars()
            .all(|c| c.is_alphanumeric() || "._~/+@=,:- ".contains(c));
    (is_word(user) && is_host && is_path).then(|| Ssh {
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
    fn an_address_is_http_or_ssh_and_holds_no_secret() {
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
            let address = Address::parse(good).unwrap();
            let again = Address::parse(&address.to_string()).unwrap();
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
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_run_is_one_command_on_the_path_as_git_has_it() {
        for (text, server, command) in [
            ("ssh://h/ana/shop.git", "h", "git-upload-pack '/ana/shop.git'"),
            ("ssh://ana@h:2222/~ana/x", "h:2222", "git-upload-pack '~ana/x'"),
            ("git@h:ana/shop.git", "h", "git-upload-pack 'ana/shop.git'"),
            ("git@[::1]:/srv/x y", "[::1]", "git-upload-pack '/srv/x y'"),
        ] {
            let Ok(Address::Ssh(ssh)) = Address::parse(text) else {
                panic!("{text}");
            };
            assert_eq!(
                (ssh.server(), ssh.command()),
                (server.to_owned(), command.to_owned())
            );
        }
    }
}
