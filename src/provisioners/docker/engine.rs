//! The connection to the engine: time limits, errors, and whether it answers at all.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use tokio::sync::OnceCell;

use super::{ASK_TIMEOUT, ProvisionError, lock};

/// Longer than anything that is asked; each question has a limit of its own.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3600);
/// Characters of a message of the engine that are shown.
const MAX_MESSAGE: usize = 1000;

/// Why the engine did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum EngineError {
    /// What was named does not exist.
    #[error("The Docker Engine has no such object: {0}")]
    Missing(String),
    /// Its state, or a name in use, forbids it.
    #[error("The Docker Engine refused: {0}")]
    Conflict(String),
    /// The engine said no.
    #[error("The Docker Engine refused: {0}")]
    Refused(String),
    /// The engine cannot be reached, or does not answer in time.
    #[error("The Docker Engine does not answer: {0}")]
    NoAnswer(String),
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { status_code, message } => {
                let message = shorten(&message);
                match status_code {
                    404 => Self::Missing(message),
                    409 => Self::Conflict(message),
                    _ => Self::Refused(message),
                }
            }
            Error::DockerStreamError { error } => Self::Refused(shorten(&error)),
            Error::SocketNotFoundError(path) => Self::NoAnswer(format!("there is no socket {path}.")),
            Error::RequestTimeoutError => Self::NoAnswer("it took too long.".into()),
            other => Self::NoAnswer(format!("{}.", shorten(&describe_chain(&other)))),
        }
    }
}

impl From<EngineError> for ProvisionError {
    fn from(error: EngineError) -> Self {
        Self::Transient(error.to_string())
    }
}

/// The words of an error with its causes.
fn describe_chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        next = cause.source();
    }
    words
}

/// The first line of a message of the engine, without what ends it.
fn shorten(message: &str) -> String {
    let line =
        crate::kernel::log_text::clean_line(message.trim().lines().next().unwrap_or_default()).into_owned();
    let end = line
        .char_indices()
        .nth(MAX_MESSAGE)
        .map_or(line.len(), |(at, _)| at);
    line[..end].trim_end_matches('.').to_owned()
}

/// See the module. Clones share the connection.
#[derive(Clone)]
pub(super) struct EngineClient {
    socket: Arc<str>,
    docker: Arc<OnceCell<Docker>>,
    /// Why it does not answer, since it was last asked in vain.
    down: Arc<Mutex<Option<String>>>,
}

impl EngineClient {
    pub(super) fn new(socket: &str) -> Self {
        Self {
            socket: socket.into(),
            docker: Arc::default(),
            down: Arc::default(),
        }
    }

    /// Returns the client, which opens a connection for each request, in a version of the API that the engine knows.
    pub(super) async fn connect(&self) -> Result<&Docker, EngineError> {
        let open = async {
            let docker = Docker::connect_with_unix(
                &self.socket,
                CLIENT_TIMEOUT.as_secs(),
                bollard::API_DEFAULT_VERSION,
            )?;
            self.ask(ASK_TIMEOUT, docker.negotiate_version()).await
        };
        let opened = self.docker.get_or_try_init(|| open).await;
        if let Err(EngineError::NoAnswer(why)) = &opened {
            self.mark_down(why);
        }
        opened
    }

    /// Waits for an answer of the engine, within a limit.
    pub(super) async fn ask<T>(
        &self,
        limit: Duration,
        asking: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(EngineError::NoAnswer(format!(
                "nothing came within {} s.",
                limit.as_secs()
            ))),
        }
    }

    /// Fails at once while the engine is known not to answer.
    pub(super) fn check_up(&self) -> Result<(), EngineError> {
        match &*lock(&self.down) {
            Some(why) => Err(EngineError::NoAnswer(why.clone())),
            None => Ok(()),
        }
    }

    /// The engine does not answer; `watch` finds out when it does again.
    pub(super) fn mark_down(&self, why: &str) {
        if lock(&self.down).replace(why.to_owned()).is_none() {
            tracing::warn!(socket = %self.socket, why, "the Docker Engine does not answer");
        }
    }

    /// The engine answers.
    pub(super) fn mark_up(&self) {
        if lock(&self.down).take().is_some() {
            tracing::info!(socket = %self.socket, "the Docker Engine answers again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_engine_are_one_short_line() {
        let error = |status_code, message: &str| {
            EngineError::from(Error::DockerResponseServerError {
                status_code,
                message: message.into(),
            })
        };
        assert!(matches!(
            error(404, "No such container: x"),
            EngineError::Missing(_)
        ));
        assert!(matches!(error(409, "in use"), EngineError::Conflict(_)));
        let long = format!("{}\nsecond\u{1b}[2J", "é".repeat(5000));
        let EngineError::Refused(message) = error(500, &long) else {
            panic!("it was refused");
        };
        assert_eq!(message, "é".repeat(MAX_MESSAGE));
    }

    #[tokio::test]
    async fn engine_that_is_not_there_is_named_and_remembered() {
        let engine = EngineClient::new("/nowhere/docker.sock");
        assert!(engine.check_up().is_ok());
        let refused = engine.connect().await.unwrap_err().to_string();
        assert_eq!(
            refused,
            "The Docker Engine does not answer: there is no socket /nowhere/docker.sock."
        );
        assert_eq!(engine.check_up().unwrap_err().to_string(), refused);
        engine.mark_up();
        assert!(engine.check_up().is_ok());
    }
}
