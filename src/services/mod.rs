//! Services: what other people run and offer to apps. A *service* has a manifest (where its provisioning
//! API is, and the password for it); an *instance* is one thing it has made for us, a database say; a
//! *bind* connects an instance to an app, and the variables that the service answers with become part of
//! the app's environment.
//!
//! Instance: `creating` → `ready` → `removing`; a creation that fails leaves no row. Bind: `binding` →
//! `bound` → `unbinding`; only what is `bound` counts for the environment of an app.
//!
//! What this slice promises: a call to a service is written down before it is made; whatever dies or hangs
//! in between, the end is *done* or *undone*, and what a service may still hold for us unknowingly, or may come to
//! hold because it carries out a lost call late, becomes an **orphan**, which is hunted until the service confirms
//! that it is gone. A dead or hung service delays
//! its own users only. A service's own words reach the user, bounded and without control characters; its
//! password never does.
//!
//! What it never does: call a service inside a transaction, send a destroy for something it did not make,
//! keep a password or a variable in clear.

pub mod binds;
pub mod broker;
pub mod catalogue;
mod crews;
pub mod instances;
pub mod manifest;
pub mod model;
pub mod orphans;
mod sagas;
mod wire;

pub use binds::unbind_everything;
