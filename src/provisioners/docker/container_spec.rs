//! The container of a unit: its command, environment, limits and what it may do.

use std::collections::HashMap;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, ImageConfig, PortBinding,
    ResourcesUlimits, RestartPolicy as EngineRestartPolicy, RestartPolicyNameEnum,
};

use super::{
    APP_LABEL, APP_NAME_LABEL, DockerRunnerConfig, HOST_LABEL, PROCESS_LABEL, RUNS_ONCE_LABEL, UNIT_LABEL,
    UnitSpec, VERSION_LABEL, volumes, whole_seconds,
};
use crate::config::ContainerCapabilities;
use crate::kernel::command_words::{parse_plain_words, quote_words};
use crate::provisioners::{RestartPolicy, volume_variable};

/// The port of an image that names none, as in tsuru.
const DEFAULT_PORT: u16 = 8888;
/// What the engine allows by default, without what only serves attacks on others (NET_RAW, MKNOD, AUDIT_WRITE,
/// SETFCAP, SYS_CHROOT). Common images need these to give up root.
const CAPABILITIES: [&str; 9] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETGID",
    "SETPCAP",
    "SETUID",
];
/// What the engine keeps of a unit's output; Tancho reads it as it comes.
const LOG_BYTES: &str = "4m";
/// The share of one processor, in the engine's measure.
const CPU_SHARES: i64 = 1024;
/// The smallest share that the kernel takes.
const MIN_CPU_SHARES: i64 = 2;

/// Makes the body that creates the container of a unit.
pub(super) fn make_body(
    spec: &UnitSpec,
    image: String,
    image_config: &ImageConfig,
    network: &str,
    config: &DockerRunnerConfig,
) -> ContainerCreateBody {
    let port = choose_port(spec, image_config);
    let exposed = format!("{port}/tcp");
    let binding = PortBinding {
        host_ip: Some(config.publish_address.to_string()),
        host_port: Some(String::new()),
    };
    let ports = HashMap::from([(exposed.clone(), Some(vec![binding]))]);
    let mut command = unit_command(spec, image_config).into_iter();
    ContainerCreateBody {
        image: Some(image),
        entrypoint: Some(command.next().into_iter().collect()),
        cmd: Some(command.collect()),
        healthcheck: health_check(spec, image_config),
        env: Some(make_env(spec, port)),
        labels: Some(make_labels(spec, config)),
        exposed_ports: Some(vec![exposed]),
        stop_timeout: Some(i64::from(whole_seconds(spec.grace))),
        tty: Some(false),
        open_stdin: Some(false),
        host_config: Some(HostConfig {
            port_bindings: Some(ports),
            network_mode: Some(network.to_owned()),
            mounts: Some(volumes::make_mounts(spec, config)),
            ..make_limits(spec, config)
        }),
        ..ContainerCreateBody::default()
    }
}

/// Limits and rights.
fn make_limits(spec: &UnitSpec, config: &DockerRunnerConfig) -> HostConfig {
    let memory = i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX);
    let capabilities: &[&str] = match config.capabilities {
        ContainerCapabilities::Common => &CAPABILITIES,
        ContainerCapabilities::None => &[],
    };
    let log_options = HashMap::from([
        ("max-size".to_owned(), LOG_BYTES.to_owned()),
        ("max-file".to_owned(), "2".to_owned()),
    ]);
    HostConfig {
        memory: Some(memory),
        // Together with the memory: none of it is swap.
        memory_swap: Some(memory),
        cpu_shares: Some(cpu_shares(spec.cpu_milli)),
        pids_limit: Some(config.max_processes),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".into()),
            soft: Some(config.max_open_files),
            hard: Some(config.max_open_files),
        }]),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(capabilities.iter().map(|name| (*name).to_owned()).collect()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        privileged: Some(false),
        // Reaps what the command leaves, and passes signals on to a command without handlers for them.
        init: Some(true),
        restart_policy: Some(EngineRestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(log_options),
        }),
        ..HostConfig::default()
    }
}

fn cpu_shares(milli: u32) -> i64 {
    match milli {
        0 => CPU_SHARES,
        milli => (i64::from(milli) * CPU_SHARES / 1000).max(MIN_CPU_SHARES),
    }
}

/// Returns the command of an image, its entry point included.
pub(super) fn image_command(image: &ImageConfig) -> Vec<String> {
    image
        .entrypoint
        .iter()
        .chain(&image.cmd)
        .flatten()
        .cloned()
        .collect()
}

/// The command of a unit: that of the image, or its words if it is nothing but words, so that images without a shell
/// work; else a shell with the hooks before it.
fn unit_command(spec: &UnitSpec, image: &ImageConfig) -> Vec<String> {
    if spec.before.is_empty() {
        if runs_image_command(spec, image) {
            return image_command(image);
        }
        if let Some(words) = parse_plain_words(&spec.command) {
            return words;
        }
    }
    let mut script = String::new();
    for hook in &spec.before {
        script.push_str(&format!("(\n{hook}\n) || exit\n"));
    }
    script.push_str(&spec.command);
    vec!["/bin/sh".into(), "-c".into(), script]
}

fn runs_image_command(spec: &UnitSpec, image: &ImageConfig) -> bool {
    spec.command == quote_words(image_command(image).iter().map(String::as_str))
}

/// The health check of the image is one of its own command: other processes, and units for one command, have none.
fn health_check(spec: &UnitSpec, image: &ImageConfig) -> Option<HealthConfig> {
    (!runs_image_command(spec, image)).then(|| HealthConfig {
        test: Some(vec!["NONE".into()]),
        ..HealthConfig::default()
    })
}

fn make_env(spec: &UnitSpec, port: u16) -> Vec<String> {
    let is_ours = |name: &str| matches!(name, "PORT" | "port");
    let volumes = spec
        .volumes
        .iter()
        .map(|volume| format!("{}={}", volume_variable(&volume.name), volume.path));
    let given = spec.env.iter().filter(|(name, _)| !is_ours(name.as_str()));
    given
        .map(|(name, value)| format!("{}={}", name.as_str(), value.expose_secret()))
        .chain([format!("PORT={port}"), format!("port={port}")])
        .chain(volumes)
        .collect()
}

fn make_labels(spec: &UnitSpec, config: &DockerRunnerConfig) -> HashMap<String, String> {
    let runs_once = (spec.restart == RestartPolicy::Never).then(|| (RUNS_ONCE_LABEL, "yes".to_owned()));
    [
        (HOST_LABEL, config.host.clone()),
        (UNIT_LABEL, spec.unit.to_string()),
        (APP_LABEL, spec.app.id.to_string()),
        (APP_NAME_LABEL, spec.app.name.to_string()),
        (PROCESS_LABEL, spec.process.to_string()),
        (VERSION_LABEL, spec.version.to_string()),
    ]
    .into_iter()
    .chain(runs_once)
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

/// The port on which a unit listens: the app's `PORT`, else the one that the image exposes, else its `PORT`. Of
/// several exposed ones it is the one that its `PORT` names, else the lowest.
fn choose_port(spec: &UnitSpec, image: &ImageConfig) -> u16 {
    let of_app = spec
        .env
        .iter()
        .find(|(name, _)| name.as_str() == "PORT")
        .and_then(|(_, value)| parse_port(value.expose_secret()));
    let of_image = image
        .env
        .iter()
        .flatten()
        .find_map(|var| parse_port(var.strip_prefix("PORT=")?));
    let exposed: Vec<u16> = image
        .exposed_ports
        .iter()
        .flatten()
        .filter_map(|port| parse_port(port.strip_suffix("/tcp").unwrap_or(port)))
        .collect();
    let chosen = match of_image {
        Some(port) if exposed.is_empty() || exposed.contains(&port) => Some(port),
        _ => exposed.into_iter().min(),
    };
    of_app.or(chosen).unwrap_or(DEFAULT_PORT)
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::contract::units::sample_spec;
    use super::*;
    use crate::kernel::names::EnvName;
    use crate::kernel::secret::Secret;

    fn image(exposed: &[&str], env: &[&str]) -> ImageConfig {
        let owned = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect());
        ImageConfig {
            exposed_ports: owned(exposed),
            env: owned(env),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn port_is_that_of_the_app_or_of_the_image() {
        let mut spec = sample_spec("port", "true");
        for (exposed, env, port) in [
            (&[][..], &[][..], DEFAULT_PORT),
            (&["5000/tcp"], &[], 5000),
            (&["9000/tcp", "5000/tcp", "53/udp"], &[], 5000),
            (&["9000/tcp", "5000/tcp"], &["PORT=9000"], 9000),
            (&["9000/tcp"], &["PORT=1"], 9000),
            (&[], &["PATH=/bin", "PORT=3000"], 3000),
            (&[], &["PORT=no"], DEFAULT_PORT),
        ] {
            assert_eq!(
                choose_port(&spec, &image(exposed, env)),
                port,
                "{exposed:?} {env:?}"
            );
        }
        spec.env
            .push((EnvName::parse("PORT").unwrap(), Secret::new("7000")));
        assert_eq!(choose_port(&spec, &image(&["5000/tcp"], &[])), 7000);
        assert_eq!(make_env(&spec, 7000), ["SOME=value", "PORT=7000", "port=7000"]);
    }

    #[test]
    fn plain_command_needs_no_shell() {
        let mut spec = sample_spec("command", "/server '--name=a b' -v");
        let none = ImageConfig::default();
        assert_eq!(unit_command(&spec, &none), ["/server", "--name=a b", "-v"]);
        spec.before.push("migrate".into());
        assert_eq!(
            unit_command(&spec, &none),
            ["/bin/sh", "-c", "(\nmigrate\n) || exit\n/server '--name=a b' -v"]
        );
        let spec = sample_spec("command", "exec server --port $PORT");
        assert_eq!(unit_command(&spec, &none)[..2], ["/bin/sh", "-c"]);
        let spec = sample_spec("command", "server -v");
        let own = ImageConfig {
            entrypoint: Some(vec!["server".into()]),
            cmd: Some(vec!["-v".into()]),
            ..ImageConfig::default()
        };
        assert_eq!(unit_command(&spec, &own), ["server", "-v"]);
        assert!(health_check(&spec, &own).is_none() && health_check(&spec, &none).is_some());
        assert_eq!(unit_command(&spec, &none)[..2], ["/bin/sh", "-c"]);
    }

    #[test]
    fn share_of_a_unit_is_never_nothing() {
        for (milli, shares) in [(0, 1024), (1, 2), (500, 512), (4000, 4096)] {
            assert_eq!(cpu_shares(milli), shares, "{milli}");
        }
    }
}
