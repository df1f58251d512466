use russh::server::{self, Auth, ChannelOpenHandle, Session, VerifiedPublicKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::kernel::secret::Secret;

const SOON: Duration = Duration::from_secs(20);

pub(crate) fn pair() -> KeyPair {
    KeyPair::from_seed(&Secret::random()).unwrap()
}

/// A server that lets one key in, says a variable on standard error, and then what it is told.
struct Echo {
    friend: PublicKey,
    channel: Option<Channel<server::Msg>>,
    variable: String,
}

impl server::Handler for Echo {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        match user == "ana" && PublicKey::new(key.public_key) == self.friend {
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
                .extended_data_bytes(STDERR, variable.into_bytes())
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

/// Serves one connection; where.
pub(crate) async fn serve(host: &KeyPair, friend: &KeyPair) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let config = Arc::new(server::Config {
        keys: vec![host.0.clone()],
        ..server::Config::default()
    });
    let friend = friend.public();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let echo = Echo {
            friend,
            channel: None,
            variable: String::new(),
        };
        // Its end, in whatever way.
        let _ = server::run_stream(config, stream, echo).await.unwrap().await;
    });
    address
}

async fn met(host: &KeyPair, friend: &KeyPair) -> Met {
    let address = serve(host, friend).await;
    meet(reach(&address, SOON).await.unwrap(), SOON).await.unwrap()
}

#[tokio::test]
async fn a_command_is_spoken_with_to_its_end() {
    let (host, ana) = (pair(), pair());
    let met = met(&host, &ana).await;
    assert_eq!(met.key(), &host.public());
    let inside = met
        .expect(&host.public())
        .unwrap()
        .log_in("ana", &ana)
        .await
        .unwrap();
    let (speaking, mut hearing) = inside.run(&[("GREETING", "hello")], b"echo \xff").await.unwrap();
    // More than fits on the way, so that one has to wait for the other.
    let noise: Vec<u8> = (0..6_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sent = noise.clone();
    let telling = tokio::spawn(async move {
        let mut stdin = speaking.writer();
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(piece) = timeout(SOON, hearing.next()).await.unwrap() {
        match piece {
            Piece::Out(bytes) => out.extend_from_slice(&bytes),
            Piece::Err(bytes) => err.extend_from_slice(&bytes),
        }
    }
    telling.await.unwrap();
    assert!(out == noise, "{} of {} bytes", out.len(), noise.len());
    assert_eq!(
        (err.as_slice(), hearing.status()),
        (&b"GREETING=hello"[..], Some(3))
    );
    hearing.leave().await;
}

#[tokio::test]
async fn who_has_another_key_name_or_command_is_told_so() {
    let (host, ana) = (pair(), pair());
    for (user, key) in [("ana", &pair()), ("bob", &ana)] {
        let denied = met(&host, &ana).await.log_in(user, key).await;
        assert!(matches!(denied, Err(ClientError::Denied)), "{user}");
    }
    let other = met(&host, &ana).await.expect(&ana.public()).err();
    assert!(
        matches!(&other, Some(ClientError::OtherKey(shown)) if *shown == host.public().fingerprint()),
        "{other:?}"
    );
    let inside = met(&host, &ana).await.log_in("ana", &ana).await.unwrap();
    let refused = inside.run(&[], b"echo").await.err();
    assert!(matches!(refused, Some(ClientError::Refused)), "{refused:?}");
}

#[tokio::test]
async fn a_server_that_says_nothing_or_goes_away_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stream = reach(&address, SOON).await.unwrap();
    let (mut silent, _) = listener.accept().await.unwrap();
    let late = meet(stream, Duration::from_millis(50)).await.err();
    assert!(matches!(late, Some(ClientError::Late("greet us"))), "{late:?}");
    // What is given up is closed.
    let mut said = Vec::new();
    timeout(SOON, silent.read_to_end(&mut said))
        .await
        .unwrap()
        .unwrap();
    assert!(said.starts_with(b"SSH-2.0-tancho_"));

    let stream = reach(&address, SOON).await.unwrap();
    let (mut full, _) = listener.accept().await.unwrap();
    full.write_all(b"Too many connections.\r\n").await.unwrap();
    drop(full);
    let gone = meet(stream, SOON).await.err();
    assert!(matches!(gone, Some(ClientError::Protocol(_))), "{gone:?}");
    drop(listener);
    let none = reach(&address, SOON).await.err();
    assert!(matches!(none, Some(ClientError::Socket(_))), "{none:?}");
}
