//! Forges: an app deployed from a repository elsewhere, on GitHub, Gitea or what speaks like them.
//!
//! Somebody who may change the app says once where its repository is and which branch counts, and gets a secret
//! for the forge. From then on the forge tells of each push by a *delivery*: a request without a token, signed with
//! that secret. One that is not, that has been taken before (by its id or, since the signature does not cover
//! that, by what it says), or that is for an unknown app, is refused, and the first and the last of these sound
//! alike; one that came to nothing may be sent again. A delivery says which commit is new and no more is believed of it: what is fetched is the configured
//! branch of the configured repository, and it is deployed if it is still that commit; if not, another delivery is on
//! its way.
//!
//! Fetching and deploying is a saga, `forge.deploy`: the forge is answered at once, and a crash loses nothing. It runs
//! on the host that has the app's repository. The deploy is an event like any other, with origin `git`. Why a delivery
//! came to nothing is kept with the forge and shown with it, and is the error of an event of its own.
//!
//! What is fetched from speaks HTTP, or SSH. For the latter each app has a *deploy key* of its own, whose public half
//! its owner adds at the forge; the forge is known by its host key, which its owner has said or which was seen first.
//! Where services may not be called at private addresses, forges may not either, and the address that was looked at
//! is the one that is connected to. No redirect is followed. The secret, the password and the deploy key are sealed.

mod actions;
mod address;
mod fetch;
mod model;
pub mod modern;
mod saga;
mod store;

pub use saga::DeployFromForge;
