//! Keeps the certificates of a router up to date with the database and the operator's files. A certificate is read
//! and decrypted once; afterwards only its revision is compared.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use crate::certificates::actions::key_associated_data;
use crate::certificates::chain::CertificateChain;
use crate::certificates::operator::{FILE_CHECK_INTERVAL, OperatorCertificate};
use crate::certificates::orders::proof::make_proof_certificate;
use crate::certificates::orders::store::{self as orders, ChallengeRow};
use crate::certificates::store::{self, CertificateVersion, HostOptions, SealedCertificate};
use crate::config::Settings;
use crate::db::Db;
use crate::db::notices::{NoticeChannel, NoticeHub};
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;
use crate::net::{CertificateSet, CertificateTable};
use crate::proxy::{ChallengeAnswer, HttpsHosts, HttpsPolicy, Proxy};
use crate::telemetry::metrics;

/// Minimum time between two rounds.
const MIN_INTERVAL: Duration = Duration::from_millis(50);
/// Poll interval without a notice.
const POLL: Duration = Duration::from_secs(2);
/// Certificates are listed this often even if nothing has changed: for the metrics, and to try again what failed.
const FULL_ROUND_INTERVAL: Duration = Duration::from_secs(60);
/// Certificates read at once.
const BATCH: usize = 200;

/// The state of the certificates of one router.
pub(crate) struct CertificateFeed {
    db: Db,
    keys: Arc<Keyring>,
    /// The parent of the apps' addresses.
    domain: String,
    operator: OperatorCertificate,
    proxy: Proxy,
    table: Arc<CertificateTable>,
    served: HashMap<String, ServedCertificate>,
    /// By host: the proof as text, and as a certificate.
    proofs: HashMap<String, (String, Arc<CertifiedKey>)>,
    /// This router, where certificates are ordered: orders wait until it has their proofs.
    router: Option<ReplicaId>,
    /// What was last read, and when.
    version: Option<(i64, Instant)>,
    files_checked_at: Instant,
}

struct ServedCertificate {
    revision: i64,
    key: Arc<CertifiedKey>,
}

/// Keeps a router's certificates up to date until `stop`. Cancels `loaded` once they have been read.
pub(crate) async fn follow_certificates(
    mut feed: CertificateFeed,
    notices: NoticeHub,
    loaded: CancellationToken,
    stop: CancellationToken,
) {
    let mut notices = notices.subscribe();
    loop {
        match feed.refresh().await {
            Ok(()) => loaded.cancel(),
            Err(error) => {
                tracing::warn!(error = %error.report(), "cannot read the certificates; keeping the last ones");
                feed.version = None;
            }
        }
        let next = async {
            tokio::time::sleep(MIN_INTERVAL).await;
            notices.wait_for_notice(&[NoticeChannel::Routes], POLL).await;
        };
        tokio::select! {
            _ = next => {}
            () = stop.cancelled() => break,
        }
    }
    if let Some(router) = feed.router {
        // If this fails, orders wait for this router until their timeout.
        let _ = orders::forget_router(&feed.db, router).await;
    }
}

impl CertificateFeed {
    pub(crate) fn new(
        db: Db,
        keys: Arc<Keyring>,
        settings: &Settings,
        router: ReplicaId,
        operator: OperatorCertificate,
        (proxy, table): (Proxy, Arc<CertificateTable>),
    ) -> Self {
        Self {
            db,
            keys,
            domain: settings.router.domain.clone(),
            operator,
            proxy,
            table,
            served: HashMap::new(),
            proofs: HashMap::new(),
            router: settings.acme.is_enabled().then_some(router),
            version: None,
            files_checked_at: Instant::now(),
        }
    }

    /// Reads what may have changed.
    async fn refresh(&mut self) -> Result<(), Error> {
        let mut is_changed = false;
        if self.files_checked_at.elapsed() >= FILE_CHECK_INTERVAL {
            self.files_checked_at = Instant::now();
            is_changed = self.operator.reload_files().await.unwrap_or_else(|error| {
                tracing::warn!(error = %error.report(), "keeping the operator's last certificate");
                false
            });
        }
        // Read before the certificates, so that a change in between is seen by the next poll.
        let (version, read_at) = store::find_version(&self.db).await?;
        let is_known = |(known, at): &(i64, Instant)| *known == version && at.elapsed() < FULL_ROUND_INTERVAL;
        if is_changed || !self.version.as_ref().is_some_and(is_known) {
            let versions = store::list_versions(&self.db).await?;
            self.load_changed(&versions).await?;
            self.load_proofs(orders::list_challenges(&self.db).await?);
            let options = store::list_host_options(&self.db, &self.domain).await?;
            self.publish(options);
            record_expiry(&versions);
            self.version = Some((version, Instant::now()));
        }
        match self.router {
            Some(router) => Ok(orders::record_router(&self.db, router, read_at).await?),
            None => Ok(()),
        }
    }

    /// Makes the proofs that are new; the text of one names its order.
    fn load_proofs(&mut self, rows: Vec<ChallengeRow>) {
        let mut answers = HashMap::new();
        let mut proofs = HashMap::new();
        for row in rows {
            let known = self
                .proofs
                .remove(&row.host)
                .filter(|(text, _)| *text == row.key_authorization);
            let made = match known {
                Some((_, key)) => Ok(key),
                None => make_proof_certificate(&row.host, &row.key_authorization),
            };
            match made {
                Ok(key) => drop(proofs.insert(row.host.clone(), (row.key_authorization.clone(), key))),
                Err(error) => tracing::warn!(host = row.host, error = %error.report(), "cannot make a proof"),
            }
            let answer = ChallengeAnswer {
                host: row.host,
                text: row.key_authorization,
            };
            answers.insert(row.token, answer);
        }
        self.proofs = proofs;
        self.proxy.set_challenges(answers);
    }

    /// Reads the certificates with another revision than the served one; forgets those that are gone.
    async fn load_changed(&mut self, versions: &[CertificateVersion]) -> Result<(), Error> {
        let present: HashSet<&str> = versions.iter().map(|version| version.host.as_str()).collect();
        self.served.retain(|host, _| present.contains(host.as_str()));
        let is_served = |version: &&CertificateVersion| {
            let served = self.served.get(&version.host);
            served.is_some_and(|served| served.revision == version.revision)
        };
        let changed: Vec<String> = versions
            .iter()
            .filter(|version| !is_served(version))
            .map(|version| version.host.clone())
            .collect();
        for hosts in changed.chunks(BATCH) {
            for row in store::list_sealed(&self.db, hosts).await? {
                self.load_certificate(row);
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// One that cannot be read is logged, and tried again with the next round.
    fn load_certificate(&mut self, row: SealedCertificate) {
        let opened = self.keys.decrypt(&key_associated_data(&row.host), &row.key);
        match opened.and_then(|key| CertificateChain::parse(&row.chain, &key)) {
            Ok(chain) => {
                let served = ServedCertificate {
                    revision: row.revision,
                    key: Arc::clone(chain.certified_key()),
                };
                self.served.insert(row.host, served);
            }
            Err(error) => {
                tracing::error!(host = row.host, error = %error.report(), "cannot read the certificate of a host");
            }
        }
    }

    /// Hands certificates and policies to the router. Those of hosts come first: they have precedence.
    fn publish(&self, options: Vec<HostOptions>) {
        let of_hosts = self
            .served
            .iter()
            .map(|(host, served)| (host.clone(), Arc::clone(&served.key)));
        let certificates: Vec<_> = of_hosts.chain(self.operator.list_hosts()).collect();
        let hosts: HashSet<&str> = certificates.iter().map(|(host, _)| host.as_str()).collect();
        let policies: HttpsHosts = options
            .into_iter()
            .filter(|options| is_covered(&hosts, &options.host))
            .map(|options| {
                let policy = HttpsPolicy {
                    redirects: options.redirects,
                    hsts_seconds: options.hsts_seconds.unsigned_abs(),
                };
                (options.host, policy)
            })
            .chain(
                hosts
                    .iter()
                    .map(|host| ((*host).to_owned(), HttpsPolicy::default())),
            )
            .collect();
        self.proxy.set_https_hosts(policies);
        let proofs = self
            .proofs
            .iter()
            .map(|(host, (_, key))| (host.clone(), Arc::clone(key)));
        self.table.replace_all(CertificateSet {
            proofs: proofs.collect(),
            certificates,
            fallback: None,
        });
    }
}

/// True if one of the hosts is this one, or a wildcard one label above.
fn is_covered(hosts: &HashSet<&str>, host: &str) -> bool {
    let above = || host.split_once('.').map(|(_, rest)| format!("*.{rest}"));
    hosts.contains(host) || above().is_some_and(|above| hosts.contains(above.as_str()))
}

fn record_expiry(versions: &[CertificateVersion]) {
    let soonest = versions
        .iter()
        .map(|version| version.seconds_left)
        .reduce(f64::min);
    metrics::record_certificates(versions.len(), soonest);
}
