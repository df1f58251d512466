//! Routers: what forwards requests to units. This server has one built in, `proxy`, which every app has.
//!
//! Operators may add routers of the type `api`: servers that speak the router HTTP API. They are stored and
//! listed, but nothing is sent to them yet, so no app can have one.
//!
//! Promises: the configuration of a router is encrypted, and shown only to those who may read routers. Its URL
//! is one that this server may call. A router leaves the constraints of pools when it is removed.

mod actions;
mod model;
pub mod modern;
mod store;

pub use actions::router_exists;
pub use model::BUILT_IN;
