//! What is new at a forge, fetched: by HTTP, or by SSH with the deploy key of the app.
//!
//! Over SSH it is this process that logs in; git speaks with it over a socket, so the key goes nowhere, and no
//! `ssh` is needed. The forge must show the host key that is kept with it, or the first one ever.

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
use crate::forges::actions::{deploy_key, deploy_line, password_place};
use crate::forges::address::{Address, Ssh};
use crate::forges::store::{self, Forge};
use crate::kernel::call::Call;
use crate::kernel::names::AppName;
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::secret::Secret;
use crate::outbound::Why;
use crate::repositories::{self, Remote};
use crate::sagas::{Run, StepError};
use crate::ssh::client::{self, ClientError, Hearing, Inside, Piece, Speaking};

/// Before another try while the forge is away; the next ones wait longer.
const PAUSE: Duration = Duration::from_secs(5);
/// For each of the steps of logging in.
const STEP: Duration = Duration::from_secs(20);
const CHUNK: usize = 64 * 1024;
/// Of what a forge says beside the branch, in bytes.
const LONGEST_WORD: usize = 300;

/// Fetches the branch of a forge into the app's repository; the commit at its tip.
pub(super) async fn fetch(
    core: &Core,
    call: &Call,
    name: &AppName,
    forge: &Forge,
    run: &Run,
) -> Result<String, StepError> {
    match Address::parse(&forge.url)? {
        Address::Http(url) => by_http(core, call, name, forge, url).await,
        Address::Ssh(ssh) => {
            let inside = log_in(core, name, forge, &ssh, run).await?;
            by_ssh(core, call, name, forge, &ssh, inside).await
        }
    }
}

async fn by_http(
    core: &Core,
    call: &Call,
    name: &AppName,
    forge: &Forge,
    url: Url,
) -> Result<String, StepError> {
    let address = later(resolve(core, &url).await)?;
    let authorization = match &forge.password {
        None => None,
        Some(sealed) => {
            let password = core.keys.open(&password_place(forge.app), sealed)?;
            let pair = Secret::new(format!("{}:{}", forge.user, password.expose()));
            Some(Secret::new(format!(
                "Authorization: Basic {}",
                STANDARD.encode(pair.expose())
            )))
        }
    };
    let remote = Remote::Http {
        url,
        address: address.ip(),
        authorization,
    };
    later(repositories::fetch(core, call, name, remote, &forge.branch).await)
}

/// The address of a forge that may be called, and is.
async fn resolve(core: &Core, url: &Url) -> Result<SocketAddr, Problem> {
    let port = url.port_or_known_default().unwrap_or_default();
    let address = core.outbound.resolve(url).await.map_err(|why| {
        let words = format!("The forge {} {why}.", url.host_str().unwrap_or_default());
        match why {
            Why::Private => Problem::forbidden(words),
            _ => Problem::failed(words),
        }
    })?;
    Ok(SocketAddr::new(address, port))
}

/// Logs in, once the forge is known to be the right one.
async fn log_in(
    core: &Core,
    name: &AppName,
    forge: &Forge,
    ssh: &Ssh,
    run: &Run,
) -> Result<Inside, StepError> {
    let key = deploy_key(core, forge)?.ok_or_else(|| Problem::internal("a forge without its key"))?;
    let url = Url::parse(&format!("ssh://{}", ssh.server())).map_err(Problem::internal)?;
    let mut address = later(resolve(core, &url).await)?;
    address.set_port(ssh.port);
    let wrong = |error: ClientError| match error {
        ClientError::Denied => Problem::forbidden(format!(
            "The forge {} does not let us in: add this deploy key there, to read the repository: {}",
            ssh.host,
            deploy_line(&key, name)
        )),
        error => Problem::failed(format!("The forge {} is of no use now: {error}.", ssh.host)),
    };
    let time = core.settings.services.connect_timeout;
    let stream = client::reach(&address.to_string(), time).await;
    let met = client::meet(later(stream.map_err(wrong))?, STEP).await;
    let met = later(met.map_err(wrong))?;
    trust(forge, ssh, run, &met.key().fingerprint()).await?;
    let inside = met.log_in(&ssh.user, &key).await;
    later(inside.map_err(wrong))
}

/// Refuses a forge that shows another host key than the one that is kept; the first one is kept.
async fn trust(forge: &Forge, ssh: &Ssh, run: &Run, shown: &str) -> Result<(), StepError> {
    let kept = match forge.host_key.as_str() {
        "" => {
            let mut tx = run.begin().await?;
            let kept = store::keep_host_key(&mut tx, forge.app, &forge.url, shown).await?;
            tx.commit().await?;
            // Nobody's: the forge has been set anew meanwhile.
            later(kept.ok_or_else(|| Problem::failed("The forge has just been set to another address.")))?
        }
        kept => kept.to_owned(),
    };
    if kept == shown {
        return Ok(());
    }
    Err(StepError::GiveUp(Problem::forbidden(format!(
        "The forge {} shows the host key {shown}, and the one that is kept is {kept}: somebody else may be \
         answering. If you know that the new key is right, set the forge again with it as `host_key`.",
        ssh.host
    ))))
}

async fn by_ssh(
    core: &Core,
    call: &Call,
    name: &AppName,
    forge: &Forge,
    ssh: &Ssh,
    inside: Inside,
) -> Result<String, StepError> {
    let wrong = |error| Problem::failed(format!("The forge {} is of no use now: {error}.", ssh.host));
    let command = ssh.command();
    let running = inside
        .run(&[("GIT_PROTOCOL", "version=2")], command.as_bytes())
        .await;
    let (speaking, hearing) = later(running.map_err(wrong))?;
    let (ours, gits) = StdStream::pair().map_err(Problem::internal)?;
    ours.set_nonblocking(true).map_err(Problem::internal)?;
    let ours = UnixStream::from_std(ours).map_err(Problem::internal)?;
    let said = Mutex::new(String::new());
    let talking = async {
        talk(ours, speaking, hearing, &said).await;
        // Git has yet to put away what it has got.
        pending::<Infallible>().await
    };
    let remote = Remote::Open(gits.into());
    let tip = tokio::select! {
        tip = repositories::fetch(core, call, name, remote, &forge.branch) => tip,
        never = talking => match never {},
    };
    let said = said.into_inner().unwrap_or_else(PoisonError::into_inner);
    later(tip.map_err(|problem| match problem.kind() {
        Kind::Failed if !said.trim().is_empty() => {
            Problem::failed(format!("{} The forge says: {}", problem.words(), said.trim()))
        }
        _ => problem,
    }))
}

/// Brings what git and the forge say to each other, until the forge has said all.
async fn talk(ours: UnixStream, speaking: Speaking, mut hearing: Hearing, said: &Mutex<String>) {
    let (mut from_git, mut to_git) = ours.into_split();
    let telling = async {
        let (mut chunk, mut writer) = (vec![0; CHUNK], speaking.writer());
        while let Ok(read @ 1..) = from_git.read(&mut chunk).await {
            if writer.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
        // The forge hears that git has said all, if it still listens.
        let _ = writer.shutdown().await;
        pending::<()>().await;
    };
    let hearing_all = async {
        while let Some(piece) = hearing.next().await {
            match piece {
                // A git that reads no more has all it wants.
                Piece::Out(bytes) if to_git.write_all(&bytes).await.is_err() => return,
                Piece::Out(_) => {}
                Piece::Err(bytes) => note(said, &bytes),
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = hearing_all => {}
    }
}

/// Keeps the first words of what a forge says beside the branch, on one line.
fn note(said: &Mutex<String>, bytes: &[u8]) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    for c in String::from_utf8_lossy(bytes).chars() {
        if said.len() >= LONGEST_WORD {
            return;
        }
        match c.is_control() || c.is_whitespace() {
            true if said.ends_with(' ') => {}
            true => said.push(' '),
            false => said.push(c),
        }
    }
}

/// A forge that fails may do better in a moment.
fn later<T>(result: Result<T, Problem>) -> Result<T, StepError> {
    result.map_err(|why| match why.kind() {
        Kind::Failed => StepError::Retry { why, after: PAUSE },
        _ => why.into(),
    })
}
