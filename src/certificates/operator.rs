//! The operator's certificate: two files, which are read again when they have changed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt as _;
use tokio_util::sync::CancellationToken;

use crate::certificates::chain::CertificateChain;
use crate::config::TlsSettings;
use crate::kernel::error::Error;
use crate::kernel::host_clock::host_now;
use crate::kernel::secret::Secret;
use crate::net::{CertificateSet, CertificateTable};

/// How often the files are read.
pub(super) const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(10);
const MAX_FILE_BYTES: u64 = 128 << 10;

/// The operator's certificate, if there is one.
#[derive(Debug)]
pub(crate) struct OperatorCertificate {
    settings: TlsSettings,
    /// What the files had in them when they were last read.
    files: Option<(String, Secret)>,
    chain: Option<CertificateChain>,
}

impl OperatorCertificate {
    /// Reads the files that the settings name. Errors: `Invalid`.
    pub(crate) async fn load(settings: &TlsSettings) -> Result<Self, Error> {
        let mut operator = Self {
            settings: settings.clone(),
            files: None,
            chain: None,
        };
        operator.reload_files().await?;
        Ok(operator)
    }

    /// Reads the files again; returns true if the certificate has changed. Errors: `Invalid`; then the one that was
    /// read before stays.
    pub(super) async fn reload_files(&mut self) -> Result<bool, Error> {
        if !self.settings.has_certificate() {
            return Ok(false);
        }
        let certificate = read_file("tls.certificate_file", &self.settings.certificate_file).await?;
        let key = Secret::new(read_file("tls.key_file", &self.settings.key_file).await?);
        let is_known = |(old, old_key): &(String, Secret)| {
            *old == certificate && old_key.expose_secret() == key.expose_secret()
        };
        if self.files.as_ref().is_some_and(is_known) {
            return Ok(false);
        }
        let chain = CertificateChain::parse(&certificate, &key).map_err(|error| {
            Error::invalid(format!(
                "The settings `tls` name unusable files: {}",
                error.message()
            ))
        })?;
        if let Err(error) = chain.check_time(host_now()) {
            tracing::warn!(
                error = error.message(),
                "the operator's certificate is not valid now"
            );
        }
        self.files = Some((certificate, key));
        self.chain = Some(chain);
        Ok(true)
    }

    /// The certificate, once for each host that it is for.
    pub(super) fn list_hosts(&self) -> impl Iterator<Item = (String, Arc<CertifiedKey>)> {
        self.chain.iter().flat_map(|chain| {
            let key = chain.certified_key();
            chain
                .hosts()
                .iter()
                .map(move |host| (host.clone(), Arc::clone(key)))
        })
    }

    fn certified_key(&self) -> Option<Arc<CertifiedKey>> {
        self.chain.as_ref().map(|chain| Arc::clone(chain.certified_key()))
    }
}

async fn read_file(key: &str, path: &Path) -> Result<String, Error> {
    let read = async {
        let mut text = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text)
    };
    read.await.map_err(|error| {
        Error::invalid(format!(
            "The file {} of the setting `{key}` cannot be read: {error}.",
            path.display()
        ))
    })
}

/// Keeps the table of the API up to date until `stop`: the operator's certificate, whatever host a client names.
pub(crate) async fn follow_operator_certificate(
    mut operator: OperatorCertificate,
    table: Arc<CertificateTable>,
    stop: CancellationToken,
) {
    loop {
        table.replace_all(CertificateSet {
            certificates: operator.list_hosts().collect(),
            fallback: operator.certified_key(),
            ..CertificateSet::default()
        });
        tokio::select! {
            () = tokio::time::sleep(FILE_CHECK_INTERVAL) => {}
            () = stop.cancelled() => return,
        }
        if let Err(error) = operator.reload_files().await {
            tracing::warn!(error = %error.report(), "keeping the operator's last certificate");
        }
    }
}
