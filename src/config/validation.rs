//! Validates what the types of settings do not express; one sentence per rule.

use std::time::Duration;

use url::Url;

use super::{AcmeSettings, DockerProvisionerSettings, MailSettings, Settings, SshSettings};
use crate::kernel::error::Error;
use crate::kernel::names::Email;

/// Validates all settings; returns the first error.
pub(super) fn check_settings(settings: &Settings) -> Result<(), Error> {
    if settings.data_dir.as_os_str().is_empty() {
        return Err(invalid_setting("data_dir", "give a folder"));
    }
    if settings.roles.is_empty() {
        return Err(invalid_setting(
            "roles",
            "name at least one of api, worker and router",
        ));
    }
    check_public_url("api.public_url", &settings.api.public_url)?;
    check_public_url("git.replica_url", &settings.git.replica_url)?;
    check_hosts(&settings.api.hosts)?;
    check_ssh(&settings.ssh)?;
    check_tls(settings)?;
    check_acme(&settings.acme)?;
    check_domain(&settings.router.domain)?;
    check_database_url(settings.database.url.expose_secret())?;
    check_mail(&settings.mail)?;
    check_docker(&settings.docker)?;
    check_numbers(settings)?;
    check_durations(settings)?;
    check_environment_names(&settings.builds.pass_environment)?;
    // The database has the same lower limit: events are not deleted earlier.
    if !matches!(settings.events.keep_days, 0 | 30..=36_500) {
        return Err(invalid_setting(
            "events.keep_days",
            "give 0, or from 30 to 36500 days",
        ));
    }
    let admin = &settings.admin;
    if !admin.password.is_empty() && !admin.password_file.as_os_str().is_empty() {
        return Err(Error::invalid(
            "Give only one of the settings `admin.password` and `admin.password_file`.",
        ));
    }
    Ok(())
}

fn invalid_setting(key: &str, what: &str) -> Error {
    Error::invalid(format!("The setting `{key}` is invalid: {what}."))
}

fn check_public_url(key: &str, text: &str) -> Result<(), Error> {
    let fits = |url: Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    if text.is_empty() || (!text.ends_with('/') && Url::parse(text).is_ok_and(fits)) {
        return Ok(());
    }
    Err(invalid_setting(
        key,
        "give a URL such as https://tancho.example.com, without a slash at the end",
    ))
}

fn check_hosts(hosts: &[String]) -> Result<(), Error> {
    match hosts.iter().find(|host| url::Host::parse(host).is_err()) {
        None => Ok(()),
        Some(_) => Err(invalid_setting(
            "api.hosts",
            "give hosts such as tancho.example.com, without a scheme and a port",
        )),
    }
}

fn check_docker(docker: &DockerProvisionerSettings) -> Result<(), Error> {
    let is_socket = docker
        .host
        .strip_prefix("unix:///")
        .is_some_and(|path| !path.is_empty());
    if !is_socket && !matches!(docker.host.as_str(), "" | "auto") {
        return Err(invalid_setting(
            "docker.host",
            "give auto, nothing, or a socket such as unix:///var/run/docker.sock",
        ));
    }
    if !matches!(docker.networks.v4_parts(), Some((_, 1..=29))) {
        return Err(invalid_setting(
            "docker.networks",
            "give an IPv4 network such as 10.214.0.0/15",
        ));
    }
    if docker.max_processes < 16 || docker.max_open_files < 64 {
        return Err(invalid_setting(
            "docker.max_processes",
            "give at least 16 processes and 64 open files",
        ));
    }
    Ok(())
}

fn check_tls(settings: &Settings) -> Result<(), Error> {
    let tls = &settings.tls;
    if tls.has_certificate() == tls.key_file.as_os_str().is_empty() {
        return Err(Error::invalid(
            "Give both of the settings `tls.certificate_file` and `tls.key_file`, or none.",
        ));
    }
    if settings.api.https_listen.is_some() && !tls.has_certificate() {
        return Err(invalid_setting(
            "api.https_listen",
            "the API has no certificate; set `tls.certificate_file` and `tls.key_file`",
        ));
    }
    Ok(())
}

fn check_acme(acme: &AcmeSettings) -> Result<(), Error> {
    let is_https = |url: Url| url.scheme() == "https" && url.has_host();
    if acme.is_enabled() && !Url::parse(&acme.directory_url).is_ok_and(is_https) {
        return Err(invalid_setting(
            "acme.directory_url",
            "give a URL such as https://acme.example.com/directory",
        ));
    }
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if !(1..=63).contains(&acme.issuer.len()) || !acme.issuer.bytes().all(is_name) {
        return Err(invalid_setting(
            "acme.issuer",
            "give a name of letters, digits, dashes and dots, such as letsencrypt",
        ));
    }
    match acme.contact.is_empty() || Email::parse(&acme.contact).is_ok() {
        true => Ok(()),
        false => Err(invalid_setting("acme.contact", "give an e-mail address")),
    }
}

fn check_ssh(ssh: &SshSettings) -> Result<(), Error> {
    if !ssh.public_host.is_empty() && url::Host::parse(&ssh.public_host).is_err() {
        return Err(invalid_setting(
            "ssh.public_host",
            "give a host such as git.example.com, without a port",
        ));
    }
    let fits = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        url::Host::parse(host).ok()?;
        port.parse().ok().filter(|port: &u16| *port > 0)
    };
    if !ssh.replica_address.is_empty() && fits(&ssh.replica_address).is_none() {
        return Err(invalid_setting(
            "ssh.replica_address",
            "give a host and a port such as one.example.com:2222",
        ));
    }
    if ssh.max_connections < 1 {
        return Err(invalid_setting("ssh.max_connections", "give at least 1"));
    }
    if ssh.idle_timeout < Duration::from_secs(10) {
        return Err(invalid_setting("ssh.idle_seconds", "give at least 10 seconds"));
    }
    Ok(())
}

fn check_domain(text: &str) -> Result<(), Error> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if text.len() <= 190 && text.split('.').all(label) {
        return Ok(());
    }
    Err(invalid_setting(
        "router.domain",
        "give a domain in lower case such as apps.example.com, without a port",
    ))
}

fn check_database_url(text: &str) -> Result<(), Error> {
    let fits = |url: Url| matches!(url.scheme(), "postgres" | "postgresql");
    if text.is_empty() || Url::parse(text).is_ok_and(fits) {
        return Ok(());
    }
    Err(invalid_setting(
        "database.url",
        "give a URL such as postgres://user:password@host/database",
    ))
}

fn check_mail(mail: &MailSettings) -> Result<(), Error> {
    let fits = |url: Url| matches!(url.scheme(), "smtp" | "smtps") && url.has_host();
    if !mail.smtp_url.is_empty() && !Url::parse(mail.smtp_url.expose_secret()).is_ok_and(fits) {
        return Err(invalid_setting(
            "mail.smtp_url",
            "give a URL such as smtps://user:password@mail.example.com",
        ));
    }
    match mail.from.parse::<lettre::message::Mailbox>() {
        Ok(_) => Ok(()),
        Err(_) => Err(invalid_setting(
            "mail.from",
            "give an address such as tancho@example.com",
        )),
    }
}

fn check_numbers(s: &Settings) -> Result<(), Error> {
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let size = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let at_least = [
        ("api.max_connections", count(s.api.max_connections), 1),
        ("api.max_body_bytes", size(s.api.max_body_bytes.0), 1024),
        ("api.max_upload_bytes", size(s.api.max_upload_bytes.0), 1024),
        ("router.max_connections", count(s.router.max_connections), 1),
        ("database.max_connections", s.database.max_connections.into(), 2),
        ("auth.token_days", s.auth.token_days.into(), 1),
        (
            "auth.login_attempts_per_account",
            s.auth.login_attempts_per_account.into(),
            1,
        ),
        (
            "auth.login_attempts_per_address",
            s.auth.login_attempts_per_address.into(),
            1,
        ),
        ("auth.hash_memory_kib", s.auth.hash_memory_kib.into(), 8),
        ("auth.hash_concurrency", count(s.auth.hash_concurrency), 1),
        ("quota.apps_per_user", s.quota.apps_per_user.into(), -1),
        ("quota.units_per_app", s.quota.units_per_app.into(), -1),
        ("jobs.max_running", s.jobs.max_running.into(), 1),
        ("jobs.max_running_per_team", s.jobs.max_running_per_team.into(), 1),
        ("jobs.keep_runs", s.jobs.keep_runs.into(), 1),
        ("builds.max_output_bytes", size(s.builds.max_output_bytes.0), 1024),
        (
            "builds.max_unpacked_bytes",
            size(s.builds.max_unpacked_bytes.0),
            1024,
        ),
        (
            "git.max_repository_bytes",
            size(s.git.max_repository_bytes.0),
            1 << 20,
        ),
        ("builds.max_disk_bytes", size(s.builds.max_disk_bytes.0), 1 << 20),
        ("builds.max_files", size(s.builds.max_files), 1),
        ("builds.concurrency", count(s.builds.concurrency), 1),
        (
            "services.max_answer_bytes",
            size(s.services.max_answer_bytes.0),
            1024,
        ),
        (
            "services.concurrency_per_service",
            count(s.services.concurrency_per_service),
            1,
        ),
        ("local.max_processes", size(s.local.max_processes), 16),
        ("local.max_open_files", size(s.local.max_open_files), 64),
        ("services.breaker_failures", s.services.breaker_failures.into(), 1),
    ];
    for (key, value, least) in at_least {
        if value < least {
            return Err(invalid_setting(key, &format!("{value} is less than {least}")));
        }
    }
    if s.auth.token_days > 36_500 {
        return Err(invalid_setting("auth.token_days", "give at most 36500 days"));
    }
    check_sandbox_limits(s)
}

/// Validates user ids, limits and folders of the sandbox.
fn check_sandbox_limits(s: &Settings) -> Result<(), Error> {
    let uid = s.local.first_uid;
    if uid != 0 && !(1000..=2_000_000_000).contains(&uid) {
        return Err(invalid_setting(
            "local.first_uid",
            "give 0, or a number from 1000 to 2000000000",
        ));
    }
    if (1..64 << 20).contains(&s.builds.max_memory_bytes.0) {
        return Err(invalid_setting(
            "builds.max_memory_bytes",
            "give 0, or at least 64M",
        ));
    }
    if (1..1 << 20).contains(&s.local.scratch_bytes.0) {
        return Err(invalid_setting("local.scratch_bytes", "give 0, or at least 1M"));
    }
    for (key, folders) in [
        ("local.readable", &s.local.readable),
        ("local.writable", &s.local.writable),
    ] {
        if folders.iter().any(|folder| !folder.is_absolute()) {
            return Err(invalid_setting(
                key,
                "give absolute paths, such as \"/srv/shared\"",
            ));
        }
    }
    Ok(())
}

/// Timeouts must be at least a second; drain and grace periods may be 0.
fn check_durations(s: &Settings) -> Result<(), Error> {
    let positive = [
        ("api.request_timeout_seconds", s.api.request_timeout),
        ("ssh.login_seconds", s.ssh.login_timeout),
        ("router.first_byte_timeout_seconds", s.router.first_byte_timeout),
        ("router.idle_timeout_seconds", s.router.idle_timeout),
        ("database.start_timeout_seconds", s.database.start_timeout),
        ("database.acquire_timeout_seconds", s.database.acquire_timeout),
        ("database.statement_timeout_seconds", s.database.statement_timeout),
        ("auth.login_window_seconds", s.auth.login_window),
        ("upgrade.ready_seconds", s.upgrade.ready_timeout),
        ("apps.health_timeout_seconds", s.apps.health_timeout),
        ("apps.max_deploy_timeout_seconds", s.apps.max_deploy_timeout),
        ("builds.deadline_seconds", s.builds.deadline),
        ("services.connect_timeout_seconds", s.services.connect_timeout),
        ("services.timeout_seconds", s.services.call_timeout),
    ];
    match positive.iter().find(|(_, time)| *time == Duration::ZERO) {
        Some((key, _)) => Err(invalid_setting(key, "give at least 1 second")),
        None => Ok(()),
    }
}

fn check_environment_names(names: &[String]) -> Result<(), Error> {
    let key = "builds.pass_environment";
    for name in names {
        let fits = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return Err(invalid_setting(
                key,
                &format!(
                    "{:?} is not the name of an environment variable; give names only, no values",
                    name.split('=').next().unwrap_or_default()
                ),
            ));
        }
        if name.starts_with("TANCHO_") || name == "DATABASE_URL" {
            return Err(invalid_setting(
                key,
                &format!("{name} configures Tancho itself and must not be passed to builds"),
            ));
        }
    }
    Ok(())
}
