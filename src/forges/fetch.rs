//! Fetches from a forge: over HTTP, or over SSH with the app's deploy key.
//!
//! Over SSH, this process logs in, and git talks to the forge through a socket, so the key stays in this
//! process and no `ssh` is needed. The forge must show the pinned host key; the first one is pinned.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream as StdStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use url::Url;

use crate::core::Core;
use crate::forges::actions::{decrypt_deploy_key, deploy_key_line, password_associated_data};
use crate::forges::address::{ForgeAddress, SshAddress};
use crate::forges::store::{self, Forge};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::AppName;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::outbound::OutboundErrorKind;
use crate::repositories::{self, RemoteRepository};
use crate::sagas::{StepContext, StepError};
use crate::ssh::client::{
    self, AuthenticatedServer, ChannelOutput, ChannelReader, ChannelWriter, ClientError,
};

/// The first retry delay while the forge is unavailable; later ones are longer.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The timeout of each step of the login.
const LOGIN_STEP_TIMEOUT: Duration = Duration::from_secs(20);
const CHUNK: usize = 64 * 1024;
/// How much of a forge's standard error is kept, in bytes.
const MAX_STDERR_BYTES: usize = 300;

/// Fetches the branch of a forge into the app's repository; returns the commit at its tip.
pub(super) async fn fetch_forge(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    forge: &Forge,
    ctx: &StepContext,
) -> Result<String, StepError> {
    match ForgeAddress::parse(&forge.url)? {
        ForgeAddress::Http(url) => fetch_by_http(core, call, name, forge, url).await,
        ForgeAddress::Ssh(ssh) => {
            let logged_in = log_in(core, name, forge, &ssh, ctx).await?;
            fetch_by_ssh(core, call, name, forge, &ssh, logged_in).await
        }
    }
}

async fn fetch_by_http(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    forge: &Forge,
    url: Url,
) -> Result<String, StepError> {
    let address = retry_if_failed(resolve_address(core, &url).await)?;
    let authorization = match &forge.password {
        None => None,
        Some(sealed) => {
            let password = core.keys.decrypt(&password_associated_data(forge.app), sealed)?;
            let pair = Secret::new(format!("{}:{}", forge.user, password.expose_secret()));
            Some(Secret::new(format!(
                "Authorization: Basic {}",
                STANDARD.encode(pair.expose_secret())
            )))
        }
    };
    let remote = RemoteRepository::Http {
        url,
        address: address.ip(),
        authorization,
    };
    retry_if_failed(repositories::fetch_branch(core, call, name, remote, &forge.branch).await)
}

/// Resolves the address of a forge, if it may be called.
async fn resolve_address(core: &Core, url: &Url) -> Result<SocketAddr, Error> {
    let port = url.port_or_known_default().unwrap_or_default();
    let address = core.outbound.resolve_host(url).await.map_err(|why| {
        let message = format!("The forge {} {why}.", url.host_str().unwrap_or_default());
        match why {
            OutboundErrorKind::PrivateAddress => Error::forbidden(message),
            _ => Error::failed(message),
        }
    })?;
    Ok(SocketAddr::new(address, port))
}

/// Verifies the host key and logs in.
async fn log_in(
    core: &Core,
    name: &AppName,
    forge: &Forge,
    ssh: &SshAddress,
    ctx: &StepContext,
) -> Result<AuthenticatedServer, StepError> {
    let key =
        decrypt_deploy_key(core, forge)?.ok_or_else(|| Error::internal("the forge has no deploy key"))?;
    let url = Url::parse(&format!("ssh://{}", ssh.host_and_port())).map_err(Error::internal)?;
    let mut address = retry_if_failed(resolve_address(core, &url).await)?;
    address.set_port(ssh.port);
    let wrong = |error: ClientError| match error {
        ClientError::Denied => Error::forbidden(format!(
            "The forge {} rejected the deploy key: add this key there, with read access to the repository: {}",
            ssh.host,
            deploy_key_line(&key, name)
        )),
        error => Error::failed(format!("Cannot fetch from the forge {}: {error}.", ssh.host)),
    };
    let time = core.settings.services.connect_timeout;
    let stream = client::connect_tcp(&address.to_string(), time).await;
    let server = client::perform_handshake(retry_if_failed(stream.map_err(wrong))?, LOGIN_STEP_TIMEOUT).await;
    let server = retry_if_failed(server.map_err(wrong))?;
    check_host_key(forge, ssh, ctx, &server.host_key().fingerprint()).await?;
    let logged_in = server.log_in(&ssh.user, &key).await;
    retry_if_failed(logged_in.map_err(wrong))
}

/// Refuses a forge that shows another host key than the pinned one; pins the first one.
async fn check_host_key(
    forge: &Forge,
    ssh: &SshAddress,
    ctx: &StepContext,
    shown: &str,
) -> Result<(), StepError> {
    let kept = match forge.host_key.as_str() {
        "" => {
            let kept = ctx
                .write_fenced(async |tx| Ok(store::pin_host_key(tx, forge.app, &forge.url, shown).await?))
                .await?;
            // The forge's settings were changed meanwhile.
            retry_if_failed(kept.ok_or_else(|| Error::failed("The forge's address has just been changed.")))?
        }
        kept => kept.to_owned(),
    };
    if kept == shown {
        return Ok(());
    }
    Err(StepError::GiveUp(Error::forbidden(format!(
        "The forge {} shows the host key {shown}, but {kept} is expected: another server may be impersonating it. \
         If you know that the new key is right, set the forge again with it as `host_key`.",
        ssh.host
    ))))
}

async fn fetch_by_ssh(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    forge: &Forge,
    ssh: &SshAddress,
    logged_in: AuthenticatedServer,
) -> Result<String, StepError> {
    let wrong = |error| Error::failed(format!("Cannot fetch from the forge {}: {error}.", ssh.host));
    let command = ssh.upload_pack_command();
    let running = logged_in
        .exec_command(&[("GIT_PROTOCOL", "version=2")], command.as_bytes())
        .await;
    let (input, output) = retry_if_failed(running.map_err(wrong))?;
    let (ours, gits) = StdStream::pair().map_err(Error::internal)?;
    ours.set_nonblocking(true).map_err(Error::internal)?;
    let ours = UnixStream::from_std(ours).map_err(Error::internal)?;
    let stderr = Mutex::new(String::new());
    let relaying = async {
        relay_ssh(ours, input, output, &stderr).await;
        // Git still has to store what it received.
        pending::<Infallible>().await
    };
    let remote = RemoteRepository::Socket(gits.into());
    let tip = tokio::select! {
        tip = repositories::fetch_branch(core, call, name, remote, &forge.branch) => tip,
        never = relaying => match never {},
    };
    let stderr = stderr.into_inner().unwrap_or_else(PoisonError::into_inner);
    retry_if_failed(tip.map_err(|error| match error.kind() {
        ErrorKind::Failed if !stderr.trim().is_empty() => Error::failed(format!(
            "{} Output of the forge: {}",
            error.message(),
            stderr.trim()
        )),
        _ => error,
    }))
}

/// Relays between git and the forge, until the forge has sent everything.
async fn relay_ssh(
    ours: UnixStream,
    input: ChannelWriter,
    mut output: ChannelReader,
    stderr: &Mutex<String>,
) {
    let (mut from_git, mut to_git) = ours.into_split();
    let sending = async {
        let (mut chunk, mut writer) = (vec![0; CHUNK], input.stdin_writer());
        while let Ok(read @ 1..) = from_git.read(&mut chunk).await {
            if writer.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
        // Signals the end of git's input to the forge.
        let _ = writer.shutdown().await;
        pending::<()>().await;
    };
    let receiving = async {
        while let Some(chunk) = output.next_output().await {
            match chunk {
                // Git closes its side once it has everything.
                ChannelOutput::Stdout(bytes) if to_git.write_all(&bytes).await.is_err() => return,
                ChannelOutput::Stdout(_) => {}
                ChannelOutput::Stderr(bytes) => collect_stderr(stderr, &bytes),
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = receiving => {}
    }
}

/// Keeps the first bytes of a forge's standard error, on one line.
fn collect_stderr(stderr: &Mutex<String>, bytes: &[u8]) {
    let mut stderr = stderr.lock().unwrap_or_else(PoisonError::into_inner);
    for c in String::from_utf8_lossy(bytes).chars() {
        if stderr.len() >= MAX_STDERR_BYTES {
            return;
        }
        match c.is_control() || c.is_whitespace() {
            true if stderr.ends_with(' ') => {}
            true => stderr.push(' '),
            false => stderr.push(c),
        }
    }
}

/// Retries failures of the forge, which may be temporary.
fn retry_if_failed<T>(result: Result<T, Error>) -> Result<T, StepError> {
    result.map_err(|why| match why.kind() {
        ErrorKind::Failed => StepError::Retry {
            why,
            after: RETRY_DELAY,
        },
        _ => why.into(),
    })
}
