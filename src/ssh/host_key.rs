//! The host key of the server: created once, the same on all replicas.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::db::Db;
use crate::kernel::encryption::{AssociatedData, Keyring, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;
use crate::ssh::client::{KeyPair, SshPublicKey};
use crate::ssh::store;

/// The label that derives the replica key from the seed of the host key.
const REPLICA_KEY_LABEL: &[u8] = b"tancho: a replica logs in to another";

/// The host key; see the module.
#[derive(Clone)]
pub struct HostKey {
    pub(super) server_key: KeyPair,
    /// The key by which replicas authenticate to each other. It is derived from the same seed, and its public
    /// half is published nowhere. The host key itself is never used to log in.
    pub(super) replica_key: KeyPair,
}

impl HostKey {
    /// Loads the key from the database, and creates it if there is none. If two replicas start at once, one
    /// creates it. The encryption keys must have been checked before.
    pub async fn load_or_create(db: &Db, keys: &Keyring) -> Result<Self, Error> {
        let associated_data = AssociatedData::new(SealedColumn::SSH_HOST_KEY, &[&true]);
        // Used only if none is stored; cheap enough to generate at each start.
        let fresh = keys.encrypt(&associated_data, &Secret::random_hex());
        let kept = store::claim_host_key(db, &fresh).await?;
        Self::from_seed(&keys.decrypt(&associated_data, &kept)?)
    }

    pub(super) fn from_seed(seed: &Secret) -> Result<Self, Error> {
        let mut derived = Hmac::<Sha256>::new_from_slice(seed.expose_secret().as_bytes())
            .expect("HMAC accepts keys of any length");
        derived.update(REPLICA_KEY_LABEL);
        let derived = Secret::new(hex::encode(derived.finalize().into_bytes()));
        Ok(Self {
            server_key: KeyPair::from_seed(seed)?,
            replica_key: KeyPair::from_seed(&derived)?,
        })
    }

    pub(super) fn public_key(&self) -> SshPublicKey {
        self.server_key.public_key()
    }

    /// Returns `SHA256:…`, as `ssh` shows it at the first connection.
    pub fn fingerprint(&self) -> String {
        self.public_key().fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_key_is_the_same_on_all_replicas_and_not_the_host_key() {
        let seed = Secret::random_hex();
        let (one, other) = (
            HostKey::from_seed(&seed).unwrap(),
            HostKey::from_seed(&seed).unwrap(),
        );
        assert_eq!(one.replica_key.public_key(), other.replica_key.public_key());
        assert_ne!(one.replica_key.public_key(), one.public_key());
    }
}
