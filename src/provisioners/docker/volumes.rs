//! Volumes: named ones of the engine, made with the first container that has them.

use std::collections::HashMap;

use bollard::models::{Mount, MountType, MountVolumeOptions, MountVolumeOptionsDriverConfig};
use bollard::query_parameters::RemoveVolumeOptionsBuilder;

use super::engine::EngineError;
use super::{CHANGE_TIMEOUT, DockerRunner, DockerRunnerConfig, HOST_LABEL, ProvisionError, UnitSpec};
use crate::kernel::ids::VolumeId;
use crate::provisioners::UnitVolume;

/// The option of a plan that names the driver; all others are the driver's.
const DRIVER_OPTION: &str = "driver";

fn volume_name(host: &str, volume: VolumeId) -> String {
    format!("tancho-{host}-{volume}")
}

/// Makes the mounts of a unit.
pub(super) fn make_mounts(spec: &UnitSpec, config: &DockerRunnerConfig) -> Vec<Mount> {
    let mount = |volume: &UnitVolume| Mount {
        target: Some(volume.path.clone()),
        source: Some(volume_name(&config.host, volume.id)),
        typ: Some(MountType::VOLUME),
        read_only: Some(volume.is_read_only),
        volume_options: Some(MountVolumeOptions {
            labels: Some(HashMap::from([(HOST_LABEL.to_owned(), config.host.clone())])),
            driver_config: Some(choose_driver(volume)),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    };
    spec.volumes.iter().map(mount).collect()
}

fn choose_driver(volume: &UnitVolume) -> MountVolumeOptionsDriverConfig {
    let options = volume.options.iter().filter(|(name, _)| *name != DRIVER_OPTION);
    MountVolumeOptionsDriverConfig {
        name: Some(
            volume
                .options
                .get(DRIVER_OPTION)
                .cloned()
                .unwrap_or_else(|| "local".into()),
        ),
        options: Some(
            options
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
        ),
    }
}

impl DockerRunner {
    /// Removes a volume from the engine. Errors: `Transient` while a container has it.
    pub(super) async fn delete_volume(&self, volume: VolumeId) -> Result<(), ProvisionError> {
        self.engine.check_up()?;
        let docker = self.engine.connect().await?;
        let name = volume_name(&self.config.host, volume);
        let options = RemoveVolumeOptionsBuilder::new().force(true).build();
        let removing = docker.remove_volume(&name, Some(options));
        match self.engine.ask(CHANGE_TIMEOUT, removing).await {
            Ok(()) | Err(EngineError::Missing(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
