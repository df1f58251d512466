//! SSH keys: our own key pairs, generated from a seed, and public keys of others.

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey};

use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// An ed25519 key pair. Its seed is what is stored, encrypted.
#[derive(Clone)]
pub struct KeyPair(pub(crate) PrivateKey);

impl KeyPair {
    /// Generates the key pair of a seed of 64 hexadecimal digits, such as that of [`Secret::random_hex`].
    pub fn from_seed(seed: &Secret) -> Result<Self, Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(seed.expose_secret(), &mut bytes).map_err(Error::internal)?;
        Ok(Self(PrivateKey::from(Ed25519Keypair::from_seed(&bytes))))
    }

    /// Returns the public key.
    pub fn public_key(&self) -> SshPublicKey {
        SshPublicKey::new(self.0.public_key())
    }
}

/// A public key without its comment. Two are equal if they are the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshPublicKey(russh::keys::PublicKey);

impl SshPublicKey {
    pub(crate) fn new(key: &russh::keys::PublicKey) -> Self {
        Self(russh::keys::PublicKey::new(key.key_data().clone(), ""))
    }

    /// Parses a line as in `known_hosts`, without the host, or as in a `.pub` file. `None`: it is not a key.
    pub fn parse(line: &str) -> Option<Self> {
        let key = russh::keys::PublicKey::from_openssh(line).ok()?;
        Some(Self::new(&key))
    }

    /// Returns the key as one line, `ssh-ed25519 AAAA…`.
    pub fn openssh_line(&self) -> String {
        self.0.to_openssh().unwrap_or_default()
    }

    /// Returns `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_gives_the_same_key_and_openssh_line_is_parsed_back() {
        let seed = Secret::random_hex();
        let key = KeyPair::from_seed(&seed).unwrap().public_key();
        assert_eq!(KeyPair::from_seed(&seed).unwrap().public_key(), key);
        assert_ne!(
            KeyPair::from_seed(&Secret::random_hex()).unwrap().public_key(),
            key
        );
        assert!(
            key.openssh_line().starts_with("ssh-ed25519 AAAA") && key.fingerprint().starts_with("SHA256:")
        );
        assert_eq!(
            SshPublicKey::parse(&format!("{} a comment", key.openssh_line())),
            Some(key)
        );
        assert_eq!(SshPublicKey::parse("ssh-ed25519 nonsense"), None);
        assert!(KeyPair::from_seed(&Secret::new("short")).is_err());
    }
}
