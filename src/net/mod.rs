//! Client connections, for the API and for the router: limits per address, TLS, detection of the HTTP version,
//! rejection of ambiguous framing, and time-outs. Works over any stream that can be read and written.
//!
//! **Promises.** Both servers respond with 400 to a request of ambiguous length. A client that sends or reads
//! too slowly is disconnected. A client whose request is answered before its body has arrived still gets the
//! response, which says that the connection closes.

mod client_io;
mod conn_shares;
pub(crate) mod framing;
mod framing_guard;
mod hop_by_hop;
mod protocol;
mod tls;
mod watchdog;

pub(crate) use client_io::{ClientIo, ConnState, close_if_body_is_unread};
pub(crate) use conn_shares::{ConnectionShare, ConnectionShares, reject_connection};
pub(crate) use hop_by_hop::{ConnectionHeader, is_hop_by_hop, is_hop_by_hop_name, split_list};
pub(crate) use protocol::detect_protocol;
#[cfg(test)]
pub(crate) use tls::tests::certified_key;
pub(crate) use tls::{CertificateSet, CertificateTable, TlsTerminator};
pub(crate) use watchdog::{ConnTimeouts, ConnWatchdog};
