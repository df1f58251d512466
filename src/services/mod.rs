//! Services: software that users run and offer to apps, such as databases.
//!
//! A *service* has a manifest: the URL of its provisioning API, and the password for it. An *instance* is one
//! resource that the service has created for Tancho, a database for example. A *bind* connects an instance to
//! an app; the variables that the service returns become part of the app's environment.
//!
//! States of an instance: `creating` → `ready` → `removing`; a creation that fails leaves no row. States of a
//! bind: `binding` → `bound` → `unbinding`; only a `bound` bind contributes to the environment of an app.
//!
//! Promises:
//! - A call to a service is recorded before it is made. Whatever crashes or hangs in between, the operation
//!   ends either done or undone.
//! - What a service may still hold without Tancho's knowledge, or may come to hold because it executes a lost
//!   call late, is recorded as an **orphan**. The orphan reaper retries the removal until the service
//!   confirms it.
//! - A failed or hung service delays its own users only.
//! - Users see the messages of a service, bounded and without control characters; they never see its
//!   password.
//!
//! It never calls a service inside a transaction, never asks a service to destroy what it did not create for
//! Tancho, and never stores a password or a variable in plain text.

pub mod binds;
pub mod broker;
mod calls;
pub mod catalogue;
pub mod instances;
pub mod manifest;
pub mod model;
pub mod operations;
pub mod orphans;
pub mod proxy;
mod wire;

pub use binds::unbind_all_instances;
