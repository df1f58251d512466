//! Secrets at rest: AES-256-GCM-SIV, with the id of the key in front and the place of the value
//! (table, column, row) as associated data, so that a sealed value copied to another row does not open.
//!
//! Shape: one byte of format (1), four bytes of key id, twelve of nonce, then the ciphertext with its tag.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Key, Nonce};
use sha2::{Digest, Sha256};

use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

const FORMAT: u8 = 1;
const HEAD: usize = 17;

/// Where a sealed value lives: `place!("env_var", app_id, name)`.
#[derive(Clone, Debug)]
pub struct Place(String);

impl Place {
    /// A place from the table's name and what identifies the row.
    pub fn new(table: &str, row: &[&dyn fmt::Display]) -> Self {
        let mut text = table.to_owned();
        for part in row {
            text.push('\u{1f}');
            text.push_str(&part.to_string());
        }
        Self(text)
    }
}

/// The keys that seal and open. The newest seals; all open.
pub struct Keyring {
    current: u32,
    keys: BTreeMap<u32, Aes256GcmSiv>,
}

impl Keyring {
    /// Reads lines of `<id>:<64 hexadecimal digits>`; the highest id seals.
    /// Errors: `Invalid`, without a word of the keys.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut keys = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, key) = parse_line(line).ok_or_else(|| {
                Problem::invalid(format!(
                    "Line {} of the seal keys is not of the form <number>:<64 hexadecimal digits>.",
                    at + 1
                ))
            })?;
            keys.insert(id, key);
        }
        let current = *keys.keys().next_back().ok_or_else(|| {
            Problem::invalid(
                "The seal keys are empty: one line of the form <number>:<64 hexadecimal digits> is needed.",
            )
        })?;
        Ok(Self { current, keys })
    }

    /// A text for `parse` with one new key.
    pub fn generate() -> Secret {
        Secret::new(format!("1:{}\n", Secret::random().expose()))
    }

    /// Seals a text for its place.
    pub fn seal(&self, place: &Place, plain: &Secret) -> Vec<u8> {
        let mut nonce = [0_u8; 12];
        getrandom::fill(&mut nonce).expect("the system gives random bytes");
        let payload = Payload {
            msg: plain.expose().as_bytes(),
            aad: place.0.as_bytes(),
        };
        let cipher = &self.keys[&self.current];
        let sealed = cipher
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a text in memory is short enough to seal");
        let mut out = Vec::with_capacity(HEAD + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&self.current.to_be_bytes());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        out
    }

    /// Opens what was sealed for this place. Errors: `Internal` when the key is gone or the bytes are
    /// not what was sealed here.
    pub fn open(&self, place: &Place, sealed: &[u8]) -> Result<Secret, Problem> {
        let fault = |why: String| Problem::internal(format!("{}: {why}", place.0.replace('\u{1f}', "/")));
        if sealed.len() < HEAD || sealed[0] != FORMAT {
            return Err(fault("not a sealed value".into()));
        }
        let (head, body) = sealed.split_at(HEAD);
        let id = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let cipher = self
            .keys
            .get(&id)
            .ok_or_else(|| fault(format!("sealed with key {id}, which is not in the key file")))?;
        let mut nonce = [0_u8; 12];
        nonce.copy_from_slice(&head[5..HEAD]);
        let plain = cipher
            .decrypt(
                &Nonce::from(nonce),
                Payload {
                    msg: body,
                    aad: place.0.as_bytes(),
                },
            )
            .map_err(|_| fault("sealed elsewhere, or damaged".into()))?;
        String::from_utf8(plain)
            .map(Secret::new)
            .map_err(|_| fault("not text".into()))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} keys, current {})", self.keys.len(), self.current)
    }
}

fn parse_line(line: &str) -> Option<(u32, Aes256GcmSiv)> {
    let (id, digits) = line.split_once(':')?;
    let mut bytes = [0_u8; 32];
    hex::decode_to_slice(digits.trim(), &mut bytes).ok()?;
    let key = Key::<Aes256GcmSiv>::from(bytes);
    Some((id.trim().parse().ok()?, Aes256GcmSiv::new(&key)))
}

/// The digest under which a bearer token is kept: SHA-256. Tokens have 256 random bits, so a slow
/// hash would add nothing.
pub fn digest(token: &Secret) -> [u8; 32] {
    Sha256::digest(token.expose().as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let ring = Keyring::parse(Keyring::generate().expose()).unwrap();
        let here = Place::new("env_var", &[&"app", &"NAME"]);
        let there = Place::new("env_var", &[&"app", &"OTHER"]);
        let sealed = ring.seal(&here, &Secret::new("s3cret"));
        assert!(!sealed.windows(6).any(|w| w == b"s3cret"));
        assert_eq!(ring.open(&here, &sealed).unwrap().expose(), "s3cret");
        assert!(ring.open(&there, &sealed).is_err());
        assert!(ring.open(&here, &sealed[..20]).is_err());
    }

    #[test]
    fn old_keys_open_and_the_newest_seals() {
        let one = format!("1:{}", "11".repeat(32));
        let both = format!("{one}\n2:{}\n", "22".repeat(32));
        let place = Place::new("t", &[&1]);
        let old = Keyring::parse(&one).unwrap().seal(&place, &Secret::new("x"));
        let ring = Keyring::parse(&both).unwrap();
        assert_eq!(ring.open(&place, &old).unwrap().expose(), "x");
        assert_eq!(ring.seal(&place, &Secret::new("x"))[1..5], 2_u32.to_be_bytes());
    }

    #[test]
    fn bad_key_files_are_refused_without_showing_them() {
        for bad in ["", "1:xyz", "nonsense", "1:abcd"] {
            let problem = Keyring::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !problem.words().contains(bad));
        }
    }
}
