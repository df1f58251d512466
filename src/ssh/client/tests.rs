use russh::server::{self, Auth, ChannelOpenHandle, Session, VerifiedPublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::kernel::secret::Secret;

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn random_key_pair() -> KeyPair {
    KeyPair::from_seed(&Secret::random_hex()).unwrap()
}

/// A server that accepts one key, writes a variable to standard error, and echoes its input.
struct EchoServer {
    accepted_key: SshPublicKey,
    channel: Option<Channel<server::Msg>>,
    variable: String,
}

impl server::Handler for EchoServer {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        match user == "ana" && SshPublicKey::new(key.public_key) == self.accepted_key {
            true => Ok(Auth::Accept),
            false => Ok(Auth::reject()),
        }
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<server::Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn env_request(
        &mut self,
        _channel: russh::ChannelId,
        name: &str,
        value: &str,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.variable = format!("{name}={value}");
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: russh::ChannelId,
        data: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.channel.take().filter(|_| data == b"echo \xff") else {
            return session.channel_failure(id);
        };
        session.channel_success(id)?;
        let variable = std::mem::take(&mut self.variable);
        tokio::spawn(async move {
            let (mut read, write) = channel.split();
            write
                .extended_data_bytes(EXTENDED_DATA_STDERR, variable.into_bytes())
                .await
                .unwrap();
            let (mut reader, mut writer) = (read.make_reader(), write.make_writer());
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            write.eof().await.unwrap();
            write.exit_status(3).await.unwrap();
            write.close().await.unwrap();
        });
        Ok(())
    }
}

/// Serves one connection; returns its address.
pub(crate) async fn serve_one_connection(host: &KeyPair, client_key: &KeyPair) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Arc::new(server::Config {
        keys: vec![host.0.clone()],
        ..server::Config::default()
    });
    let client_key = client_key.public_key();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let echo = EchoServer {
            accepted_key: client_key,
            channel: None,
            variable: String::new(),
        };
        // However the connection ends.
        let _ = server::run_stream(config, stream, echo).await.unwrap().await;
    });
    address
}

async fn shake_hands(host: &KeyPair, client_key: &KeyPair) -> HandshakenServer {
    let address = serve_one_connection(host, client_key).await;
    perform_handshake(connect_tcp(&address, SOON).await.unwrap(), SOON)
        .await
        .unwrap()
}

#[tokio::test]
async fn command_input_output_and_exit_status_are_transferred() {
    let (host, ana) = (random_key_pair(), random_key_pair());
    let server = shake_hands(&host, &ana).await;
    assert_eq!(server.host_key(), &host.public_key());
    let logged_in = server
        .require_host_key(&host.public_key())
        .unwrap()
        .log_in("ana", &ana)
        .await
        .unwrap();
    let (writer, mut reader) = logged_in
        .exec_command(&[("GREETING", "hello")], b"echo \xff")
        .await
        .unwrap();
    // More than the buffers hold, so that both sides have to wait for each other.
    let noise: Vec<u8> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = noise.clone();
    let sending = tokio::spawn(async move {
        let mut stdin = writer.stdin_writer();
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = timeout(SOON, reader.next_output()).await.unwrap() {
        match chunk {
            ChannelOutput::Stdout(bytes) => out.extend_from_slice(&bytes),
            ChannelOutput::Stderr(bytes) => err.extend_from_slice(&bytes),
        }
    }
    sending.await.unwrap();
    assert!(out == noise, "{} of {} bytes", out.len(), noise.len());
    assert_eq!(
        (err.as_slice(), reader.exit_status()),
        (&b"GREETING=hello"[..], Some(3))
    );
    reader.close_connection().await;
}

#[tokio::test]
async fn wrong_key_user_host_key_or_command_is_reported() {
    let (host, ana) = (random_key_pair(), random_key_pair());
    for (user, key) in [("ana", &random_key_pair()), ("bob", &ana)] {
        let denied = shake_hands(&host, &ana).await.log_in(user, key).await;
        assert!(matches!(denied, Err(ClientError::Denied)), "{user}");
    }
    let other = shake_hands(&host, &ana)
        .await
        .require_host_key(&ana.public_key())
        .err();
    assert!(
        matches!(&other, Some(ClientError::HostKeyMismatch(shown)) if *shown == host.public_key().fingerprint()),
        "{other:?}"
    );
    let logged_in = shake_hands(&host, &ana).await.log_in("ana", &ana).await.unwrap();
    let refused = logged_in.exec_command(&[], b"echo").await.err();
    assert!(
        matches!(refused, Some(ClientError::CommandRefused)),
        "{refused:?}"
    );
}

#[tokio::test]
async fn silent_or_closed_server_is_an_error_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stream = connect_tcp(&address, SOON).await.unwrap();
    let (mut silent, _) = listener.accept().await.unwrap();
    let late = perform_handshake(stream, Duration::from_millis(50)).await.err();
    assert!(
        matches!(late, Some(ClientError::TimedOut("the handshake"))),
        "{late:?}"
    );
    // The connection is closed on failure.
    let mut received = Vec::new();
    timeout(SOON, silent.read_to_end(&mut received))
        .await
        .unwrap()
        .unwrap();
    assert!(received.starts_with(b"SSH-2.0-tancho_"));

    let stream = connect_tcp(&address, SOON).await.unwrap();
    let (mut full, _) = listener.accept().await.unwrap();
    full.write_all(b"Too many connections.\r\n").await.unwrap();
    drop(full);
    let gone = perform_handshake(stream, SOON).await.err();
    assert!(matches!(gone, Some(ClientError::Protocol(_))), "{gone:?}");
    drop(listener);
    let none = connect_tcp(&address, SOON).await.err();
    assert!(matches!(none, Some(ClientError::Socket(_))), "{none:?}");
}
