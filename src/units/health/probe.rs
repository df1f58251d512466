//! The checks themselves.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::builders::TsuruYaml;
use crate::builders::tsuru_yaml;
use crate::core::Core;
use crate::db::Db;
use crate::kernel::problem::Problem;
use crate::provisioners::{ExecRequest, UnitId};
use crate::units::model::Row;
use crate::units::store;

/// How much of an answer is searched.
const MAX_BODY: usize = 64 * 1024;
/// How long a unit has run when it counts as ready without being asked.
const RUNS: Duration = Duration::from_secs(1);
/// After how long a main process that is not `web` need not listen.
const MAY_BE_DEAF: Duration = Duration::from_secs(5);

/// How one process of one version is checked.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) kind: Kind,
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    pub(super) allowed_failures: u32,
    pub(super) force_restart: bool,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// It has run for this long.
    Runs { for_: Duration },
    /// Its port takes connections; or it has run for so long without.
    Listens { or_runs: Option<Duration> },
    /// An HTTP request is answered well.
    Answers(Box<tsuru_yaml::Check>),
    /// A command beside it ends well.
    Command(Vec<String>),
}

/// The client for checks: no connections kept, no redirects followed, any certificate taken, since it is
/// the app's own.
pub(super) fn client() -> Option<reqwest::Client> {
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .user_agent("tancho-healthcheck")
        .build()
        .ok()
}

/// The check of a unit, as its version's tsuru.yaml says.
pub(super) async fn check_of(db: &Db, row: &Row) -> Result<Check, Problem> {
    let yaml = store::find_yaml(db, row.app_id, row.version).await?;
    let yaml: TsuruYaml = match yaml {
        Some(yaml) => serde_json::from_value(yaml).map_err(Problem::internal)?,
        None => TsuruYaml::default(),
    };
    Ok(choose(&yaml, &row.process, row.routed))
}

fn choose(yaml: &TsuruYaml, process: &str, routed: bool) -> Check {
    let own = yaml.processes.iter().find(|p| p.name.as_str() == process);
    let asked = own
        .map(|p| &p.healthcheck)
        .filter(|check| !check.is_empty())
        .or_else(|| Some(&yaml.healthcheck).filter(|check| routed && !check.is_empty()));
    if let Some(check) = asked {
        let kind = match check.path.is_empty() {
            true => Kind::Command(check.command.clone()),
            false => Kind::Answers(Box::new(check.clone())),
        };
        return Check {
            kind,
            timeout: Duration::from_secs(check.timeout_seconds.max(1).into()),
            interval: Duration::from_secs(check.interval_seconds.max(1).into()),
            allowed_failures: check.allowed_failures,
            force_restart: check.force_restart,
        };
    }
    let deaf = own.is_some_and(|p| p.ports.as_ref().is_some_and(Vec::is_empty));
    let kind = match routed && !deaf {
        false => Kind::Runs { for_: RUNS },
        true if process == "web" => Kind::Listens { or_runs: None },
        true => Kind::Listens {
            or_runs: Some(MAY_BE_DEAF),
        },
    };
    Check {
        kind,
        timeout: Duration::from_secs(5),
        interval: Duration::from_secs(10),
        allowed_failures: 1,
        force_restart: false,
    }
}

/// Checks once. Errors: half a sentence for people.
pub(super) async fn ask(
    core: &Core,
    http: Option<&reqwest::Client>,
    check: &Check,
    row: &Row,
    began: Instant,
) -> Result<(), String> {
    match &check.kind {
        Kind::Runs { for_ } => {
            tokio::time::sleep_until((began + *for_).into()).await;
            Ok(())
        }
        Kind::Listens { or_runs } => match (listens(row).await, or_runs) {
            (Err(_), Some(long)) if began.elapsed() >= *long => Ok(()),
            (result, _) => result,
        },
        Kind::Answers(asked) => answers(http, asked, row).await,
        Kind::Command(argv) => command(core, &row.id, argv).await,
    }
}

async fn listens(row: &Row) -> Result<(), String> {
    let address = row.seen.address.ok_or("it has no address")?;
    let error = |e: std::io::Error| {
        format!(
            "it does not listen on its port {} ({e}): it should listen on $PORT",
            address.port()
        )
    };
    TcpStream::connect(address).await.map(drop).map_err(error)
}

async fn answers(http: Option<&reqwest::Client>, check: &tsuru_yaml::Check, row: &Row) -> Result<(), String> {
    let address = row.seen.address.ok_or("it has no address")?;
    let http = http.ok_or("there is no HTTP client")?;
    let what = format!("its health check {}", check.path);
    let method = check.method.as_deref().unwrap_or("GET");
    let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes())
        .map_err(|_| format!("{what} has a wrong method"))?;
    let mut request = http.request(method, format!("{}://{address}{}", check.scheme, check.path));
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    let mut answer = request.send().await.map_err(|e| match e.is_connect() {
        true => format!("{what} finds nobody listening on port {}", address.port()),
        false => format!("{what} got no answer"),
    })?;
    let status = answer.status().as_u16();
    let good = check
        .status
        .map_or((200..400).contains(&status), |wanted| wanted == status);
    if !good {
        return Err(format!("{what} answered {status}"));
    }
    let Some(text) = &check.matches else { return Ok(()) };
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Ok(Some(chunk)) = answer.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    match String::from_utf8_lossy(&body).contains(text) {
        true => Ok(()),
        false => Err(format!("{what} did not answer with {text:?}")),
    }
}

async fn command(core: &Core, unit: &UnitId, argv: &[String]) -> Result<(), String> {
    let request = ExecRequest {
        argv: argv.to_vec(),
        window: None,
    };
    for provisioner in core.provisioners.values() {
        let Ok(session) = provisioner.exec(unit, &request).await else {
            continue;
        };
        let (mut output, mut errors, end) = (session.output, session.errors, session.end);
        drop(session.input);
        let (mut sink, mut other) = (tokio::io::sink(), tokio::io::sink());
        let drain = async {
            let _ = tokio::join!(
                tokio::io::copy(&mut output, &mut sink),
                tokio::io::copy(&mut errors, &mut other)
            );
            std::future::pending().await
        };
        let end = tokio::select! {
            end = end => end,
            never = drain => never,
        };
        return match end {
            Ok(0) => Ok(()),
            Ok(code) => Err(format!("its health check ended with {code}")),
            Err(error) => Err(error.to_string()),
        };
    }
    Err("its health check could not be run".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> TsuruYaml {
        TsuruYaml::parse(text).unwrap()
    }

    #[test]
    fn only_the_main_process_answers_the_global_check() {
        let yaml = yaml("healthcheck:\n  path: /up\n  allowed_failures: 5\n  force_restart: true\n");
        let web = choose(&yaml, "web", true);
        assert!(matches!(&web.kind, Kind::Answers(check) if check.path == "/up"));
        assert!(web.force_restart && web.allowed_failures == 5);
        assert!(matches!(choose(&yaml, "worker", false).kind, Kind::Runs { .. }));
    }

    #[test]
    fn a_process_may_have_its_own_check_or_no_port() {
        let yaml = yaml(
            "processes:\n- name: worker\n  healthcheck:\n    command: [\"true\"]\n- name: web\n  ports: []\n",
        );
        assert!(matches!(choose(&yaml, "worker", false).kind, Kind::Command(argv) if argv == ["true"]));
        assert!(matches!(choose(&yaml, "web", true).kind, Kind::Runs { .. }));
    }

    #[test]
    fn without_a_check_the_main_process_listens() {
        let yaml = TsuruYaml::default();
        assert!(matches!(
            choose(&yaml, "web", true).kind,
            Kind::Listens { or_runs: None }
        ));
        assert!(matches!(
            choose(&yaml, "api", true).kind,
            Kind::Listens { or_runs: Some(_) }
        ));
    }
}
