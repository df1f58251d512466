//! A push over HTTP. The response begins at once, so that a client that waits can be notified, and a refusal
//! can be sent in git's protocol instead of as a bare HTTP status.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::core::Core;
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::request_context::RequestContext;
use crate::repositories::actions::Repository;
use crate::repositories::git_session::{GitProtocol, GitSession};
use crate::repositories::model::GitService;
use crate::repositories::push_head::PushHead;
use crate::repositories::waiting::ProgressSink;

/// A push over HTTP; see the module.
pub(super) struct HttpPush {
    pub(super) core: Core,
    pub(super) call: RequestContext,
    pub(super) repository: Repository,
    /// The version of git's protocol that the client requests.
    pub(super) protocol: Option<String>,
    /// Sends chunks of the response to the client.
    pub(super) sender: mpsc::Sender<Bytes>,
}

struct SideBandProgress<'a> {
    head: &'a PushHead,
    sender: &'a mpsc::Sender<Bytes>,
}

#[async_trait]
impl ProgressSink for SideBandProgress<'_> {
    async fn send_progress(&self, line: &str) {
        let line = self.head.progress_packet(line);
        if !line.is_empty() {
            // Dropped if the client does not read what was sent before.
            let _ = self.sender.try_send(line.into());
        }
    }
}

impl HttpPush {
    /// Receives the push, until git has ended.
    pub(super) async fn receive_push(self, mut from: impl AsyncRead + Unpin + Send + 'static) {
        let head = PushHead::read_from(&mut from).await;
        if head.is_flush_only() {
            return;
        }
        let protocol = GitProtocol {
            service: GitService::ReceivePack,
            stateless: true,
            version: self.protocol.as_deref(),
        };
        let client = SideBandProgress {
            head: &head,
            sender: &self.sender,
        };
        match GitSession::start_session(&self.core, &self.call, &self.repository, protocol, &client).await {
            Ok((session, stdin)) => {
                self.core.tasks.spawn(feed_git(head.raw, from, stdin));
                session.stream_output(self.sender).await;
            }
            Err(error) => self.send_refusal(&head, &error).await,
        }
    }

    async fn send_refusal(&self, head: &PushHead, error: &Error) {
        match error.kind() {
            ErrorKind::Internal => tracing::error!(error = %error.report(), "push failed"),
            _ => {
                tracing::info!(error = %error.report(), app = %self.repository.app.name, "push refused")
            }
        }
        // The client may be gone.
        let _ = self
            .sender
            .send(head.refusal_response(error.message()).into())
            .await;
    }
}

/// Forwards a push to git. What git no longer reads is discarded, so that the client reaches git's error
/// message.
async fn feed_git(head: Vec<u8>, mut from: impl AsyncRead + Unpin, mut stdin: ChildStdin) {
    let copied = async {
        stdin.write_all(&head).await?;
        tokio::io::copy(&mut from, &mut stdin).await
    };
    if copied.await.is_err() {
        drop(stdin);
        // Ends with the client.
        let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    }
}
