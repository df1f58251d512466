//! The configuration of the SSH server.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, kex};

use crate::config::SshSettings;
use crate::ssh::HostKey;

/// How many keys a connection may try.
const MAX_AUTH_ATTEMPTS: usize = 10;
/// The delay before an unknown key is refused, so that timing discloses nothing.
const REJECTION_DELAY: Duration = Duration::from_millis(100);
/// How often an idle client is probed; it is disconnected after three unanswered probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// Key exchange algorithms that are cheap for the server; all clients of the last ten years support one of
/// them.
const KEX_ALGORITHMS: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// The types of user keys; RSA with SHA-1 is excluded.
pub(super) const USER_KEY_ALGORITHMS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::SkEd25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

/// Builds the configuration.
pub(super) fn build_config(settings: &SshSettings, key: &HostKey) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tancho_",
            env!("CARGO_PKG_VERSION")
        ))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION_DELAY,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key.server_key.0.clone()],
        preferred: Preferred {
            kex: Cow::Borrowed(KEX_ALGORITHMS),
            key: Cow::Borrowed(USER_KEY_ALGORITHMS),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: MAX_AUTH_ATTEMPTS,
        // For clients that do not read what is sent; `serve` handles idle clients.
        inactivity_timeout: Some(settings.idle_timeout),
        keepalive_interval: Some(KEEPALIVE_INTERVAL.min(settings.idle_timeout / 2)),
        nodelay: true,
        ..Config::default()
    }
}
