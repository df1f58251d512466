//! Encryption keys and their rotation: every replica follows which key is current, and `tancho keys rotate`
//! introduces a new key while all replicas keep running.
//!
//! Keys are in a file on each machine (or in the settings); the database stores only their ids: the current
//! key (`encryption_state`), and the keys of each running replica (`encryption_replica`). A rotation has four stages:
//!
//! 1. A new key is added to the file. No replica encrypts with it yet.
//! 2. When every running replica has it, the database makes it the current key.
//! 3. When every replica encrypts with it, the database rejects new values under older keys (triggers, in
//!    case a replica was suspended), and existing values are re-encrypted, a few rows at a time.
//! 4. When no value is left under an older key, the old keys are removed from the file.
//!
//! The stage is determined by the file and the database alone, so the next rotation resumes an interrupted
//! one. A value that cannot be decrypted stays as it is, and so do the old keys.

mod key_source;
mod rotate;
mod store;
mod watch;

pub use key_source::KeySource;
pub use rotate::{KeyRotation, list_keys, rotate_keys};
pub use watch::{check_keys, register_replica, watch_keys};
