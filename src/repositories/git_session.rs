//! A session of a git process with a client: the process, and its output to the client.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::fair_slots::FairSlot;
use crate::kernel::ids::UserId;
use crate::kernel::request_context::RequestContext;
use crate::repositories::actions::Repository;
use crate::repositories::fsck;
use crate::repositories::git_command::{GitChild, GitCommand, git_command, limited_git_command};
use crate::repositories::hook::{self, PUSH_FOLDER_VARIABLE};
use crate::repositories::model::GitService;
use crate::repositories::push::PushSession;
use crate::repositories::refs::VISIBLE_REFS;
use crate::repositories::waiting::{self, NoProgress, ProgressSink};

const CHUNK: usize = 64 * 1024;
/// Git's settings for receiving pushes.
const RECEIVE_SETTINGS: [&str; 4] = [
    // Received packs stay packed, and so as small as they are.
    "receive.unpackLimit=1",
    // The healer does it.
    "receive.autogc=false",
    // Accepts pushes from shallow clones, as CI uses them.
    "receive.shallowUpdate=true",
    // Protected branches are checked before the deploy, not after it.
    "receive.denyDeleteCurrent=ignore",
];
/// The limit on the ref advertisement.
const MAX_ADVERTISEMENT_BYTES: u64 = 64 << 20;

/// The protocol of a client.
#[derive(Clone, Copy, Debug)]
pub struct GitProtocol<'a> {
    pub service: GitService,
    /// Independent requests, as over HTTP; else one bidirectional stream, as over SSH.
    pub stateless: bool,
    /// The version of git's protocol that the client requests, as sent by the client.
    pub version: Option<&'a str>,
}

/// A session; see the module.
pub struct GitSession {
    child: GitChild,
    push: Option<PushSession>,
    /// How long a client may leave output unread.
    write_timeout: Duration,
    /// Held to the end.
    slot: FairSlot<Option<UserId>>,
}

impl GitSession {
    /// Starts git when a slot is free and, for a push, when other pushes have been received; returns the
    /// session and git's standard input. Errors: see [`waiting::acquire_slot`].
    pub async fn start_session(
        core: &Core,
        call: &RequestContext,
        repository: &Repository,
        protocol: GitProtocol<'_>,
        client: &dyn ProgressSink,
    ) -> Result<(Self, ChildStdin), Error> {
        let slot = waiting::acquire_slot(core, call, protocol.service, client).await?;
        let push = match protocol.service {
            GitService::UploadPack | GitService::UploadArchive => None,
            GitService::ReceivePack => Some(PushSession::new(core, call, repository.clone(), client).await?),
        };
        let command = build_session_command(core, repository, protocol, push.as_ref());
        let mut child = command.arg(&repository.path).stdin(Stdio::piped()).spawn()?;
        let stdin = child
            .child
            .stdin
            .take()
            .ok_or_else(|| Error::internal("git has no pipe"))?;
        let write_timeout = core.settings.api.request_timeout;
        Ok((
            Self {
                child,
                push,
                write_timeout,
                slot,
            },
            stdin,
        ))
    }

    /// Streams git's output to the client until git has ended; returns its exit status. A push continues
    /// without its client.
    pub async fn stream_output(self, client: mpsc::Sender<Bytes>) -> Option<i32> {
        let (is_push, _slot) = (self.push.is_some(), self.slot);
        let copying = copy_stdout(self.child, client, is_push, self.write_timeout);
        let Some(mut push) = self.push else {
            return copying.await;
        };
        let handling_hook = async {
            push.handle_hook().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = copying => status,
            () = handling_hook => None,
        }
    }
}

async fn copy_stdout(
    mut child: GitChild,
    client: mpsc::Sender<Bytes>,
    is_push: bool,
    write_timeout: Duration,
) -> Option<i32> {
    let mut stdout = child.child.stdout.take()?;
    let (mut chunk, mut client) = (vec![0; CHUNK], Some(client));
    loop {
        let read = match stdout.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => Bytes::copy_from_slice(&chunk[..read]),
        };
        let Some(sender) = &client else { continue };
        if !matches!(
            tokio::time::timeout(write_timeout, sender.send(read)).await,
            Ok(Ok(()))
        ) {
            client = None;
            if !is_push {
                return None;
            }
        }
    }
    child.wait().await.ok()?
}

/// Returns the ref advertisement of a repository, for the first request of the stateless protocol.
pub(super) async fn advertise_refs(
    core: &Core,
    call: &RequestContext,
    repository: &Repository,
    protocol: GitProtocol<'_>,
) -> Result<Vec<u8>, Error> {
    // A short query, so it uses a slot for reading.
    let _slot = waiting::acquire_slot(core, call, GitService::UploadPack, &NoProgress).await?;
    let command = build_session_command(core, repository, protocol, None).arg("--http-backend-info-refs");
    let answer = command
        .arg(&repository.path)
        .read_output(MAX_ADVERTISEMENT_BYTES)
        .await
        .map_err(|error| match error.kind() {
            ErrorKind::TooLarge => too_many_refs_error(),
            _ => error,
        })?;
    match answer.status {
        Some(0) => Ok(answer.stdout),
        _ => Err(Error::internal("git cannot list the refs of the repository")),
    }
}

fn too_many_refs_error() -> Error {
    Error::too_large(format!(
        "The names of this repository's branches and tags are longer than {MAX_ADVERTISEMENT_BYTES} bytes together: use \
         the repository over SSH, and delete those that nobody needs."
    ))
}

/// Builds the git command of a session. An advertisement for a push has no limits yet.
fn build_session_command(
    core: &Core,
    repository: &Repository,
    protocol: GitProtocol<'_>,
    push: Option<&PushSession>,
) -> GitCommand {
    let path = &repository.path;
    let mut command = match push {
        None => git_command(core, path),
        Some(push) => {
            let hooks = hook::hooks_folder(&core.data_dir.repositories_dir());
            let command = limited_git_command(core, path, push.git_limits());
            let command = command
                .env(PUSH_FOLDER_VARIABLE, push.hook_folder())
                .allow_write(push.hook_folder())
                .allow_read(&hooks);
            let mut setting = OsString::from("core.hooksPath=");
            setting.push(hooks);
            command.with_config(setting)
        }
    };
    for setting in VISIBLE_REFS {
        command = command.with_config(setting);
    }
    if protocol.service == GitService::ReceivePack {
        for setting in RECEIVE_SETTINGS {
            command = command.with_config(setting);
        }
    }
    if let Some(push) = push {
        // Zero would mean no limit.
        command = command.with_config(format!(
            "receive.maxInputSize={}",
            push.git_limits().max_growth_bytes.max(1)
        ));
        for setting in fsck::config_settings(fsck::ObjectSource::Push) {
            command = command.with_config(setting);
        }
    }
    command = command.arg(protocol.service.subcommand_name());
    if protocol.stateless {
        command = command.arg("--stateless-rpc");
    }
    match protocol.version {
        Some(version @ ("version=1" | "version=2")) => command.env("GIT_PROTOCOL", version),
        _ => command,
    }
}
