//! The settings of the authority that certificates are ordered from.

use std::path::PathBuf;

use serde::Deserialize;

/// `[acme]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeSettings {
    /// Empty: no certificates are ordered.
    pub directory_url: String,
    /// The name of the issuer for users.
    pub issuer: String,
    /// Empty, or an e-mail address.
    pub contact: String,
    /// Order for each cname without being asked.
    pub automatic: bool,
    /// Empty, or the profile of orders.
    pub profile: String,
    /// Empty: the authorities that this machine trusts. Otherwise a PEM file with the one that the directory's server has
    /// its certificate from.
    pub root_file: PathBuf,
}

impl AcmeSettings {
    /// True if certificates are ordered.
    pub fn is_enabled(&self) -> bool {
        !self.directory_url.is_empty()
    }
}
