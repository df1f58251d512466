//! The listeners whose clients speak TLS: of the API, with the operator's certificate, and of the router, with those
//! of the apps too.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::certificates::{
    CertificateFeed, OperatorCertificate, follow_certificates, follow_operator_certificate,
};
use crate::config::TlsSettings;
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::net::{CertificateTable, TlsTerminator};
use crate::proxy::Proxy;
use crate::server::router::RouterParts;

/// A bound listener, and what its handshakes need.
struct HttpsListener {
    listener: TcpListener,
    bound: SocketAddr,
    tls: TlsTerminator,
    table: Arc<CertificateTable>,
    operator: OperatorCertificate,
}

impl HttpsListener {
    async fn open(listener: TcpListener, settings: &TlsSettings) -> Result<Self, Error> {
        let table = Arc::new(CertificateTable::default());
        Ok(Self {
            bound: listener.local_addr().map_err(Error::internal)?,
            listener,
            tls: TlsTerminator::new(Arc::clone(&table))?,
            table,
            operator: OperatorCertificate::load(settings).await?,
        })
    }
}

/// The API's listener.
pub(super) struct ApiHttps(HttpsListener);

impl ApiHttps {
    /// Errors: `Invalid` for a certificate of the operator that cannot be served.
    pub(super) async fn open(listener: TcpListener, settings: &TlsSettings) -> Result<Self, Error> {
        HttpsListener::open(listener, settings).await.map(Self)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.bound
    }

    /// Returns what serves the API, and what keeps its certificate up to date until `stop`.
    pub(super) fn into_parts(
        self,
        stop: CancellationToken,
    ) -> (TcpListener, TlsTerminator, impl Future<Output = ()>) {
        let https = self.0;
        let following = follow_operator_certificate(https.operator, https.table, stop);
        (https.listener, https.tls, following)
    }
}

/// The router's listener.
pub struct RouterHttps {
    https: HttpsListener,
    keys: Arc<Keyring>,
}

impl RouterHttps {
    /// Errors: `Invalid` for a certificate of the operator that cannot be served.
    pub async fn open(
        listener: TcpListener,
        keys: Arc<Keyring>,
        settings: &TlsSettings,
    ) -> Result<Self, Error> {
        let https = HttpsListener::open(listener, settings).await?;
        Ok(Self { https, keys })
    }

    /// Returns the actual listen address.
    pub fn address(&self) -> SocketAddr {
        self.https.bound
    }

    /// Serves apps from the time that routes and certificates are loaded until the router stops. Certificates are kept up
    /// to date until `stop_feeds`, or the end of the last connection.
    pub(super) async fn serve(
        self,
        proxy: Proxy,
        parts: &RouterParts,
        (routes, certificates): (CancellationToken, CancellationToken),
        stop_feeds: CancellationToken,
    ) {
        let https = self.https;
        let into = (proxy.clone(), https.table);
        let (db, settings) = (parts.db.clone(), &parts.settings);
        let feed = CertificateFeed::new(db, self.keys, settings, parts.replica, https.operator, into);
        let stop_feed = stop_feeds.child_token();
        let notices = parts.notices.clone();
        let following = follow_certificates(feed, notices, certificates.clone(), stop_feed.clone());
        let serving = async {
            tokio::select! {
                _ = future::join(certificates.cancelled(), routes.cancelled()) => {
                    proxy.serve_tls(https.listener, https.tls, parts.stop.clone()).await;
                }
                () = parts.stop.cancelled() => {}
            }
            stop_feed.cancel();
        };
        future::join(following, serving).await;
    }
}
