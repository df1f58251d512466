//! Shuts a connection down on drop.

use std::io;
use std::net::Shutdown;

use tokio::net::TcpStream;

/// Shuts a connection down when it is dropped, whatever it is used for at that time.
pub(crate) struct ShutdownOnDrop(std::net::TcpStream);

impl ShutdownOnDrop {
    /// Wraps a connection; returns the guard and the connection to use.
    pub(crate) fn wrap_stream(stream: TcpStream) -> io::Result<(Self, TcpStream)> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let guard = Self(stream.try_clone()?);
        Ok((guard, TcpStream::from_std(stream)?))
    }
}

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        // Fails if the connection has ended already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}
