//! How the server speaks the protocol.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, kex};

use crate::config::SshSettings;
use crate::ssh::HostKey;

/// Keys that one connection may try.
const MOST_TRIES: usize = 10;
/// Before a key that is not known is refused: nobody learns anything by how long it took.
const REFUSAL: Duration = Duration::from_millis(100);
/// How often a silent client is asked whether it is there; after three times it is not.
const ALIVE: Duration = Duration::from_secs(30);

/// Ways to agree on a key that are quick for the server; all clients of the last ten years have one of them.
const EXCHANGES: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Kinds of keys of users; RSA with SHA-1 is none of them.
pub(super) const KEYS: &[Algorithm] = &[
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

/// How the protocol is spoken.
pub(super) fn config(settings: &SshSettings, key: &HostKey) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(concat!(
            "SSH-2.0-tancho_",
            env!("CARGO_PKG_VERSION")
        ))),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![key.server.0.clone()],
        preferred: Preferred {
            kex: Cow::Borrowed(EXCHANGES),
            key: Cow::Borrowed(KEYS),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: MOST_TRIES,
        // Of a client that does not take what is sent; `serve` looks after those that say nothing.
        inactivity_timeout: Some(settings.idle),
        keepalive_interval: Some(ALIVE.min(settings.idle / 2)),
        nodelay: true,
        ..Config::default()
    }
}
