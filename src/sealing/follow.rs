//! A replica follows the keys: reads the file again, seals with the key that the database names, and says
//! which keys it has.

use std::time::Duration;

use crate::core::Core;
use crate::db::Db;
use crate::db::listen::Channel;
use crate::kernel::problem::Problem;
use crate::kernel::seal::Keyring;
use crate::sealing::source::Source;
use crate::sealing::store;

/// How often a replica looks without being told; a fraction of what it takes to be counted out.
const LOOK: Duration = Duration::from_secs(3);

/// Finds out which key seals, before anything is sealed or opened: the first replica of all says so.
/// Errors: `Precondition` when it is not among this machine's.
pub async fn agree(db: &Db, keys: &Keyring) -> Result<(), Problem> {
    let current = store::current_or(db, keys.current()).await?;
    if !keys.choose(current) {
        return Err(Problem::precondition(format!(
            "The database is sealed with key {current}, which this machine does not have (it has {:?}): copy the \
             key file of another machine, or of a backup, to this one.",
            keys.ids()
        )));
    }
    Ok(())
}

/// Takes part, once it has agreed.
pub async fn join(core: &Core) -> Result<(), Problem> {
    agree(&core.db, &core.keys).await?;
    tell(core).await
}

async fn tell(core: &Core) -> Result<(), Problem> {
    let (ids, current) = (core.keys.ids(), core.keys.current());
    Ok(store::tell(&core.db, core.replica, &core.host, &ids, current).await?)
}

/// Follows the keys until the server stops.
pub async fn follow(core: Core) {
    let source = Source::new(&core.settings.secrets, &core.dirs);
    let mut notices = core.notices.subscribe();
    loop {
        if let Err(problem) = look(&core, &source).await {
            tracing::warn!(problem = %problem.chain(), "the keys stay as they are");
        }
        tokio::select! {
            _ = notices.wait(&[Channel::Keys], LOOK) => {}
            () = core.stop.cancelled() => break,
        }
    }
    // Nobody has to wait for a replica that has said goodbye; for one that has not they do, for a while.
    let _ = store::leave(&core.db, core.replica).await;
}

async fn look(core: &Core, source: &Source) -> Result<(), Problem> {
    let current = store::current_or(&core.db, core.keys.current()).await?;
    let read = source.clone();
    let fresh = tokio::task::spawn_blocking(move || read.read())
        .await
        .map_err(Problem::internal)?;
    // What is wrong with the file is told at the end: the keys at hand are known to the others all the same.
    let taken = fresh.and_then(|fresh| match fresh.choose(current) {
        true => {
            core.keys.replace(&fresh);
            Ok(())
        }
        false => Err(Problem::precondition(format!(
            "Key {current}, which seals, is not in the key file."
        ))),
    });
    if taken.is_err() {
        core.keys.choose(current);
    }
    tell(core).await?;
    taken
}
