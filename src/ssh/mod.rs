//! SSH: access to the repositories of apps, for `git` only.
//!
//! A user authenticates with a private key whose public half was added to their account; the login name does
//! not matter. A client may run one of three commands, `git-upload-pack`, `git-receive-pack` and
//! `git-upload-archive`, with the name of a repository, as `git` sends them. The command line is parsed here:
//! no shell runs, the only variable accepted from the client is the version of git's protocol, and there are
//! no terminals, no forwarding and no file transfer. Access to repositories is checked where it is for HTTP
//! ([`crate::repositories`]), anew for each command, so that removing a key or a role takes effect on open
//! connections.
//!
//! The host key is created once and stored encrypted in the database, so that all replicas have the same one
//! and clients get no warning.
//!
//! A command for a repository on another replica is forwarded there, with the user's key fingerprint and
//! address, under a key that only replicas have (`forward`).
//!
//! Connections are limited per address before login, and per user after it. A connection must log in within a
//! time limit, may try few keys and open few channels, and is closed when it has been idle for a while. When
//! the server stops, it accepts no more connections, closes idle ones, and lets running commands finish. A
//! client that does not read delays only its own command, and for a limited time.
//!
//! [`client`] is the client side of the protocol, for logging in to other servers.
//!
//! The protocol is implemented by `russh`, which is used in this folder only.

pub mod client;
mod command;
mod exec;
mod forward;
mod host_key;
mod relay;
mod serve;
mod server_config;
mod session;
mod store;

pub use host_key::HostKey;
pub use serve::serve_connections;
