//! Which roles users, team tokens and groups hold, and on what. A group is known by its name from the first
//! role on; nobody is in one until an outside login says so.

pub(super) mod store;
