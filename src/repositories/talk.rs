//! A git that speaks with a client: the child, and its bytes on the way out.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::core::Core;
use crate::kernel::call::Call;
use crate::kernel::problem::Problem;
use crate::repositories::actions::Repository;
use crate::repositories::children::{cannot_start, git, read, taking_git};
use crate::repositories::hook::{self, VARIABLE};
use crate::repositories::model::Service;
use crate::repositories::push::Push;

const CHUNK: usize = 64 * 1024;
/// Of all names of branches and tags together.
const LONGEST_ADVERTISEMENT: u64 = 64 << 20;

/// How a client speaks.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    pub service: Service,
    /// Each request stands alone, as over HTTP; else one conversation, as over SSH.
    pub stateless: bool,
    /// The version of the protocol that the client asks for, in its own words.
    pub protocol: Option<&'a str>,
}

/// See the module.
pub struct Talk {
    child: Child,
    push: Option<Push>,
    /// How long a client may leave unread what is said to it.
    patience: Duration,
}

impl Talk {
    /// Starts to speak; what the client says goes into the pipe.
    pub async fn start(
        core: &Core,
        call: &Call,
        repository: &Repository,
        manner: Manner<'_>,
    ) -> Result<(Self, ChildStdin), Problem> {
        let push = match manner.service {
            Service::UploadPack | Service::UploadArchive => None,
            Service::ReceivePack => Some(Push::new(core, call, repository.clone()).await?),
        };
        let mut command = speaker(core, repository, manner, push.as_ref());
        command.arg(&repository.path).stdin(Stdio::piped());
        let mut child = command.spawn().map_err(cannot_start)?;
        let stdin = child.stdin.take().ok_or_else(|| Problem::internal("no pipe"))?;
        let patience = core.settings.api.request_timeout;
        Ok((
            Self {
                child,
                push,
                patience,
            },
            stdin,
        ))
    }

    /// Brings what git says to the client, to the end of both; its status. A push goes on without a client.
    pub async fn hear(self, client: mpsc::Sender<Bytes>) -> Option<i32> {
        let faithful = self.push.is_some();
        let hearing = hear(self.child, client, faithful, self.patience);
        let Some(mut push) = self.push else {
            return hearing.await;
        };
        let conversing = async {
            push.converse().await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = hearing => status,
            () = conversing => None,
        }
    }
}

async fn hear(
    mut child: Child,
    client: mpsc::Sender<Bytes>,
    faithful: bool,
    patience: Duration,
) -> Option<i32> {
    let mut stdout = child.stdout.take()?;
    let (mut chunk, mut client) = (vec![0; CHUNK], Some(client));
    loop {
        let read = match stdout.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => Bytes::copy_from_slice(&chunk[..read]),
        };
        let Some(sender) = &client else { continue };
        if !matches!(
            tokio::time::timeout(patience, sender.send(read)).await,
            Ok(Ok(()))
        ) {
            client = None;
            if !faithful {
                return None;
            }
        }
    }
    child.wait().await.ok()?.code()
}

/// What a repository has, as a client of stateless requests is told before it asks for anything.
pub(super) async fn advertise(
    core: &Core,
    repository: &Repository,
    manner: Manner<'_>,
) -> Result<Vec<u8>, Problem> {
    let mut command = speaker(core, repository, manner, None);
    command.arg("--http-backend-info-refs").arg(&repository.path);
    let (status, said) = read(&mut command, LONGEST_ADVERTISEMENT).await?;
    match status {
        0 => Ok(said),
        _ => Err(Problem::internal("git cannot say what the repository has")),
    }
}

/// A git that speaks; of a push that is only announced there is nothing yet to bound.
fn speaker(core: &Core, repository: &Repository, manner: Manner<'_>, push: Option<&Push>) -> Command {
    let mut command = match push {
        None => git(&repository.path),
        Some(push) => {
            let mut command = taking_git(&repository.path, push.bounds());
            command.env(VARIABLE, push.folder());
            command
        }
    };
    let hooks = hook::folder(&core.dirs.repositories());
    let mut set = |key: &str, value: &str| {
        command.arg("-c").arg(format!("{key}={value}"));
    };
    set("core.hooksPath", &hooks.display().to_string());
    if let Some(push) = push {
        // Zero would be no limit.
        set("receive.maxInputSize", &push.bounds().room.max(1).to_string());
        // What comes in stays packed, and so as small as it came.
        set("receive.unpackLimit", "1");
        set("receive.fsckObjects", "true");
        // Old commits of honest repositories have it.
        set("receive.fsck.zeroPaddedFilemode", "ignore");
        // There is a healer for it.
        set("receive.autogc", "false");
    }
    command.arg(manner.service.subcommand());
    if manner.stateless {
        command.arg("--stateless-rpc");
    }
    if let Some(version @ ("version=1" | "version=2")) = manner.protocol {
        command.env("GIT_PROTOCOL", version);
    }
    command
}
