//! A pseudo-terminal. Tancho has one side of it, as a stream; the other side is the standard streams of a command.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Uid, fchown};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::TerminalSize;

/// Tancho's side of a terminal. Clones are the same terminal, which ends when the last one is dropped.
#[derive(Clone)]
pub(super) struct TerminalIo(Arc<AsyncFd<PtyMaster>>);

/// Opens a terminal that belongs to the user `owner` (`None`: ours). Returns Tancho's side and the command's. Needs a
/// runtime.
pub(super) fn open_terminal(size: TerminalSize, owner: Option<u32>) -> io::Result<(TerminalIo, File)> {
    // Both sides are closed in every other child: one that had Tancho's side could type into the terminal.
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let ours = posix_openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let theirs = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY)
        .open(ptsname_r(&ours)?)?;
    if let Some(owner) = owner {
        fchown(&theirs, Some(Uid::from_raw(owner)), None)?;
    }
    // Not for groups: programs that write to terminals belong to one.
    fchmod(&theirs, Mode::S_IRUSR | Mode::S_IWUSR)?;
    #[expect(
        deprecated,
        reason = "its replacement is unsafe; this descriptor stays open as long as it is registered"
    )]
    let registered = AsyncFd::new(ours)?;
    let terminal = TerminalIo(Arc::new(registered));
    terminal.resize(size)?;
    Ok((terminal, theirs))
}

impl TerminalIo {
    /// Sets the size; the programs in the terminal are told.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.cols,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

impl AsyncRead for TerminalIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            let unfilled = buf.initialize_unfilled();
            match guard.try_io(|terminal| terminal.get_ref().read(unfilled)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // No process has the other side open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Poll::Ready(Ok(())),
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for TerminalIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            match guard.try_io(|terminal| terminal.get_ref().write(bytes)) {
                Ok(written) => return Poll::Ready(written),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
