//! Repositories: one bare git repository per app, accessed by `git` over HTTP and SSH; `git push` deploys.
//!
//! The protocol is git's own: `git upload-pack` and `git receive-pack` run as child processes, started by
//! argv, and their bytes are streamed both ways. They read data of untrusted users, so every git command runs
//! in the sandbox, as a separate user (`git_command`).
//!
//! *A push.* The objects arrive in git's quarantine. Then git runs our hook, the only one there is
//! (`core.hooksPath` is ours, so a hook in a pushed tree is an ordinary file), which sends a request to this
//! process over two named pipes in a folder that no other user can enter. A push of the *default branch* is
//! deployed at once, as the pushing user; the lines of the event are returned through the hook to the client.
//! The hook accepts only after the deploy has succeeded, and then the refs move. Any failure, including a
//! killed server, rejects the push: objects and refs stay as they were, and the deploy, an event like any
//! other, is completed or undone on its own.
//!
//! The *default branch* is chosen per app. Without a choice it is that of the settings, or `main` or `master`
//! if only that is pushed first. It is stored in the database, and `HEAD` follows. Other branches and tags
//! are stored, not deployed. An app is deployed by one push at a time.
//!
//! *A push is atomic.* It moves branches and tags only. If it deploys, everything that git would refuse is
//! checked before: missing objects are detected, and the refs are locked until the deploy has ended (`refs`).
//! So the released commit is the one that the branch then points to. Shallow clones may push, as in CI.
//!
//! *Waiting.* The number of git processes is bounded, and their slots are shared fairly by user; pushes to
//! one repository are received one after the other. A waiting client holds neither and is notified
//! (`waiting`).
//!
//! *Location.* Files and refs are on one host: that of the first push or fetch, like the versions built from
//! them. The database stores which host that is and its address, and every other replica forwards requests to
//! it, over HTTP and SSH, so a push to any replica is visible on all. While that host is down, its
//! repositories are unavailable, and clients get an error; nothing is copied between hosts.
//!
//! A client that disconnects during a push stops neither the deploy nor the refs: git's output is read to its
//! end. The git process of a client that fetches and stops reading is ended after the time that an upload may
//! pause.
//!
//! *Disk.* Usage is bounded: received objects stay packed (`receive.unpackLimit`), git refuses a pack larger
//! than the remaining quota, and pushes and fetches are received one after the other, so that together they
//! keep the quota. Unpacked sizes are bounded separately: a git process that receives untrusted objects may
//! write no file larger than the remaining quota, may hold no object in memory that is larger than a deploy
//! may be, and has limited processor time. The unpacked size of a commit is computed before it is unpacked. A
//! healer repacks repositories that received pushes, and removes those of removed apps.

mod actions;
mod disk;
mod fsck;
mod git_command;
mod git_output;
mod git_session;
mod healer;
mod hook;
mod http_push;
mod model;
pub mod modern;
mod programs;
mod push;
mod push_head;
mod quota;
mod refs;
mod remote_fetch;
mod store;
mod tree;
mod waiting;
pub mod wire;

pub use actions::{
    RemoteReplica, Repository, RepositoryLocation, find_or_create_repository, prepare_repositories,
    remove_repository_files,
};
pub use git_session::{GitProtocol, GitSession};
pub use healer::RepositoryHealer;
pub use model::GitService;
pub use remote_fetch::{RemoteRepository, deploy_fetched_commit, fetch_branch, find_or_claim_host};
pub use waiting::ProgressSink;
