//! Hand-over: a new Tancho takes the place of the one that runs on the same data folder, and no client notices.
//!
//! The running process (*predecessor*) waits at `handover.sock` in the data folder. `tancho upgrade` asks it to start a
//! program as its *successor*, with its own arguments and environment, so that settings are read anew but mean the same.
//! A successor that somebody else has started (`tancho serve --take-over`) connects by itself.
//!
//! 1. The successor gets the listening sockets, opens the database (and migrates it), and serves beside the predecessor.
//! 2. It says that it is ready. The predecessor stops sagas and reconcilers, accepts no more connections, and passes the
//!    lock of the data folder.
//! 3. The successor begins sagas and reconcilers. The predecessor lets its clients finish, and exits.
//!
//! **Promises.** Until step 2 nothing of the predecessor has changed: if the successor fails, hangs or dies, it goes on
//! alone, and `tancho upgrade` prints the reason. There is one successor at a time. Only the user who runs Tancho, and
//! root, can ask, and no unit, whatever user it runs as (`token`). Units and the managed Postgres run on: each belongs to the data folder, not to a process.

mod messages;
mod predecessor;
mod successor;
mod token;
mod upgrade;

pub(super) use predecessor::{HandoverServer, ReadySuccessor};
pub(super) use successor::RunningPredecessor;
pub(super) use upgrade::run_upgrade;
