//! What the docker runner is built with, and how it is opened for a server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{DockerRunner, ProvisionError, Runner};
use crate::config::ContainerCapabilities;
use crate::config::IpNetwork;
use crate::provisioners::registry::RunnerParts;

/// The socket that an engine has by default.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// The configuration of the docker runner.
#[derive(Clone, Debug)]
pub struct DockerRunnerConfig {
    /// The engine's socket.
    pub socket: String,
    /// The id of this host, which labels what is ours in the engine.
    pub host: String,
    /// Where the notes on units are.
    pub folder: PathBuf,
    /// The address of this host on which the ports of units are published.
    pub publish_address: IpAddr,
    /// What the networks of apps are taken from.
    pub networks: IpNetwork,
    pub capabilities: ContainerCapabilities,
    pub max_processes: i64,
    pub max_open_files: i64,
    /// The longest grace period that units have.
    pub longest_grace: Duration,
}

/// Opens the docker provisioner of a server; `None` if the settings or the machine have no engine.
pub fn open_runner(parts: &RunnerParts<'_>) -> Result<Option<Runner>, ProvisionError> {
    let settings = &parts.settings.docker;
    let socket = match settings.host.as_str() {
        "" => return Ok(None),
        "auto" if !Path::new(DEFAULT_SOCKET).exists() => return Ok(None),
        "auto" => DEFAULT_SOCKET,
        host => host.trim_start_matches("unix://"),
    };
    let config = DockerRunnerConfig {
        socket: socket.to_owned(),
        host: parts.host.to_owned(),
        folder: parts.data_dir.path().join("containers"),
        publish_address: settings.publish_address,
        networks: settings.networks,
        capabilities: settings.capabilities,
        max_processes: i64::try_from(settings.max_processes).unwrap_or(i64::MAX),
        max_open_files: i64::try_from(settings.max_open_files).unwrap_or(i64::MAX),
        longest_grace: parts.settings.apps.stop_grace,
    };
    let supervise = parts.data_dir.is_locked();
    let runner = DockerRunner::new(config, supervise, parts.tasks, parts.stop.clone())?;
    Ok(Some(Runner::Units(Arc::new(runner))))
}
