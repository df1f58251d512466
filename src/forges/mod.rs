//! Forges: deploys an app from a repository elsewhere, on GitHub, Gitea or a compatible forge.
//!
//! A user who may change the app sets the repository's address and the branch once, and gets a secret for the
//! forge's webhook. From then on the forge reports each push by a *delivery*: a request without a token,
//! signed with that secret. A delivery is refused if its signature is invalid, if it was accepted before (by
//! its id or, since the signature does not cover the id, by its content), or if the app is unknown; the first
//! and the last case give the same response. A delivery that failed may be sent again. Only the new commit is
//! taken from a delivery: Tancho fetches the configured branch of the configured repository, and deploys it
//! if it still is that commit; if not, another delivery will follow.
//!
//! Fetching and deploying is a saga, `forge.deploy`: the forge gets its response at once, and a crash loses
//! nothing. It runs on the host with the app's repository. The deploy is an event like any other, with origin
//! `git`. The reason of a failed delivery is stored and shown with the forge, and is the error of an event of
//! its own.
//!
//! Repositories are fetched over HTTP or SSH. For SSH each app has a *deploy key* of its own, whose public
//! half its owner adds at the forge; the forge is authenticated by its host key, which the owner sets or
//! which is pinned on first use. If services may not be called at private addresses, neither may forges, and
//! the address that was checked is the one that is connected to. Redirects are not followed. The secret, the
//! password and the deploy key are stored encrypted.

mod actions;
mod address;
mod fetch;
mod model;
pub mod modern;
mod saga;
mod store;

pub use saga::DeployFromForge;
