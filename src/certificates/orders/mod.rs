//! Certificates that are ordered from an authority by ACME (RFC 8555), and renewed.
//!
//! An order belongs to one host: a cname, without being asked for where `acme.automatic` is set, or any host of an app
//! for which a user has set the issuer. The dispatcher gives a due order to a saga, on one replica; the database
//! decides which. The authority asks the routers for the proof: each of them has it before the authority is told to ask.
//!
//! States of an order: `waiting` (for its first attempt, its next one after a failure, or the renewal) → `ordering` →
//! `waiting`; `off` where a user wants none.
//!
//! **Promises.** Only hosts that an app has are ordered. A failure leaves the certificate that is there; it is an event
//! of the app, and shown with its certificates until the next success. A process that dies repeats no more than one
//! request to the authority. Keys of accounts and orders are encrypted.

mod client;
mod dispatcher;
mod model;
pub(super) mod proof;
mod saga;
pub(super) mod store;

use crate::db::Db;
use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;

pub use dispatcher::OrderDispatcher;
pub use saga::OrderCertificate;

/// Deletes the record of a dead router, so that orders do not wait for it.
pub async fn forget_router(db: &Db, dead: ReplicaId) -> Result<(), Error> {
    Ok(store::forget_router(db, dead).await?)
}
