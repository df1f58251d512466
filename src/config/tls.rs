//! The settings of the operator's certificate.

use std::path::PathBuf;

use serde::Deserialize;

/// `[tls]`; both or none. See `has_certificate`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSettings {
    /// A PEM file with the chain.
    pub certificate_file: PathBuf,
    /// A PEM file with the private key.
    pub key_file: PathBuf,
}

impl TlsSettings {
    /// True if the operator has given a certificate.
    pub fn has_certificate(&self) -> bool {
        !self.certificate_file.as_os_str().is_empty()
    }
}
