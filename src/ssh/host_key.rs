//! The key by which clients know the server: made once, the same on all replicas.

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey};

use crate::db::Db;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Keyring, Place};
use crate::kernel::secret::Secret;
use crate::ssh::store;

/// See the module.
#[derive(Clone)]
pub struct HostKey(pub(super) PrivateKey);

impl HostKey {
    /// The key of this database, made now if there is none. Of two replicas that start at once, one makes it.
    /// The keys that seal must have been agreed on.
    pub async fn load(db: &Db, keys: &Keyring) -> Result<Self, Problem> {
        let place = Place::new(Column::SSH_HOST_KEY, &[&true]);
        // Never kept but by the first; cheap enough to be made at each start.
        let fresh = keys.seal(&place, &Secret::random());
        let kept = store::claim(db, &fresh).await?;
        let seed = keys.open(&place, &kept)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(seed.expose(), &mut bytes).map_err(Problem::internal)?;
        Ok(Self(PrivateKey::from(Ed25519Keypair::from_seed(&bytes))))
    }

    /// `SHA256:…`, as `ssh` shows it at the first connection.
    pub fn fingerprint(&self) -> String {
        self.0.public_key().fingerprint(HashAlg::Sha256).to_string()
    }
}
