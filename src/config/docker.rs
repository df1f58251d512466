//! `[docker]`: the provisioner that runs containers.

use std::net::IpAddr;

use serde::Deserialize;

use super::IpNetwork;

/// `[docker]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DockerProvisionerSettings {
    /// Empty, `auto`, or `unix://` and a path.
    pub host: String,
    /// An address of this host.
    pub publish_address: IpAddr,
    /// An IPv4 network, of at most 29 bits.
    pub networks: IpNetwork,
    /// What processes in containers may do beyond those of ordinary users.
    pub capabilities: ContainerCapabilities,
    /// Per unit, at least 16.
    pub max_processes: u64,
    /// Per process, at least 64.
    pub max_open_files: u64,
}

/// The capabilities of the processes in containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerCapabilities {
    /// Those that common images need to start as root and go on as another user.
    Common,
    /// None at all.
    None,
}
