//! Notices between replicas: one LISTEN connection, fanned out by channel.
//!
//! A notice is a hint, never the truth: it can be lost while the connection is down. After a reconnect
//! every listener gets `Resync`, and everybody polls slowly besides.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::db::Db;

/// What a notice is about. The payload is said beside each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// An event got a line, ended, or is to be cancelled: its id.
    Event,
    /// A saga is ready to run: its lane.
    Saga,
    /// Addresses changed: empty.
    Routes,
    /// Desired units changed: empty.
    Units,
    /// A token or a role changed: empty.
    Auth,
    /// An app got log lines: its id.
    Log,
    /// Keys that seal changed: empty.
    Keys,
}

impl Channel {
    const ALL: [Channel; 7] = [
        Channel::Event,
        Channel::Saga,
        Channel::Routes,
        Channel::Units,
        Channel::Auth,
        Channel::Log,
        Channel::Keys,
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Channel::Event => "tancho_event",
            Channel::Saga => "tancho_saga",
            Channel::Routes => "tancho_routes",
            Channel::Units => "tancho_units",
            Channel::Auth => "tancho_auth",
            Channel::Log => "tancho_log",
            Channel::Keys => "tancho_keys",
        }
    }
}

/// What a listener gets.
#[derive(Clone, Debug)]
pub enum Notice {
    /// Somebody sent this.
    Sent { channel: Channel, payload: String },
    /// Notices may have been lost: look again.
    Resync,
}

/// Hands out notices; cheap to clone.
#[derive(Clone, Debug)]
pub struct Notices {
    sender: broadcast::Sender<Notice>,
}

impl Notices {
    /// Starts listening in the background until `stop`.
    pub fn start(db: Db, stop: CancellationToken) -> Self {
        let (sender, _) = broadcast::channel(1024);
        let notices = Self { sender };
        tokio::spawn(listen(db, notices.clone(), stop));
        notices
    }

    /// All notices from now on. A receiver that lags must treat that as `Resync`.
    pub fn subscribe(&self) -> Subscription {
        Subscription(self.sender.subscribe())
    }
}

/// A receiver of notices.
#[derive(Debug)]
pub struct Subscription(broadcast::Receiver<Notice>);

impl Subscription {
    /// Waits for a notice on one of the channels, a resync, or for `poll` to pass. Answers the payload
    /// of the notice, or `None` when the caller should simply look again.
    pub async fn wait(&mut self, channels: &[Channel], poll: Duration) -> Option<String> {
        let next = async {
            loop {
                match self.0.recv().await {
                    Ok(Notice::Sent { channel, payload }) if channels.contains(&channel) => {
                        return Some(payload);
                    }
                    Ok(Notice::Sent { .. }) => {}
                    Ok(Notice::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => return None,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        tokio::time::timeout(poll, next).await.ok().flatten()
    }

    /// Waits for the next notice whatever it is; `None` means look at everything again.
    pub async fn next(&mut self) -> Option<(Channel, String)> {
        match self.0.recv().await {
            Ok(Notice::Sent { channel, payload }) => Some((channel, payload)),
            Ok(Notice::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn listen(db: Db, notices: Notices, stop: CancellationToken) {
    let run = async {
        loop {
            if let Err(error) = receive(&db, &notices).await {
                tracing::warn!(%error, "notices are interrupted");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = run => {}
        () = stop.cancelled() => {}
    }
}

async fn receive(db: &Db, notices: &Notices) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(db).await?;
    listener.listen_all(Channel::ALL.map(Channel::as_str)).await?;
    // Nobody may be listening yet; that is fine.
    let _ = notices.sender.send(Notice::Resync);
    while let Some(notification) = listener.try_recv().await? {
        let channel = Channel::ALL
            .into_iter()
            .find(|c| c.as_str() == notification.channel());
        if let Some(channel) = channel {
            let payload = notification.payload().to_owned();
            let _ = notices.sender.send(Notice::Sent { channel, payload });
        }
    }
    Ok(())
}
