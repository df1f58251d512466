//! TLS in front of the API and of the router: which certificate a client gets, and the handshake.
//!
//! The certificate is chosen by the host that the client names (SNI). An unknown host, or none, gets no
//! certificate but the fallback, and only the API has one. An authority that asks for the proof of a host (TLS-ALPN-01,
//! RFC 8737) gets the proof, and nothing else. Versions 1.2 and 1.3, HTTP/1.1 and HTTP/2 by ALPN;
//! no renegotiation, no early data, no client certificates.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::kernel::error::Error;

/// The first byte of every TLS connection: a record of the type handshake.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The protocol of authorities that ask for a proof.
const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// For a client that speaks plain HTTP to the port of TLS.
const PLAIN_HTTP_RESPONSE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    content-type: text/plain; charset=utf-8\r\ncontent-length: 59\r\nconnection: close\r\n\r\n\
    This port speaks TLS: use an address that begins https://.\n";

/// The certificates by host; replaced as a whole. Connections that exist are not affected.
#[derive(Debug, Default)]
pub(crate) struct CertificateTable(ArcSwap<CertificateMap>);

#[derive(Debug, Default)]
struct CertificateMap {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// `*.x.y` is stored as `x.y`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    fallback: Option<Arc<CertifiedKey>>,
    proofs: HashMap<String, Arc<CertifiedKey>>,
}

/// What a table consists of.
#[derive(Debug, Default)]
pub(crate) struct CertificateSet {
    /// By host, in lower case; `*.x.y` stands for every host one label below `x.y`. The first of two for one host counts.
    pub(crate) certificates: Vec<(String, Arc<CertifiedKey>)>,
    /// For any other host, and for clients that name none.
    pub(crate) fallback: Option<Arc<CertifiedKey>>,
    /// The proofs for authorities, by host.
    pub(crate) proofs: HashMap<String, Arc<CertifiedKey>>,
}

impl CertificateTable {
    /// Replaces all certificates.
    pub(crate) fn replace_all(&self, set: CertificateSet) {
        let mut map = CertificateMap {
            fallback: set.fallback,
            proofs: set.proofs,
            ..CertificateMap::default()
        };
        for (host, key) in set.certificates {
            match host.strip_prefix("*.") {
                Some(suffix) => map.wildcard.entry(suffix.into()).or_insert(key),
                None => map.exact.entry(host.into()).or_insert(key),
            };
        }
        self.0.store(Arc::new(map));
    }

    /// Finds the certificate for the host that a client names: by the exact host, then by the wildcard one
    /// label above, then the fallback.
    fn find_certificate(&self, host: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let map = self.0.load();
        let by_host = host.and_then(|host| match host.bytes().any(|b| b.is_ascii_uppercase()) {
            true => map.find_host(&host.to_ascii_lowercase()),
            false => map.find_host(host),
        });
        by_host.or(map.fallback.as_ref()).cloned()
    }
}

impl CertificateMap {
    fn find_host(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        let above = || self.wildcard.get(host.split_once('.')?.1);
        self.exact.get(host).or_else(above)
    }
}

impl ResolvesServerCert for CertificateTable {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut protocols = hello.alpn().into_iter().flatten();
        match protocols.any(|protocol| protocol == ACME_PROTOCOL) {
            true => self.0.load().proofs.get(hello.server_name()?).cloned(),
            false => self.find_certificate(hello.server_name()),
        }
    }
}

/// Ends TLS: makes plain streams of connections. Cheap to clone.
#[derive(Clone)]
pub(crate) struct TlsTerminator {
    acceptor: TlsAcceptor,
}

impl TlsTerminator {
    /// Creates one that serves the certificates of a table.
    pub(crate) fn new(certificates: Arc<CertificateTable>) -> Result<Self, Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Error::internal)?
            .with_no_client_auth()
            .with_cert_resolver(certificates);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_PROTOCOL.to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(Error::internal)?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Performs the handshake; the caller limits its time. `None`: there is nothing to serve, because the
    /// client has closed the connection or does not speak TLS.
    pub(crate) async fn accept_stream(
        &self,
        mut stream: TcpStream,
    ) -> io::Result<Option<TlsStream<TcpStream>>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        if first[0] == HANDSHAKE_RECORD {
            let mut stream = self.acceptor.accept(stream).await?;
            if stream.get_ref().1.alpn_protocol() == Some(ACME_PROTOCOL) {
                // The certificate was all that is asked for.
                stream.shutdown().await?;
                return Ok(None);
            }
            return Ok(Some(stream));
        }
        if first[0].is_ascii_uppercase() {
            // Read first: closing a socket with unread bytes would reset the connection.
            let mut scrap = [0; 4096];
            let _ = stream.read(&mut scrap).await?;
            stream.write_all(PLAIN_HTTP_RESPONSE).await?;
            stream.shutdown().await?;
        }
        Ok(None)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rustls::pki_types::PrivateKeyDer;

    /// Makes a self-signed certificate.
    pub(crate) fn certified_key(hosts: &[&str]) -> Arc<CertifiedKey> {
        let names: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let key = ring::sign::any_supported_type(&key).unwrap();
        Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key))
    }

    #[test]
    fn certificate_is_found_by_host_then_wildcard_and_never_for_others() {
        let table = CertificateTable::default();
        let (exact, wildcard) = (certified_key(&["a.x.y"]), certified_key(&["*.x.y"]));
        let certificates = [
            ("a.x.y".to_owned(), Arc::clone(&exact)),
            ("*.x.y".to_owned(), Arc::clone(&wildcard)),
        ];
        let set = |fallback| CertificateSet {
            certificates: certificates.to_vec(),
            fallback,
            ..CertificateSet::default()
        };
        table.replace_all(set(None));
        let is = |host: &str, wanted: &Arc<CertifiedKey>| {
            let found = table.find_certificate(Some(host));
            found.is_some_and(|found| Arc::ptr_eq(&found, wanted))
        };
        assert!(is("a.x.y", &exact) && is("A.X.y", &exact) && is("b.x.y", &wildcard));
        for unknown in ["x.y", "c.b.x.y", "y", "", ".x.z", "ax.y"] {
            assert!(table.find_certificate(Some(unknown)).is_none(), "{unknown}");
        }
        assert!(table.find_certificate(None).is_none());
        let fallback = certified_key(&["api.test"]);
        table.replace_all(set(Some(Arc::clone(&fallback))));
        assert!(is("x.y", &fallback) && is("a.x.y", &exact));
        assert!(table.find_certificate(None).is_some());
    }
}
