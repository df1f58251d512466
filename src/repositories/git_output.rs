//! Reads the output of git, with limits on size and time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::kernel::error::Error;

/// The maximum of standard error that is kept, in bytes.
const MAX_STDERR_BYTES: usize = 4 * 1024;

/// Refuses an output that was only partly read.
pub(super) fn check_length(said: &[u8], most: u64) -> Result<(), Error> {
    match said.len() as u64 > most {
        false => Ok(()),
        true => Err(Error::too_large(format!(
            "The output of git for this repository is longer than {most} bytes."
        ))),
    }
}

pub(super) async fn with_deadline<T>(
    deadline: Duration,
    asking: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    let result = tokio::time::timeout(deadline, asking).await;
    let late = |_| {
        Error::failed(format!(
            "git took longer than {} seconds to read this repository and was stopped.",
            deadline.as_secs()
        ))
    };
    result.map_err(late)?.map_err(Error::internal)
}

pub(super) async fn read_prefix(
    from: Option<impl AsyncRead + Unpin>,
    most: u64,
    kept: &mut Vec<u8>,
) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    from.take(most).read_to_end(kept).await.map(drop)
}

/// The result of a git command.
pub(super) struct GitOutput {
    /// `None`: it was killed.
    pub(super) status: Option<i32>,
    pub(super) stdout: Vec<u8>,
    /// The end of its standard error.
    pub(super) stderr: String,
}

impl GitOutput {
    /// Returns the output of a command that succeeded.
    pub(super) fn into_text(self) -> Result<String, Error> {
        match self.status {
            Some(0) => Ok(self.stdout_text()),
            status => Err(Error::internal(format!(
                "git ended with status {status:?}: {}",
                self.stderr.trim_end()
            ))),
        }
    }

    pub(super) fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }
}

/// Keeps the end of a stream.
pub(super) async fn read_tail(from: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut chunk = vec![0; MAX_STDERR_BYTES];
    loop {
        match from.read(&mut chunk).await? {
            0 => return Ok(()),
            read => kept.extend_from_slice(&chunk[..read]),
        }
        let before = kept.len().saturating_sub(MAX_STDERR_BYTES);
        kept.drain(..before);
    }
}
