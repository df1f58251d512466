//! What another replica has to answer: it is passed on there, in the name of the user.
//!
//! A replica logs in to the other one under a fixed name and by the key that only replicas have, once the other
//! has shown the host key that only replicas have; then it says in the channel's variables for whom it asks. The
//! other believes these variables of nobody else, and decides on the user's rights anew. What was passed on goes
//! no further.
//!
//! Each command has a connection of its own, so that a client that does not read holds up nobody else's.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::core::Core;
use crate::kernel::problem::Problem;
use crate::repositories::Elsewhere;
use crate::ssh::HostKey;
use crate::ssh::client::{self, ClientError, Hearing, PublicKey, Speaking};
use crate::ssh::command::Request;
use crate::ssh::errand::Guest;
use crate::ssh::relay;

/// Under which a replica logs in. To a user it is a name like any other.
pub(super) const USER: &str = "tancho-replica";
/// The variable with the fingerprint of the user's key.
pub(super) const KEY: &str = "TANCHO_SSH_KEY";
/// The variable with the user's address.
pub(super) const ADDRESS: &str = "TANCHO_SSH_ADDRESS";

/// For a connection to another replica.
const CONNECT: Duration = Duration::from_secs(4);
/// For each step from there to the command.
const STEP: Duration = Duration::from_secs(10);
/// Logins to other replicas at once. Few, for at the door of each an address has only so many places, and
/// several replicas may have the same one.
const LOGINS: usize = 4;

/// Comes when this replica stops and the time for what is under way is nearly over.
async fn stopping(core: &Core) -> Problem {
    core.stop.cancelled().await;
    tokio::time::sleep(core.settings.api.drain * 2 / 3).await;
    Problem::unavailable(
        "This server is being stopped before this was at its end. A push that is being deployed goes on: fetch in a \
         while to see whether the branch has moved.",
    )
}

/// The other replicas, and how they know us.
pub(super) struct Replicas {
    key: HostKey,
    logins: Semaphore,
}

/// What is passed on.
pub(super) struct Passed<'a> {
    pub(super) guest: &'a Guest,
    pub(super) request: &'a Request,
    pub(super) protocol: Option<&'a str>,
}

impl Replicas {
    pub(super) fn new(key: HostKey) -> Self {
        Self {
            key,
            logins: Semaphore::new(LOGINS),
        }
    }

    /// Whether a key is that of a replica.
    pub(super) fn is_one(&self, key: &russh::keys::PublicKey) -> bool {
        PublicKey::new(key) == self.key.replica.public()
    }

    /// Lets the replica that has the repository speak with the client, who reads, hears and is told errors by the
    /// three; git's exit status there. Errors: `Unavailable` while that replica is away.
    pub(super) async fn pass_on(
        &self,
        core: &Core,
        elsewhere: &Elsewhere,
        passed: &Passed<'_>,
        client: (
            impl AsyncRead + Unpin,
            impl AsyncWrite + Unpin,
            impl AsyncWrite + Unpin,
        ),
    ) -> Result<u32, Problem> {
        let Some(address) = &elsewhere.ssh_address else {
            return Err(elsewhere.problem(core));
        };
        let host = &elsewhere.host;
        let (speaking, mut hearing) = self.begin(address, passed).await.map_err(|error| {
            // Not the user's to mend: a wrong address looks the same to them.
            tracing::warn!(%error, host, address, "another replica cannot be reached over SSH");
            Problem::unavailable(format!(
                "The host {host}, which has this repository, does not answer: try again when it is back."
            ))
            .because(error)
        })?;
        let passing = relay::pass(&speaking, &mut hearing, client, core.settings.ssh.idle);
        let is_complete = tokio::select! {
            is_complete = passing => is_complete,
            problem = stopping(core) => return Err(problem),
        };
        match hearing.status() {
            Some(status) => {
                core.tasks.spawn(hearing.leave());
                Ok(status)
            }
            None if is_complete => Err(Problem::unavailable(format!(
                "The host {host}, which has this repository, went away before this was at its end: try again when \
                 it is back."
            ))),
            // The client is gone, or too slow.
            None => Ok(1),
        }
    }

    async fn begin(&self, address: &str, passed: &Passed<'_>) -> Result<(Speaking, Hearing), ClientError> {
        let entering = async {
            let place = timeout(STEP, self.logins.acquire()).await;
            let _place = place.map_err(|_| ClientError::Late("have room for us"))?;
            let stream = client::reach(address, CONNECT).await?;
            let met = client::meet(stream, STEP).await?.expect(&self.key.public())?;
            met.log_in(USER, &self.key.replica).await
        };
        let address = passed.guest.address.to_string();
        let mut variables = vec![(KEY, &*passed.guest.key), (ADDRESS, &address)];
        if let Some(protocol) = passed.protocol {
            variables.push(("GIT_PROTOCOL", protocol));
        }
        // Taken apart and put together: whatever else the client wrote stays here.
        let (service, name) = (passed.request.service.name(), &passed.request.repository);
        let command = format!("{service} {name}");
        entering.await?.run(&variables, command.as_bytes()).await
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use super::*;
    use crate::kernel::secret::Secret;
    use crate::repositories::Service;
    use crate::ssh::client::tests::{pair, serve};

    #[tokio::test]
    async fn nobody_is_logged_in_to_who_has_another_host_key_than_ours() {
        let own = HostKey::from_seed(&Secret::random()).unwrap();
        let address = serve(&pair(), &own.replica).await;
        let guest = Guest {
            key: Arc::from("SHA256:a"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            was_passed: false,
        };
        let request = Request {
            service: Service::UploadPack,
            repository: "shop".to_owned(),
        };
        let passed = Passed {
            guest: &guest,
            request: &request,
            protocol: None,
        };
        let begun = Replicas::new(own).begin(&address, &passed).await.err();
        assert!(matches!(begun, Some(ClientError::OtherKey(_))), "{begun:?}");
    }
}
