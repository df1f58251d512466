//! Event blocks: an administrator blocks changes by their kind, their owner and their target, with a reason,
//! for example while a pool is moved.
//!
//! A block is *active* until it is removed; a removed block stays in the list. Every change asks for the
//! active blocks when its event begins (`events::begin_event`), so a block stops changes that begin after it;
//! changes that are running go on.
//!
//! Promises: a refused caller learns the block and its reason, and nothing is changed. No block keeps blocks
//! from being added or removed, so nobody is locked out for ever. What Tancho does by itself to complete
//! earlier changes (`NewEvent::ignore_blocks`) goes on too; deploys that a forge has asked for are blocked
//! like those of users.

mod actions;
mod matching;
mod model;
pub mod modern;
mod store;

pub(super) use actions::refuse_blocked_event;
pub use actions::{add_block, list_blocks, remove_block};
pub use model::{EventBlock, NewEventBlock};
