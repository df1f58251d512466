//! Keys: our own pairs, made of a seed, and the public halves of others.

use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{HashAlg, PrivateKey};

use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

/// An ed25519 key of our own. Its seed is what is kept, sealed.
#[derive(Clone)]
pub struct KeyPair(pub(crate) PrivateKey);

impl KeyPair {
    /// The key of a seed, which is 64 hexadecimal digits, such as [`Secret::random`] gives.
    pub fn from_seed(seed: &Secret) -> Result<Self, Problem> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(seed.expose(), &mut bytes).map_err(Problem::internal)?;
        Ok(Self(PrivateKey::from(Ed25519Keypair::from_seed(&bytes))))
    }

    /// What others may know of it.
    pub fn public(&self) -> PublicKey {
        PublicKey::new(self.0.public_key())
    }
}

/// A public key without its comment. Two are equal if they are the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(russh::keys::PublicKey);

impl PublicKey {
    pub(crate) fn new(key: &russh::keys::PublicKey) -> Self {
        Self(russh::keys::PublicKey::new(key.key_data().clone(), ""))
    }

    /// Reads one line as in `known_hosts` behind the host, or in a `.pub` file. `None`: it is no key.
    pub fn parse(line: &str) -> Option<Self> {
        let key = russh::keys::PublicKey::from_openssh(line).ok()?;
        Some(Self::new(&key))
    }

    /// The key as one line, `ssh-ed25519 AAAA…`.
    pub fn line(&self) -> String {
        self.0.to_openssh().unwrap_or_default()
    }

    /// `SHA256:…`, as `ssh-keygen -l` says it.
    pub fn fingerprint(&self) -> String {
        self.0.fingerprint(HashAlg::Sha256).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_always_the_same_key_and_a_line_is_read_back() {
        let seed = Secret::random();
        let key = KeyPair::from_seed(&seed).unwrap().public();
        assert_eq!(KeyPair::from_seed(&seed).unwrap().public(), key);
        assert_ne!(KeyPair::from_seed(&Secret::random()).unwrap().public(), key);
        assert!(key.line().starts_with("ssh-ed25519 AAAA") && key.fingerprint().starts_with("SHA256:"));
        assert_eq!(PublicKey::parse(&format!("{} a comment", key.line())), Some(key));
        assert_eq!(PublicKey::parse("ssh-ed25519 nonsense"), None);
        assert!(KeyPair::from_seed(&Secret::new("short")).is_err());
    }
}
