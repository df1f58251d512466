//! Forwards commands to the replica that has the repository, on behalf of the user.
//!
//! A replica verifies the host key of the other one, which only replicas have, and logs in under a fixed name
//! with the replica key, which also only replicas have. Channel variables then name the user. The other
//! replica accepts these variables from replicas only, and checks the user's permissions again. A forwarded
//! command is not forwarded again.
//!
//! Each command has a connection of its own, so that a client that does not read delays no other client.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::repositories::RemoteReplica;
use crate::ssh::HostKey;
use crate::ssh::client::{self, ChannelReader, ChannelWriter, ClientError, SshPublicKey};
use crate::ssh::command::GitRequest;
use crate::ssh::exec::SshPeer;
use crate::ssh::relay;

/// The login name of replicas. For users it is a name like any other.
pub(super) const REPLICA_USER: &str = "tancho-replica";
/// The variable with the fingerprint of the user's key.
pub(super) const KEY_VARIABLE: &str = "TANCHO_SSH_KEY";
/// The variable with the user's address.
pub(super) const ADDRESS_VARIABLE: &str = "TANCHO_SSH_ADDRESS";

/// The timeout for connecting to another replica.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// The timeout of each step from there to the command.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// Concurrent logins to other replicas. Few, because each of them limits pending logins per address, and
/// several replicas may share an address.
const MAX_LOGINS: usize = 4;

/// Completes when this replica stops and the drain time is nearly over.
async fn wait_for_shutdown(core: &Core) -> Error {
    core.stop_requests.cancelled().await;
    tokio::time::sleep(core.settings.api.drain_timeout * 2 / 3).await;
    Error::unavailable(
        "This server is shutting down before the command was complete. A deploy in progress continues: fetch in a \
         while to see whether the branch has moved.",
    )
}

/// The client for other replicas.
pub(super) struct ReplicaClient {
    key: HostKey,
    logins: Semaphore,
}

/// A command to forward.
pub(super) struct ForwardedCommand<'a> {
    pub(super) peer: &'a SshPeer,
    pub(super) request: &'a GitRequest,
    pub(super) protocol_version: Option<&'a str>,
}

impl ReplicaClient {
    pub(super) fn new(key: HostKey) -> Self {
        Self {
            key,
            logins: Semaphore::new(MAX_LOGINS),
        }
    }

    /// Returns whether a key is the replica key.
    pub(super) fn is_replica_key(&self, key: &russh::keys::PublicKey) -> bool {
        SshPublicKey::new(key) == self.key.replica_key.public_key()
    }

    /// Runs the command on the replica that has the repository, and relays it to the client, given by its
    /// standard input, output and error; returns git's exit status. Errors: `Unavailable` while that replica
    /// is down.
    pub(super) async fn forward_command(
        &self,
        core: &Core,
        elsewhere: &RemoteReplica,
        forwarded: &ForwardedCommand<'_>,
        client: (
            impl AsyncRead + Unpin,
            impl AsyncWrite + Unpin,
            impl AsyncWrite + Unpin,
        ),
    ) -> Result<u32, Error> {
        let Some(address) = &elsewhere.ssh_address else {
            return Err(elsewhere.wrong_host_error(core));
        };
        let host = &elsewhere.host;
        let (input, mut output) = self.start_command(address, forwarded).await.map_err(|error| {
            // The user cannot fix this: a wrong address looks the same to them.
            tracing::warn!(%error, host, address, "cannot reach another replica over SSH");
            Error::unavailable(format!(
                "The host {host}, which has this repository, does not respond: try again when it is back."
            ))
            .with_source(error)
        })?;
        let passing = relay::relay_remote(&input, &mut output, client, core.settings.ssh.idle_timeout);
        let is_complete = tokio::select! {
            is_complete = passing => is_complete,
            error = wait_for_shutdown(core) => return Err(error),
        };
        match output.exit_status() {
            Some(status) => {
                core.tasks.spawn(output.close_connection());
                Ok(status)
            }
            None if is_complete => Err(Error::unavailable(format!(
                "The host {host}, which has this repository, closed the connection before the command was complete: try again \
                 when it is back."
            ))),
            // The client is gone or too slow.
            None => Ok(1),
        }
    }

    async fn start_command(
        &self,
        address: &str,
        forwarded: &ForwardedCommand<'_>,
    ) -> Result<(ChannelWriter, ChannelReader), ClientError> {
        let logging_in = async {
            let permit = timeout(STEP_TIMEOUT, self.logins.acquire()).await;
            let _permit = permit.map_err(|_| ClientError::TimedOut("the wait for a login slot"))?;
            let stream = client::connect_tcp(address, CONNECT_TIMEOUT).await?;
            let server = client::perform_handshake(stream, STEP_TIMEOUT)
                .await?
                .require_host_key(&self.key.public_key())?;
            server.log_in(REPLICA_USER, &self.key.replica_key).await
        };
        let address = forwarded.peer.address.to_string();
        let mut variables = vec![
            (KEY_VARIABLE, &*forwarded.peer.key_fingerprint),
            (ADDRESS_VARIABLE, &address),
        ];
        if let Some(protocol) = forwarded.protocol_version {
            variables.push(("GIT_PROTOCOL", protocol));
        }
        // Built from the parsed request, so that nothing else of the client's command line is forwarded.
        let (service, name) = (
            forwarded.request.service.program_name(),
            &forwarded.request.repository,
        );
        let command = format!("{service} {name}");
        logging_in
            .await?
            .exec_command(&variables, command.as_bytes())
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use super::*;
    use crate::kernel::secret::Secret;
    use crate::repositories::GitService;
    use crate::ssh::client::tests::{random_key_pair, serve_one_connection};

    #[tokio::test]
    async fn login_to_replica_with_another_host_key_is_refused() {
        let own = HostKey::from_seed(&Secret::random_hex()).unwrap();
        let address = serve_one_connection(&random_key_pair(), &own.replica_key).await;
        let peer = SshPeer {
            key_fingerprint: Arc::from("SHA256:a"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            was_forwarded: false,
        };
        let request = GitRequest {
            service: GitService::UploadPack,
            repository: "shop".to_owned(),
        };
        let forwarded = ForwardedCommand {
            peer: &peer,
            request: &request,
            protocol_version: None,
        };
        let begun = ReplicaClient::new(own)
            .start_command(&address, &forwarded)
            .await
            .err();
        assert!(
            matches!(begun, Some(ClientError::HostKeyMismatch(_))),
            "{begun:?}"
        );
    }
}
