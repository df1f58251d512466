//! The kinds of health checks, and how one check runs.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::builders::TsuruYaml;
use crate::builders::tsuru_yaml;
use crate::core::Core;
use crate::db::Db;
use crate::kernel::error::Error;
use crate::provisioners::{ExecRequest, UnitId};
use crate::units::model::Unit;
use crate::units::store;

/// Maximum number of bytes of a response body that are matched.
const MAX_BODY: usize = 64 * 1024;
/// Uptime after which a unit without a check is ready.
const MIN_UPTIME: Duration = Duration::from_secs(1);
/// Uptime after which a main process that is not `web` is ready even if it does not listen.
const LISTEN_OPTIONAL_AFTER: Duration = Duration::from_secs(5);

/// Maximum timeout of a check, whatever a tsuru.yaml asks for.
const MAX_CHECK_TIMEOUT: Duration = Duration::from_secs(60);

/// Returns one line for each value of a tsuru.yaml that is capped, for the output of the deploy.
pub fn list_adjustments(yaml: &TsuruYaml, max_deploy_timeout: Duration) -> Vec<String> {
    let mut lines = Vec::new();
    let longest = MAX_CHECK_TIMEOUT.as_secs();
    let of_processes = yaml
        .processes
        .iter()
        .map(|p| (format!("of {}", p.name), &p.healthcheck));
    for (whose, check) in std::iter::once(("of the app".to_owned(), &yaml.healthcheck)).chain(of_processes) {
        let asked = u64::from(check.timeout_seconds);
        if !check.is_empty() && asked > longest {
            lines.push(format!(
                "The health check {whose} has timeout_seconds {asked}; {longest} is used, the maximum for a check."
            ));
        }
    }
    let (asked, most) = (
        yaml.healthcheck.deploy_timeout_seconds,
        max_deploy_timeout.as_secs(),
    );
    if let Some(asked) = asked.filter(|asked| u64::from(*asked) > most) {
        lines.push(format!(
            "tsuru.yaml has deploy_timeout_seconds {asked}; {most} is used, the maximum on this server."
        ));
    }
    lines
}

/// The health check of one process of one version.
#[derive(Debug)]
pub(super) struct HealthCheck {
    pub(super) kind: CheckKind,
    pub(super) timeout: Duration,
    pub(super) interval: Duration,
    pub(super) allowed_failures: u32,
    pub(super) force_restart: bool,
}

#[derive(Debug)]
pub(super) enum CheckKind {
    /// Passes after this uptime.
    Uptime { for_: Duration },
    /// Passes if the port accepts connections, or after this uptime.
    TcpConnect { or_runs: Option<Duration> },
    /// Passes if an HTTP request gets the expected response.
    Http(Box<tsuru_yaml::HealthCheckConfig>),
    /// Passes if a command in the unit exits with 0.
    Command(Vec<String>),
}

/// Builds the HTTP client for checks: it keeps no connections, follows no redirects and accepts any
/// certificate, since it is the app's own.
pub(super) fn build_client() -> Option<reqwest::Client> {
    reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .user_agent("tancho-healthcheck")
        .build()
        .ok()
}

/// Loads the check of a unit from the tsuru.yaml of its version.
pub(super) async fn load_check(db: &Db, row: &Unit) -> Result<HealthCheck, Error> {
    let yaml = store::find_yaml(db, row.app_id, row.version).await?;
    let yaml: TsuruYaml = match yaml {
        Some(yaml) => serde_json::from_value(yaml).map_err(Error::internal)?,
        None => TsuruYaml::default(),
    };
    Ok(choose_check(&yaml, &row.process, row.is_web))
}

fn choose_check(yaml: &TsuruYaml, process: &str, is_web: bool) -> HealthCheck {
    let own = yaml.processes.iter().find(|p| p.name.as_str() == process);
    let asked = own
        .map(|p| &p.healthcheck)
        .filter(|check| !check.is_empty())
        .or_else(|| Some(&yaml.healthcheck).filter(|check| is_web && !check.is_empty()));
    if let Some(check) = asked {
        let kind = match check.path.is_empty() {
            true => CheckKind::Command(check.command.clone()),
            false => CheckKind::Http(Box::new(check.clone())),
        };
        return HealthCheck {
            kind,
            timeout: Duration::from_secs(check.timeout_seconds.max(1).into()).min(MAX_CHECK_TIMEOUT),
            interval: Duration::from_secs(check.interval_seconds.max(1).into()),
            allowed_failures: check.allowed_failures,
            force_restart: check.force_restart,
        };
    }
    let has_no_ports = own.is_some_and(|p| p.ports.as_ref().is_some_and(Vec::is_empty));
    let kind = match is_web && !has_no_ports {
        false => CheckKind::Uptime { for_: MIN_UPTIME },
        true if process == "web" => CheckKind::TcpConnect { or_runs: None },
        true => CheckKind::TcpConnect {
            or_runs: Some(LISTEN_OPTIONAL_AFTER),
        },
    };
    HealthCheck {
        kind,
        timeout: Duration::from_secs(5),
        interval: Duration::from_secs(10),
        allowed_failures: 1,
        force_restart: false,
    }
}

/// Runs one check. Errors: a clause for users, such as "it has no address".
pub(super) async fn run_check(
    core: &Core,
    http: Option<&reqwest::Client>,
    check: &HealthCheck,
    row: &Unit,
    began: Instant,
) -> Result<(), String> {
    match &check.kind {
        CheckKind::Uptime { for_ } => {
            tokio::time::sleep_until((began + *for_).into()).await;
            Ok(())
        }
        CheckKind::TcpConnect { or_runs } => match (check_tcp(row).await, or_runs) {
            (Err(_), Some(long)) if began.elapsed() >= *long => Ok(()),
            (result, _) => result,
        },
        CheckKind::Http(asked) => check_http(http, asked, row).await,
        CheckKind::Command(argv) => check_command(core, &row.id, argv).await,
    }
}

async fn check_tcp(row: &Unit) -> Result<(), String> {
    let address = row.observed.address.ok_or("it has no address")?;
    let error = |e: std::io::Error| {
        format!(
            "it does not listen on its port {} ({e}): it should listen on $PORT",
            address.port()
        )
    };
    TcpStream::connect(address).await.map(drop).map_err(error)
}

async fn check_http(
    http: Option<&reqwest::Client>,
    check: &tsuru_yaml::HealthCheckConfig,
    row: &Unit,
) -> Result<(), String> {
    let address = row.observed.address.ok_or("it has no address")?;
    let http = http.ok_or("there is no HTTP client")?;
    let what = format!("its health check {}", check.path);
    let method = check.method.as_deref().unwrap_or("GET");
    let method = reqwest::Method::from_bytes(method.to_uppercase().as_bytes())
        .map_err(|_| format!("{what} has an invalid method"))?;
    let mut request = http.request(method, format!("{}://{address}{}", check.scheme, check.path));
    for (name, value) in &check.headers {
        request = request.header(name, value);
    }
    let mut response = request.send().await.map_err(|e| match e.is_connect() {
        true => format!("{what} cannot connect to port {}", address.port()),
        false => format!("{what} got no response"),
    })?;
    let status = response.status().as_u16();
    let good = check
        .status
        .map_or((200..400).contains(&status), |wanted| wanted == status);
    if !good {
        return Err(format!("{what} returned status {status}"));
    }
    let Some(text) = &check.matches else { return Ok(()) };
    let mut body = Vec::new();
    while body.len() < MAX_BODY
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk);
    }
    match tsuru_yaml::body_matches(text, &String::from_utf8_lossy(&body)) {
        true => Ok(()),
        false => Err(format!("{what} returned a body that does not match {text:?}")),
    }
}

async fn check_command(core: &Core, unit: &UnitId, argv: &[String]) -> Result<(), String> {
    let request = ExecRequest::for_argv(argv.to_vec());
    for (_, runner) in core.provisioners.unit_runners() {
        let Ok(session) = runner.exec_in_unit(unit, &request).await else {
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
            Ok(code) => Err(format!("its health check exited with code {code}")),
            Err(error) => Err(error.to_string()),
        };
    }
    Err("its health check cannot be run in the unit".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> TsuruYaml {
        TsuruYaml::parse(text).unwrap()
    }

    #[test]
    fn global_check_applies_to_main_process_only() {
        let yaml = yaml("healthcheck:\n  path: /up\n  allowed_failures: 5\n  force_restart: true\n");
        let web = choose_check(&yaml, "web", true);
        assert!(matches!(&web.kind, CheckKind::Http(check) if check.path == "/up"));
        assert!(web.force_restart && web.allowed_failures == 5);
        assert!(matches!(
            choose_check(&yaml, "worker", false).kind,
            CheckKind::Uptime { .. }
        ));
    }

    #[test]
    fn process_can_have_own_check_or_no_port() {
        let yaml = yaml(
            "processes:\n- name: worker\n  healthcheck:\n    command: [\"true\"]\n- name: web\n  ports: []\n",
        );
        assert!(
            matches!(choose_check(&yaml, "worker", false).kind, CheckKind::Command(argv) if argv == ["true"])
        );
        assert!(matches!(
            choose_check(&yaml, "web", true).kind,
            CheckKind::Uptime { .. }
        ));
    }

    #[test]
    fn tsuru_yaml_values_over_limits_are_reported() {
        let read = |text: &str| serde_json::from_str::<TsuruYaml>(text).unwrap();
        let most = Duration::from_secs(3600);
        let greedy = read(
            r#"{"healthcheck": {"path": "/", "timeout_seconds": 86400, "deploy_timeout_seconds": 86400},
                "processes": [{"name": "worker", "healthcheck": {"command": ["true"], "timeout_seconds": 61}}]}"#,
        );
        assert_eq!(choose_check(&greedy, "web", true).timeout, MAX_CHECK_TIMEOUT);
        assert_eq!(choose_check(&greedy, "worker", false).timeout, MAX_CHECK_TIMEOUT);
        let lines = list_adjustments(&greedy, most);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].contains("of the app has timeout_seconds 86400; 60 is used"));
        assert!(lines[1].contains("of worker has timeout_seconds 61; 60 is used"));
        assert!(lines[2].contains("deploy_timeout_seconds 86400; 3600 is used"));
        let modest = read(
            r#"{"healthcheck": {"path": "/", "timeout_seconds": 60, "interval_seconds": 86400, "deploy_timeout_seconds": 3600}}"#,
        );
        assert!(list_adjustments(&modest, most).is_empty());
        assert!(list_adjustments(&TsuruYaml::default(), most).is_empty());
    }

    #[test]
    fn main_process_without_check_is_checked_by_connecting() {
        let yaml = TsuruYaml::default();
        assert!(matches!(
            choose_check(&yaml, "web", true).kind,
            CheckKind::TcpConnect { or_runs: None }
        ));
        assert!(matches!(
            choose_check(&yaml, "api", true).kind,
            CheckKind::TcpConnect { or_runs: Some(_) }
        ));
    }
}
