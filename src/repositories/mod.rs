//! Repositories: one bare git repository an app, spoken to by `git` over HTTP, and `git push` deploys.
//!
//! The talking is git's own: `git upload-pack` and `git receive-pack` run as children, by argv and with a
//! cleared environment, and their bytes stream both ways. What a push may do is decided in between. The
//! objects arrive in git's quarantine; then git runs our hook, the only one there is (`core.hooksPath` is
//! ours, so a hook in a pushed tree is a file like any other), which asks this process over two named
//! pipes in a folder that nobody else can enter. A push of the *default branch* is deployed there and then,
//! as the user who pushes; lines of the event go back through the hook to the pusher. Only when the deploy
//! has ended well does the hook say yes, and the refs move. Whatever fails, a killed server included, is a
//! no: objects and refs stay as they were, and the deploy, which is an event like any other, is done or
//! undone by itself.
//!
//! The *default branch* is the app's own choice; until it has chosen, that of the settings, or `main` or
//! `master` if only that comes first. The database knows it, and `HEAD` follows. Other branches and tags are
//! kept, not deployed. One push at a time deploys an app.
//!
//! *Where the truth lies.* Files and refs lie on one host: that of the first push or fetch, as the versions made
//! of them do. The database knows which host that is and where it is reached, and every other replica passes on
//! to it what it is asked, over HTTP as over SSH; so a push to any of them is seen by all. While that host is away
//! its repositories are, and pushers are told so; nothing is copied between hosts.
//!
//! A pusher who hangs up stops neither the deploy nor the refs: git's answer is read to its end. Whoever only
//! fetches, and stops reading, loses their git after the time that an upload may pause.
//!
//! Disk is bounded: what comes in stays packed (`receive.unpackLimit`), git refuses a pack that is larger than what is
//! left of the quota, and one push is received after the other, so that all of them together keep to it. What a pack
//! unpacks to is bounded apart: a git that takes in what strangers have made may write no file larger than the room that
//! is left, may hold no object in memory that is larger than a deploy may be, and has so much time of the processor. What
//! a commit unpacks to is counted before it is unpacked. A healer packs anew what was pushed to, and removes what belongs
//! to no app any more.

mod actions;
mod children;
mod disk;
mod fetched;
mod healer;
mod hook;
mod model;
pub mod modern;
mod push;
mod room;
mod store;
mod talk;
pub mod wire;

pub use actions::{Elsewhere, Place, Repository, find, prepare, remove_files};
pub use fetched::{Remote, deploy_fetched, fetch, host};
pub use healer::Repositories;
pub use model::Service;
pub use talk::{Manner, Talk};
