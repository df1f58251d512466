//! The keys that seal, at work: every replica follows which of them seals, and `tancho keys rotate` brings a
//! new one in while all of them go on.
//!
//! Keys lie in a file that each machine has (or in the settings); the database knows only their numbers:
//! which one seals (`seal_state`), and which ones each replica at work has (`seal_follower`). A change goes so:
//!
//! 1. A new key is put into the file. Nobody seals with it yet.
//! 2. When every replica at work has it, the database names it as the one that seals.
//! 3. When every replica seals with it, values under older keys are refused from then on (triggers, in case a
//!    replica was asleep), and those that are there are sealed anew, a few rows at a time.
//! 4. When nothing is left under an older key, the old keys leave the file.
//!
//! Each stage can be told from the file and the database alone, so a rotation that was killed is gone on with
//! by the next one. A value that does not open stays as it is, and so do the old keys.

mod follow;
mod rotate;
mod source;
mod store;

pub use follow::{agree, follow, join};
pub use rotate::{Rotation, list, rotate};
pub use source::Source;
