//! SSH: a second door to the repositories of apps, for `git` alone.
//!
//! A user shows that they have one of the private keys whose public half they have added; the name they log
//! in with does not matter. What they may then say is one of three commands, `git-upload-pack`,
//! `git-receive-pack` and `git-upload-archive`, with the name of a repository, as `git` says them. The words
//! are taken apart here: no shell is ever asked, nothing of the client's environment but the version of git's
//! protocol gets through, and there are no terminals, no forwarding, no files. Who may use which repository
//! is decided where it is for HTTP ([`crate::repositories`]), anew for each command, so that a key or a role
//! that has been taken away ends what an open connection can do.
//!
//! The host key is made once and kept sealed in the database, so that all replicas have the same one and no
//! client is warned of another machine.
//!
//! A repository that another replica has is spoken with there: the command is passed on, with the user's key and
//! address, under a key that only replicas have (`forward`).
//!
//! A connection has to log in soon, may try few keys, may hold few channels, and is closed when nothing runs
//! in it for a while. When the server stops, it takes no more connections, closes those in which nothing
//! runs, and lets the commands of the others come to their end. A client that does not read holds up its own
//! command only, and for so long.
//!
//! [`client`] is the other side of the protocol, for whoever has to log in to another server.
//!
//! The protocol itself is `russh`, which is named in this folder and nowhere else.

pub mod client;
mod command;
mod errand;
mod forward;
mod host_key;
mod manner;
mod relay;
mod serve;
mod session;
mod store;

pub use host_key::HostKey;
pub use serve::serve;
