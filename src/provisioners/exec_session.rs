//! A command that runs in a unit: what to run, with which streams, and its session.

use std::pin::Pin;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ProvisionError;

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters in a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

/// The terminal of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecTerminal {
    /// Its size at the start.
    pub size: TerminalSize,
    /// The value of `TERM`.
    pub term: String,
}

/// What to run in a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecProgram {
    /// A program and its arguments.
    Argv(Vec<String>),
    /// A command line of a user, for the shell that runs the command line of the unit.
    ShellLine(String),
    /// An interactive shell.
    InteractiveShell,
}

/// The standard streams of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecStreams {
    /// Three pipes.
    Separate,
    /// Standard error is written to the pipe of standard output, so that the order of both is kept.
    Merged,
    /// A terminal is all three.
    Terminal(ExecTerminal),
}

/// A command to run in a unit.
#[derive(Clone, Debug)]
pub struct ExecRequest {
    /// What to run.
    pub program: ExecProgram,
    /// Its standard streams.
    pub streams: ExecStreams,
}

impl ExecRequest {
    /// Creates a request for a program with its arguments and three pipes.
    pub fn for_argv(argv: Vec<String>) -> Self {
        Self {
            program: ExecProgram::Argv(argv),
            streams: ExecStreams::Separate,
        }
    }
}

/// Changes the size of the terminal of a running command.
pub type ResizeTerminal = Box<dyn Fn(TerminalSize) + Send + Sync>;

/// A running command in a unit. Dropping `end` kills the command with all its descendants; so does the end of the unit.
pub struct ExecSession {
    /// Its standard input; dropping it closes it.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    /// Its standard output.
    pub output: Pin<Box<dyn AsyncRead + Send>>,
    /// Its standard error; empty unless the streams are separate.
    pub errors: Pin<Box<dyn AsyncRead + Send>>,
    /// `None` without a terminal.
    pub resize: Option<ResizeTerminal>,
    /// Its exit status, or 128 + the signal.
    pub end: BoxFuture<'static, Result<i32, ProvisionError>>,
}
