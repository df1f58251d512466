//! Notices between replicas: one LISTEN connection, fanned out by channel.
//!
//! A notice is a hint, never the truth: it can be lost while the connection is down. After a reconnect every
//! listener gets `Resync`, and every listener also polls slowly.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::db::Db;

/// The channel of a notice. Each variant states its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoticeChannel {
    /// An event got a log line, ended, or is to be cancelled. Payload: its id.
    Event,
    /// A saga is ready to run. Payload: its queue.
    Saga,
    /// The routes changed. Payload: empty.
    Routes,
    /// A router applied newer routes. Payload: empty.
    RoutesApplied,
    /// The desired units changed. Payload: empty.
    Units,
    /// A token or a role changed. Payload: empty.
    Auth,
    /// An app got log lines. Payload: its id.
    Log,
    /// The encryption keys changed. Payload: empty.
    Keys,
    /// Files of versions, or of volumes, are to be removed. Payload: empty.
    Versions,
    /// Webhooks have something to deliver. Payload: empty.
    Webhooks,
    /// Runs of jobs were planned, or are to be stopped. Payload: empty.
    Jobs,
}

impl NoticeChannel {
    const ALL: [NoticeChannel; 11] = [
        NoticeChannel::Event,
        NoticeChannel::Saga,
        NoticeChannel::Routes,
        NoticeChannel::RoutesApplied,
        NoticeChannel::Units,
        NoticeChannel::Auth,
        NoticeChannel::Log,
        NoticeChannel::Keys,
        NoticeChannel::Versions,
        NoticeChannel::Webhooks,
        NoticeChannel::Jobs,
    ];

    /// Returns the name of the Postgres channel.
    pub fn as_str(self) -> &'static str {
        match self {
            NoticeChannel::Event => "tancho_event",
            NoticeChannel::Saga => "tancho_saga",
            NoticeChannel::Routes => "tancho_routes",
            NoticeChannel::RoutesApplied => "tancho_routes_seen",
            NoticeChannel::Units => "tancho_units",
            NoticeChannel::Auth => "tancho_auth",
            NoticeChannel::Log => "tancho_log",
            NoticeChannel::Keys => "tancho_keys",
            NoticeChannel::Versions => "tancho_versions",
            NoticeChannel::Webhooks => "tancho_webhooks",
            NoticeChannel::Jobs => "tancho_jobs",
        }
    }
}

/// What a listener receives.
#[derive(Clone, Debug)]
pub enum DbNotice {
    /// A notice was sent.
    Sent { channel: NoticeChannel, payload: String },
    /// Notices may have been lost: read the state again.
    Resync,
}

/// Distributes notices; cheap to clone.
#[derive(Clone, Debug)]
pub struct NoticeHub {
    sender: broadcast::Sender<DbNotice>,
}

impl NoticeHub {
    /// Starts listening in the background until `stop` is cancelled.
    pub fn spawn_listener(db: Db, stop: CancellationToken) -> Self {
        let (sender, _) = broadcast::channel(1024);
        let notices = Self { sender };
        tokio::spawn(run_listener(db, notices.clone(), stop));
        notices
    }

    /// A hub that nothing is sent to.
    #[cfg(test)]
    pub(crate) fn detached() -> Self {
        let (sender, _) = broadcast::channel(1);
        Self { sender }
    }

    /// All notices from now on. A receiver that lags must treat that as `Resync`.
    pub fn subscribe(&self) -> NoticeSubscription {
        NoticeSubscription(self.sender.subscribe())
    }
}

/// A subscription to notices.
#[derive(Debug)]
pub struct NoticeSubscription(broadcast::Receiver<DbNotice>);

impl NoticeSubscription {
    /// Waits for a notice on one of the channels, a resync, or for `poll` to elapse. Returns the payload of
    /// the notice, or `None` if the caller should read the state again.
    pub async fn wait_for_notice(&mut self, channels: &[NoticeChannel], poll: Duration) -> Option<String> {
        let next = async {
            loop {
                match self.0.recv().await {
                    Ok(DbNotice::Sent { channel, payload }) if channels.contains(&channel) => {
                        return Some(payload);
                    }
                    Ok(DbNotice::Sent { .. }) => {}
                    Ok(DbNotice::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => return None,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(poll, next).await.ok().flatten()
    }

    /// Waits for the next notice on any channel; `None` means to read everything again.
    pub async fn next_notice(&mut self) -> Option<(NoticeChannel, String)> {
        match self.0.recv().await {
            Ok(DbNotice::Sent { channel, payload }) => Some((channel, payload)),
            Ok(DbNotice::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn run_listener(db: Db, notices: NoticeHub, stop: CancellationToken) {
    let run = async {
        loop {
            if let Err(error) = receive_notices(&db, &notices).await {
                tracing::warn!(%error, "the notice listener lost its connection; reconnecting");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = run => {}
        () = stop.cancelled() => {}
    }
}

async fn receive_notices(db: &Db, notices: &NoticeHub) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(db).await?;
    listener
        .listen_all(NoticeChannel::ALL.map(NoticeChannel::as_str))
        .await?;
    // There may be no listener yet.
    let _ = notices.sender.send(DbNotice::Resync);
    while let Some(notification) = listener.try_recv().await? {
        let channel = NoticeChannel::ALL
            .into_iter()
            .find(|c| c.as_str() == notification.channel());
        if let Some(channel) = channel {
            let payload = notification.payload().to_owned();
            let _ = notices.sender.send(DbNotice::Sent { channel, payload });
        }
    }
    Ok(())
}
