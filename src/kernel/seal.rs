//! Secrets at rest: AES-256-GCM-SIV, with the id of the key in front and the place of the value
//! (table, column, row) as associated data, so that a sealed value copied to another row does not open.
//!
//! Shape: one byte of format (1), four bytes of key id, twelve of nonce, then the ciphertext with its tag.
//!
//! A place is made of a `Column`, and `Column::ALL` is the one table of them: what is sealed at all is in it,
//! so that a change of the key (`sealing`) reaches everything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::aead::{Aead, KeyInit, Payload};
use aes_gcm_siv::{Aes256GcmSiv, Key, Nonce};
use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

const FORMAT: u8 = 1;
const HEAD: usize = 17;

/// A column of the database whose values are sealed. Only this file makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// How places of it begin; never changed, because it is part of what is sealed.
    place: &'static str,
    /// Its table.
    pub table: &'static str,
    /// Its name there.
    pub name: &'static str,
    /// The columns that tell the rest of a place, in the order of `Place::new`.
    pub row: &'static [&'static str],
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.table, self.name)
    }
}

macro_rules! sealed_columns {
    ($($(#[$doc:meta])* $constant:ident = $place:literal: $table:literal . $name:literal by [$($row:literal),*];)*) => {
        impl Column {
            $($(#[$doc])*
            pub const $constant: Column =
                Column { place: $place, table: $table, name: $name, row: &[$($row),*] };)*

            /// All of them.
            pub const ALL: &[Column] = &[$(Column::$constant),*];
        }
    };
}

sealed_columns! {
    /// Variables that are set on an app.
    ENV_VAR = "env_var": "env_var"."value" by ["app_id", "name"];
    /// Variables that a service has given.
    BIND_ENV = "bind_env": "bind_env"."value" by ["bind_id", "name"];
    /// The whole environment of a release.
    RELEASE_ENV = "release.env": "release"."env" by ["app_id", "version"];
    /// What users had set when a release was made.
    RELEASE_USER_ENV = "release.user_env": "release"."user_env" by ["app_id", "version"];
    /// Passwords of services.
    SERVICE_PASSWORD = "service.password": "service"."password" by ["service_id"];
    /// API keys.
    BEARER = "bearer": "bearer"."sealed" by ["token_id"];
    /// Letters on their way.
    LETTER = "mail": "letter"."sealed" by ["letter_id"];
    /// The key by which clients know the SSH server.
    SSH_HOST_KEY = "ssh_host_key": "ssh_host_key"."sealed" by ["one"];
    /// By which deliveries of forges are signed.
    FORGE_SECRET = "forge.secret": "forge"."secret" by ["app_id"];
    /// By which repositories of forges are read.
    FORGE_PASSWORD = "forge.password": "forge"."password" by ["app_id"];
    /// The same over SSH.
    FORGE_DEPLOY_KEY = "forge.deploy_key": "forge"."deploy_key" by ["app_id"];
}

/// Where a sealed value lives: `Place::new(Column::ENV_VAR, &[&app, &name])`.
#[derive(Clone, Debug)]
pub struct Place(String);

impl Place {
    /// A place from its column and what identifies the row.
    pub fn new(column: Column, row: &[&dyn fmt::Display]) -> Self {
        let mut text = column.place.to_owned();
        for part in row {
            text.push('\u{1f}');
            text.push_str(&part.to_string());
        }
        Self(text)
    }
}

/// The keys that seal and open: one of them seals, all open. They can be exchanged at work.
pub struct Keyring(ArcSwap<Ring>);

#[derive(Clone)]
struct Ring {
    current: u32,
    keys: BTreeMap<u32, Arc<Aes256GcmSiv>>,
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
            keys.insert(id, Arc::new(key));
        }
        let current = *keys.keys().next_back().ok_or_else(|| {
            Problem::invalid(
                "The seal keys are empty: one line of the form <number>:<64 hexadecimal digits> is needed.",
            )
        })?;
        Ok(Self(ArcSwap::from_pointee(Ring { current, keys })))
    }

    /// A text for `parse` with one new key.
    pub fn generate() -> Secret {
        Self::generate_line(1)
    }

    /// A line for `parse` with a new key of this number.
    pub fn generate_line(id: u32) -> Secret {
        Secret::new(format!("{id}:{}\n", Secret::random().expose()))
    }

    /// The number of the key in a line of `parse`, if it is one.
    pub fn id_of_line(line: &str) -> Option<u32> {
        parse_line(line.trim()).map(|(id, _)| id)
    }

    /// The numbers of the keys, upwards.
    pub fn ids(&self) -> Vec<u32> {
        self.0.load().keys.keys().copied().collect()
    }

    /// The number of the key that seals.
    pub fn current(&self) -> u32 {
        self.0.load().current
    }

    /// Has another of its keys seal; false if there is none of that number.
    pub fn choose(&self, id: u32) -> bool {
        let ring = self.0.load_full();
        if !ring.keys.contains_key(&id) {
            return false;
        }
        if ring.current != id {
            let mut ring = Ring::clone(&ring);
            ring.current = id;
            self.0.store(Arc::new(ring));
        }
        true
    }

    /// Takes the keys of another ring, and forgets its own.
    pub fn replace(&self, other: &Keyring) {
        self.0.store(other.0.load_full());
    }

    /// Seals a text for its place.
    pub fn seal(&self, place: &Place, plain: &Secret) -> Vec<u8> {
        let mut nonce = [0_u8; 12];
        getrandom::fill(&mut nonce).expect("the system gives random bytes");
        let payload = Payload {
            msg: plain.expose().as_bytes(),
            aad: place.0.as_bytes(),
        };
        let ring = self.0.load();
        let sealed = ring.keys[&ring.current]
            .encrypt(&Nonce::from(nonce), payload)
            .expect("a text in memory is short enough to seal");
        let mut out = Vec::with_capacity(HEAD + sealed.len());
        out.push(FORMAT);
        out.extend_from_slice(&ring.current.to_be_bytes());
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
        let ring = self.0.load();
        let cipher = ring
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
        let ring = self.0.load();
        write!(f, "Keyring({} keys, current {})", ring.keys.len(), ring.current)
    }
}

fn parse_line(line: &str) -> Option<(u32, Aes256GcmSiv)> {
    let (id, digits) = line.split_once(':')?;
    let mut bytes = [0_u8; 32];
    hex::decode_to_slice(digits.trim(), &mut bytes).ok()?;
    let key = Key::<Aes256GcmSiv>::from(bytes);
    bytes.zeroize();
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
        let here = Place::new(Column::ENV_VAR, &[&"app", &"NAME"]);
        let there = Place::new(Column::ENV_VAR, &[&"app", &"OTHER"]);
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
        let place = Place::new(Column::BEARER, &[&1]);
        let old = Keyring::parse(&one).unwrap().seal(&place, &Secret::new("x"));
        let ring = Keyring::parse(&both).unwrap();
        assert_eq!(ring.open(&place, &old).unwrap().expose(), "x");
        assert_eq!(ring.seal(&place, &Secret::new("x"))[1..5], 2_u32.to_be_bytes());
        assert!(ring.choose(1) && !ring.choose(3));
        assert_eq!(ring.seal(&place, &Secret::new("x"))[1..5], 1_u32.to_be_bytes());
        ring.replace(&Keyring::parse(&format!("2:{}", "22".repeat(32))).unwrap());
        assert!(
            ring.open(&place, &old).is_err(),
            "an old key that is gone opens nothing"
        );
    }

    #[test]
    fn no_two_columns_share_a_place() {
        let mut places: Vec<_> = Column::ALL.iter().map(|column| column.place).collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), Column::ALL.len());
    }

    #[test]
    fn bad_key_files_are_refused_without_showing_them() {
        for bad in ["", "1:xyz", "nonsense", "1:abcd"] {
            let problem = Keyring::parse(bad).unwrap_err();
            assert!(bad.is_empty() || !problem.words().contains(bad));
        }
    }
}
