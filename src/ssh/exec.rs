//! One command of a client, from authentication to its exit status.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::Msg;
use russh::{Channel, ChannelReadHalf, ChannelWriteHalf};

use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::request_context::{RequestContext, TokenKind};
use crate::repositories::{self, GitProtocol, RepositoryLocation};
use crate::ssh::command::{self, ONLY_GIT_MESSAGE};
use crate::ssh::forward::{ForwardedCommand, ReplicaClient};
use crate::ssh::relay;
use crate::users;

/// The time limit for sending the exit status.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// The data type code of standard error.
const EXTENDED_DATA_STDERR: u32 = 1;

/// The client of a command.
pub(super) struct SshPeer {
    /// The fingerprint of the client's key.
    pub(super) key_fingerprint: Arc<str>,
    pub(super) address: IpAddr,
    /// Forwarded by another replica: it is not forwarded again.
    pub(super) was_forwarded: bool,
}

/// The request of a client in a channel.
pub(super) enum ChannelRequest {
    Exec(Vec<u8>),
    /// A shell, or a subsystem such as sftp.
    Other,
}

/// A command of a client; see the module.
pub(super) struct SshExecRequest {
    pub(super) core: Core,
    pub(super) replicas: Arc<ReplicaClient>,
    pub(super) peer: SshPeer,
    pub(super) request: ChannelRequest,
    /// The version of git's protocol that the client requests.
    pub(super) protocol_version: Option<String>,
    pub(super) request_id: Arc<str>,
}

impl SshExecRequest {
    /// Runs the request in a channel that is not in use yet.
    pub(super) async fn serve_channel(self, channel: Channel<Msg>) {
        let (mut read, write) = channel.split();
        let ended = self.run_git(&mut read, &write).await;
        // A client that does not read is not waited for.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, close_channel(&write, ended)).await;
    }

    /// Runs git for the client, here or on the replica that has the repository; returns git's exit status.
    async fn run_git(self, read: &mut ChannelReadHalf, write: &ChannelWriteHalf<Msg>) -> Result<u32, Error> {
        let request = match &self.request {
            ChannelRequest::Exec(command) => command::parse_command(command),
            ChannelRequest::Other => None,
        };
        let request = request.ok_or_else(|| Error::invalid(ONLY_GIT_MESSAGE))?;
        let call = self.authenticate_peer().await?;
        let core = &self.core;
        let found =
            repositories::find_or_create_repository(core, &call, &request.repository, request.service)
                .await?;
        let client = (
            read.make_reader(),
            write.make_writer(),
            write.make_writer_ext(Some(EXTENDED_DATA_STDERR)),
        );
        match found {
            RepositoryLocation::Local(repository) => {
                let protocol = GitProtocol {
                    service: request.service,
                    stateless: false,
                    version: self.protocol_version.as_deref(),
                };
                relay::relay_local(core, &call, &repository, protocol, client).await
            }
            RepositoryLocation::Remote(elsewhere) if self.peer.was_forwarded => {
                Err(elsewhere.wrong_host_error(core))
            }
            RepositoryLocation::Remote(elsewhere) => {
                let forwarded = ForwardedCommand {
                    peer: &self.peer,
                    request: &request,
                    protocol_version: self.protocol_version.as_deref(),
                };
                self.replicas
                    .forward_command(core, &elsewhere, &forwarded, client)
                    .await
            }
        }
    }

    /// Authenticates the key again, with its current owner and permissions.
    async fn authenticate_peer(&self) -> Result<RequestContext, Error> {
        let (actor, grants) = users::authenticate_key(&self.core, &self.peer.key_fingerprint)
            .await?
            .ok_or_else(|| Error::unauthenticated("This key has been removed."))?;
        Ok(RequestContext {
            actor,
            grants,
            token_kind: TokenKind::SshKey,
            token_digest: None,
            request_id: Arc::clone(&self.request_id),
            source_ip: Arc::from(self.peer.address.to_string()),
        })
    }
}

/// Sends the exit status or the error, and closes the channel.
async fn close_channel(write: &ChannelWriteHalf<Msg>, ended: Result<u32, Error>) -> Result<(), russh::Error> {
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            match error.kind() {
                ErrorKind::Internal => tracing::error!(error = %error.report(), "SSH command failed"),
                _ => tracing::debug!(error = %error.report(), "SSH command refused"),
            }
            let message = format!("ERROR: {}\n", error.message());
            write
                .extended_data_bytes(EXTENDED_DATA_STDERR, message.into_bytes())
                .await?;
            1
        }
    };
    write.exit_status(status).await?;
    write.eof().await?;
    write.close().await
}
