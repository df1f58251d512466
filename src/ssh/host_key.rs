//! The key by which clients know the server: made once, the same on all replicas.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::db::Db;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Keyring, Place};
use crate::kernel::secret::Secret;
use crate::ssh::client::{KeyPair, PublicKey};
use crate::ssh::store;

/// What makes the key of replicas another one than the host key.
const LABEL: &[u8] = b"tancho: a replica logs in to another";

/// See the module.
#[derive(Clone)]
pub struct HostKey {
    pub(super) server: KeyPair,
    /// By which replicas know each other; of the same seed, and its public half is told to nobody else. The host
    /// key itself never logs in anywhere.
    pub(super) replica: KeyPair,
}

impl HostKey {
    /// The key of this database, made now if there is none. Of two replicas that start at once, one makes it.
    /// The keys that seal must have been agreed on.
    pub async fn load(db: &Db, keys: &Keyring) -> Result<Self, Problem> {
        let place = Place::new(Column::SSH_HOST_KEY, &[&true]);
        // Never kept but by the first; cheap enough to be made at each start.
        let fresh = keys.seal(&place, &Secret::random());
        let kept = store::claim(db, &fresh).await?;
        Self::from_seed(&keys.open(&place, &kept)?)
    }

    pub(super) fn from_seed(seed: &Secret) -> Result<Self, Problem> {
        let mut derived =
            Hmac::<Sha256>::new_from_slice(seed.expose().as_bytes()).expect("a key of any length does");
        derived.update(LABEL);
        let derived = Secret::new(hex::encode(derived.finalize().into_bytes()));
        Ok(Self {
            server: KeyPair::from_seed(seed)?,
            replica: KeyPair::from_seed(&derived)?,
        })
    }

    pub(super) fn public(&self) -> PublicKey {
        self.server.public()
    }

    /// `SHA256:…`, as `ssh` shows it at the first connection.
    pub fn fingerprint(&self) -> String {
        self.public().fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_have_a_key_of_their_own_and_all_the_same() {
        let seed = Secret::random();
        let (one, other) = (
            HostKey::from_seed(&seed).unwrap(),
            HostKey::from_seed(&seed).unwrap(),
        );
        assert_eq!(one.replica.public(), other.replica.public());
        assert_ne!(one.replica.public(), one.public());
    }
}
