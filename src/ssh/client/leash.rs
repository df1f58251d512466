//! A hold on a connection.

use std::io;
use std::net::Shutdown;

use tokio::net::TcpStream;

/// Ends a connection, whatever it is busy with, when it is dropped.
pub(crate) struct Leash(std::net::TcpStream);

impl Leash {
    /// Takes hold of a connection, which is given back fit to be used.
    pub(crate) fn take(stream: TcpStream) -> io::Result<(Self, TcpStream)> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let leash = Self(stream.try_clone()?);
        Ok((leash, TcpStream::from_std(stream)?))
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        // Fails when it has ended, which is as good.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
