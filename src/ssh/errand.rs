//! One command of a client, from who they are to the last words.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use russh::server::Msg;
use russh::{Channel, ChannelReadHalf, ChannelWriteHalf};

use crate::core::Core;
use crate::kernel::call::{Call, TokenKind};
use crate::kernel::problem::{Kind, Problem};
use crate::repositories::{self, Manner, Place};
use crate::ssh::command::{self, ONLY_GIT};
use crate::ssh::forward::{Passed, Replicas};
use crate::ssh::relay;
use crate::users;

/// For the last words to a client.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Standard error, among the kinds of data of a channel.
const STDERR: u32 = 1;

/// Who has come.
pub(super) struct Guest {
    /// The fingerprint of their key.
    pub(super) key: Arc<str>,
    pub(super) address: IpAddr,
    /// By another replica: it goes no further.
    pub(super) was_passed: bool,
}

/// What a client has asked for.
pub(super) enum Wish {
    Exec(Vec<u8>),
    /// A shell, a subsystem such as sftp.
    Other,
}

/// See the module.
pub(super) struct Errand {
    pub(super) core: Core,
    pub(super) replicas: Arc<Replicas>,
    pub(super) guest: Guest,
    pub(super) wish: Wish,
    /// The version of git's protocol that the client asks for.
    pub(super) protocol: Option<String>,
    pub(super) request_id: Arc<str>,
}

impl Errand {
    /// Does it, in a channel that nothing runs in.
    pub(super) async fn carry(self, channel: Channel<Msg>) {
        let (mut read, write) = channel.split();
        let ended = self.run(&mut read, &write).await;
        // Who does not read the last words is not waited for.
        let _ = tokio::time::timeout(LAST_WORDS, close(&write, ended)).await;
    }

    /// Lets git speak with the client, here or where the repository is; git's exit status.
    async fn run(self, read: &mut ChannelReadHalf, write: &ChannelWriteHalf<Msg>) -> Result<u32, Problem> {
        let request = match &self.wish {
            Wish::Exec(command) => command::parse(command),
            Wish::Other => None,
        };
        let request = request.ok_or_else(|| Problem::invalid(ONLY_GIT))?;
        let call = self.enter().await?;
        let core = &self.core;
        let found = repositories::find(core, &call, &request.repository, request.service).await?;
        let client = (read.make_reader(), write.make_writer());
        match found {
            Place::Here(repository) => {
                let manner = Manner {
                    service: request.service,
                    stateless: false,
                    protocol: self.protocol.as_deref(),
                };
                relay::run(core, &call, &repository, manner, client).await
            }
            Place::There(elsewhere) if self.guest.was_passed => Err(elsewhere.problem(core)),
            Place::There(elsewhere) => {
                let passed = Passed {
                    guest: &self.guest,
                    request: &request,
                    protocol: self.protocol.as_deref(),
                };
                let client = (client.0, client.1, write.make_writer_ext(Some(STDERR)));
                self.replicas.pass_on(core, &elsewhere, &passed, client).await
            }
        }
    }

    /// Who the key stands for now.
    async fn enter(&self) -> Result<Call, Problem> {
        let (actor, grants) = users::admit_key(&self.core, &self.guest.key)
            .await?
            .ok_or_else(|| Problem::unauthenticated("This key has been removed meanwhile."))?;
        Ok(Call {
            actor,
            grants,
            token_kind: TokenKind::SshKey,
            token_digest: None,
            request_id: Arc::clone(&self.request_id),
            source_ip: Arc::from(self.guest.address.to_string()),
        })
    }
}

/// Says how a command has ended, and that this was all.
async fn close(write: &ChannelWriteHalf<Msg>, ended: Result<u32, Problem>) -> Result<(), russh::Error> {
    let status = match ended {
        Ok(status) => status,
        Err(problem) => {
            match problem.kind() {
                Kind::Internal => tracing::error!(cause = %problem.chain(), "an SSH command failed"),
                _ => tracing::debug!(cause = %problem.chain(), "an SSH command is refused"),
            }
            let words = format!("ERROR: {}\n", problem.words());
            write.extended_data_bytes(STDERR, words.into_bytes()).await?;
            1
        }
    };
    write.exit_status(status).await?;
    write.eof().await?;
    write.close().await
}
