//! The operations that a service offers through its proxy, as its owner declares them in a manifest
//! (contract/modern 4.5): each has a method, a template of paths below the instance, and an action.
//!
//! While the manifest is enabled, each action is a permission of its own, `service-action.<service>.<action>`, that
//! roles may hold on the service, on an instance or on a team. A proxied request that matches an operation needs its
//! permission. One that matches none is refused if the manifest is strict, and needs
//! `service-instance.update.proxy` otherwise. With `legacy_compat` that permission also suffices for operations.
//!
//! Promises: what a role holds is bound to the service by its id, and ends with it. An action that a role still
//! holds cannot be removed from the manifest, so that no role holds what nobody can see.

mod actions;
mod model;
pub mod modern;
mod pattern;
mod store;

pub(in crate::services) use actions::{ProxyDecision, decide_proxy};
