//! Encryption of secrets at rest with AES-256-GCM-SIV. The key id is stored in front of the ciphertext.
//! Table, column and row are the associated data (AAD), so that a value copied to another row does not
//! decrypt.
//!
//! Format: one version byte (1), four bytes of key id, twelve of nonce, then the ciphertext with its tag.
//!
//! Associated data is built from a `SealedColumn`. `SealedColumn::ALL` lists every encrypted column, so that
//! a key rotation (`key_rotation`) reaches all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Key, Nonce};
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

const FORMAT_VERSION: u8 = 1;
const HEADER_LEN: usize = 17;

/// A database column whose values are encrypted. Only this file constructs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedColumn {
    /// The prefix of its associated data. Must never change, because it is authenticated with each value.
    aad_prefix: &'static str,
    /// The table.
    pub table: &'static str,
    /// The column in that table.
    pub name: &'static str,
    /// The columns that identify the row, in the order that `AssociatedData::new` takes them.
    pub key_columns: &'static [&'static str],
}

impl fmt::Display for SealedColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.name)
    }
}

macro_rules! sealed_columns {
    ($($(#[$doc:meta])* $constant:ident = $place:literal: $table:literal . $name:literal by [$($row:literal),*];)*) => {
        impl SealedColumn {
            $($(#[$doc])*
            pub const $constant: SealedColumn =
                SealedColumn { aad_prefix: $place, table: $table, name: $name, key_columns: &[$($row),*] };)*

            /// All encrypted columns.
            pub const ALL: &[SealedColumn] = &[$(SealedColumn::$constant),*];
        }
    };
}

sealed_columns! {
    /// Variables that users set on an app.
    ENV_VAR = "env_var": "env_var"."value" by ["app_id", "name"];
    /// Variables that a service returned for a bind.
    BIND_ENV = "bind_env": "bind_env"."value" by ["bind_id", "name"];
    /// The whole environment of a release.
    RELEASE_ENV = "release.env": "release"."env" by ["app_id", "version"];
    /// The user-set variables at the time a release was made.
    RELEASE_USER_ENV = "release.user_env": "release"."user_env" by ["app_id", "version"];
    /// Passwords of services.
    SERVICE_PASSWORD = "service.password": "service"."password" by ["service_id"];
    /// API keys.
    ACCESS_TOKEN = "bearer": "access_token"."sealed" by ["token_id"];
    /// Mail that waits to be sent.
    OUTGOING_MAIL = "mail": "outgoing_mail"."sealed" by ["mail_id"];
    /// The host key of the SSH server.
    SSH_HOST_KEY = "ssh_host_key": "ssh_host_key"."sealed" by ["one"];
    /// The secret that signs webhook deliveries of a forge.
    FORGE_SECRET = "forge.secret": "forge"."secret" by ["app_id"];
    /// The password with which a forge's repository is fetched.
    FORGE_PASSWORD = "forge.password": "forge"."password" by ["app_id"];
    /// The deploy key with which a forge's repository is fetched over SSH.
    FORGE_DEPLOY_KEY = "forge.deploy_key": "forge"."deploy_key" by ["app_id"];
    /// What a webhook sends and where: URLs, headers, body, and the secret that signs.
    WEBHOOK_REQUEST = "webhook": "webhook"."sealed" by ["webhook_id"];
    /// Configurations of routers, whose headers may be secret.
    ROUTER_CONFIG = "router.config": "router"."config" by ["router_id"];
    /// Private keys of the certificates of hosts.
    CERTIFICATE_KEY = "certificate.key": "certificate"."key" by ["host"];
    /// Private keys of certificates that have been ordered and not received yet.
    CERTIFICATE_ORDER_KEY = "certificate_order.key": "certificate_order"."key" by ["host"];
    /// Keys of accounts at authorities.
    ACME_ACCOUNT_KEY = "acme_account.key": "acme_account"."key" by ["directory_url"];
}

/// The associated data of an encrypted value: `AssociatedData::new(SealedColumn::ENV_VAR, &[&app, &name])`.
#[derive(Clone, Debug)]
pub struct AssociatedData(String);

impl AssociatedData {
    /// Builds it from the column and the values that identify the row.
    pub fn new(column: SealedColumn, row: &[&dyn fmt::Display]) -> Self {
        let mut text = column.aad_prefix.to_owned();
        for part in row {
            text.push('\u{1f}');
            text.push_str(&part.to_string());
        }
        Self(text)
    }
}

/// The encryption keys: one encrypts, all decrypt. They can be replaced while the server runs.
pub struct Keyring(ArcSwap<KeyringState>);

#[derive(Clone)]
struct KeyringState {
    current: u32,
    keys: BTreeMap<u32, Arc<EncryptionKey>>,
}

struct EncryptionKey {
    cipher: Aes256GcmSiv,
    /// Identifies the key without revealing it: the key has 256 random bits.
    digest: [u8; 32],
}

impl Keyring {
    /// Parses lines of `<id>:<64 hexadecimal digits>`; the key with the highest id encrypts.
    /// Errors: `Invalid`; the message never contains key material.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut keys = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key) = parse_key_line(line).ok_or_else(|| {
                Error::invalid(format!(
                    "Line {} of the encryption keys is not of the form <number>:<64 hexadecimal digits>.",
                    at + 1
                ))
            })?;
            if keys.insert(id, Arc::new(key)).is_some() {
                return Err(Error::invalid(format!(
                    "Line {} of the seal keys has the number of an earlier line, {id}: each key needs a number of its own.",
                    at + 1
                )));
            }
        }
        let current = *keys.keys().next_back().ok_or_else(|| {
            Error::invalid(
                "The list of encryption keys is empty: at least one line of the form <number>:<64 hexadecimal digits> is needed.",
            )
        })?;
        Ok(Self(ArcSwap::from_pointee(KeyringState { current, keys })))
    }

    /// Generates a key file for `parse` with one new key.
    pub fn generate_key_file() -> Secret {
        Self::generate_key_line(1)
    }

    /// Generates a line for `parse` with a new key of this id.
    pub fn generate_key_line(id: u32) -> Secret {
        Secret::new(format!("{id}:{}\n", Secret::random_hex().expose_secret()))
    }

    /// Returns the key id of a line for `parse`, if the line is well-formed.
    pub fn parse_key_id(line: &str) -> Option<u32> {
        parse_key_line(line.trim()).map(|(id, _)| id)
    }

    /// Returns the key ids, ascending.
    pub fn key_ids(&self) -> Vec<u32> {
        self.0.load().keys.keys().copied().collect()
    }

    /// Returns a digest of each key, by key id: whether two machines have the same key can be seen from these.
    pub fn key_digests(&self) -> Vec<(u32, [u8; 32])> {
        let ring = self.0.load();
        ring.keys.iter().map(|(id, key)| (*id, key.digest)).collect()
    }

    /// Returns the id of the key that encrypts.
    pub fn current_id(&self) -> u32 {
        self.0.load().current
    }

    /// Makes another of its keys the one that encrypts; returns false if it has no key of that id.
    pub fn select_key(&self, id: u32) -> bool {
        let ring = self.0.load_full();
        if !ring.keys.contains_key(&id) {
            return false;
        }
        if ring.current != id {
            let mut ring = KeyringState::clone(&ring);
            ring.current = id;
            self.0.store(Arc::new(ring));
        }
        true
    }

    /// Replaces all keys by those of another ring.
    pub fn replace_keys(&self, other: &Keyring) {
        self.0.store(other.0.load_full());
    }

    /// Encrypts a string for the given associated data.
    pub fn encrypt(&self, aad: &AssociatedData, plain: &Secret) -> Vec<u8> {
        let mut nonce = [0_u8; 12];
        getrandom::fill(&mut nonce).expect("the operating system provides random bytes");
        let payload = Payload {
            msg: plain.expose_secret().as_bytes(),
            aad: aad.0.as_bytes(),
        };
        let ring = self.0.load();
        let sealed = ring.keys[&ring.current]
            .cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a string in memory is within the cipher's length limit");
        let mut out = Vec::with_capacity(HEADER_LEN + sealed.len());
        out.push(FORMAT_VERSION);
        out.extend_from_slice(&ring.current.to_be_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// Decrypts a value. Errors: `Internal` when the key is missing, or when the bytes were not encrypted
    /// with this associated data.
    pub fn decrypt(&self, aad: &AssociatedData, sealed: &[u8]) -> Result<Secret, Error> {
        let fault = |why: String| Error::internal(format!("{}: {why}", aad.0.replace('\u{1f}', "/")));
        if sealed.len() < HEADER_LEN || sealed[0] != FORMAT_VERSION {
            return Err(fault("not an encrypted value".into()));
        }
        let (head, body) = sealed.split_at(HEADER_LEN);
        let id = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let ring = self.0.load();
        let key = ring
            .keys
            .get(&id)
            .ok_or_else(|| fault(format!("encrypted with key {id}, which is not in the key file")))?;
        let mut nonce = [0_u8; 12];
        nonce.copy_from_slice(&head[5..HEADER_LEN]);
        let plain = key
            .cipher
            .decrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: body,
                    aad: aad.0.as_bytes(),
                },
            )
            .map_err(|_| fault("decryption failed: wrong associated data or damaged value".into()))?;
        String::from_utf8(plain)
            .map(Secret::new)
            .map_err(|_| fault("the decrypted value is not UTF-8".into()))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = self.0.load();
        write!(f, "Keyring({} keys, current {})", ring.keys.len(), ring.current)
    }
}

fn parse_key_line(line: &str) -> Option<(u32, EncryptionKey)> {
    let (id, digits) = line.split_once(':')?;
    let mut bytes = [0_u8; 32];
    hex::decode_to_slice(digits.trim(), &mut bytes).ok()?;
    let key = EncryptionKey {
        cipher: Aes256GcmSiv::new(&Key::<Aes256GcmSiv>::from(bytes)),
        digest: Sha256::new_with_prefix("tancho encryption key\0")
            .chain_update(bytes)
            .finalize()
            .into(),
    };
    bytes.zeroize();
    Some((id.trim().parse().ok()?, key))
}

/// Returns the digest under which a bearer token is stored: SHA-256. Tokens have 256 random bits, so a slow
/// hash would add nothing.
pub fn digest_token(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose_secret().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphertext_decrypts_only_with_its_associated_data() {
        let ring = Keyring::parse(Keyring::generate_key_file().expose_secret()).unwrap();
        let here = AssociatedData::new(SealedColumn::ENV_VAR, &[&"app", &"NAME"]);
        let there = AssociatedData::new(SealedColumn::ENV_VAR, &[&"app", &"OTHER"]);
        let sealed = ring.encrypt(&here, &Secret::new("s3cret"));
        assert!(!sealed.windows(6).any(|w| w == b"s3cret"));
        assert_eq!(ring.decrypt(&here, &sealed).unwrap().expose_secret(), "s3cret");
        assert!(ring.decrypt(&there, &sealed).is_err());
        assert!(ring.decrypt(&here, &sealed[..20]).is_err());
    }

    #[test]
    fn old_keys_decrypt_and_the_newest_encrypts() {
        let one = format!("1:{}", "11".repeat(32));
        let both = format!("{one}\n2:{}\n", "22".repeat(32));
        let aad = AssociatedData::new(SealedColumn::ACCESS_TOKEN, &[&1]);
        let old = Keyring::parse(&one).unwrap().encrypt(&aad, &Secret::new("x"));
        let ring = Keyring::parse(&both).unwrap();
        assert_eq!(ring.decrypt(&aad, &old).unwrap().expose_secret(), "x");
        assert_eq!(ring.encrypt(&aad, &Secret::new("x"))[1..5], 2_u32.to_be_bytes());
        assert!(ring.select_key(1) && !ring.select_key(3));
        assert_eq!(ring.encrypt(&aad, &Secret::new("x"))[1..5], 1_u32.to_be_bytes());
        ring.replace_keys(&Keyring::parse(&format!("2:{}", "22".repeat(32))).unwrap());
        assert!(
            ring.decrypt(&aad, &old).is_err(),
            "a removed key decrypts nothing"
        );
    }

    #[test]
    fn two_keys_of_one_number_are_refused() {
        let text = format!("1:{}\n# two\n01:{}\n", "11".repeat(32), "22".repeat(32));
        let error = Keyring::parse(&text).unwrap_err();
        let message = error.message();
        assert!(
            message.contains("Line 3") && message.contains("number of an earlier line, 1"),
            "{message}"
        );
        assert!(
            !message.contains("1111") && !message.contains("2222"),
            "{message}"
        );
    }

    #[test]
    fn sealed_columns_have_distinct_associated_data() {
        let mut places: Vec<_> = SealedColumn::ALL.iter().map(|column| column.aad_prefix).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), SealedColumn::ALL.len());
    }

    #[test]
    fn malformed_key_files_are_rejected_without_quoting_them() {
        for bad in ["", "1:xyz", "nonsense", "1:abcd"] {
            let error = Keyring::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !error.message().contains(bad));
        }
    }
}
