//! Starts the container of a unit.

use bollard::models::ContainerInspectResponse;
use bollard::query_parameters::CreateContainerOptionsBuilder;

use super::container_spec::make_body;
use super::engine::EngineError;
use super::exec;
use super::report;
use super::unit_notes::UnitNotes;
use super::{ASK_TIMEOUT, CHANGE_TIMEOUT, DockerRunner, ProvisionError, UnitSpec, network};
use crate::kernel::artifact::Artifact;

impl DockerRunner {
    /// Starts a unit, unless it runs. A container that has ended is started again, so that its log goes on; one that
    /// cannot be started is removed, and made anew with the next attempt.
    pub(super) async fn start_unit(&self, spec: &UnitSpec) -> Result<(), ProvisionError> {
        let name = self.container_name(&spec.unit);
        match self.inspect(&name).await {
            Ok(found) if report::status_text(&found) == Some("running") => return Ok(()),
            Ok(found) if report::runs_once(&found) && report::has_ended(&found) => return Ok(()),
            Ok(found) => return self.start_again(spec, &name, &found).await,
            Err(EngineError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let Artifact::Image(pinned) = &spec.artifact else {
            return Err(ProvisionError::Permanent(
                "This pool runs images only: deploy an image, as in `tsuru app deploy --image`.".into(),
            ));
        };
        let image = self.find_pinned(pinned).await?;
        let network = network::ensure_network(self, spec).await?;
        let image_config = image.config.unwrap_or_default();
        let body = make_body(
            spec,
            image.id.unwrap_or_default(),
            &image_config,
            &network,
            &self.config,
        );
        self.notes.write(&spec.unit, &UnitNotes::default())?;
        let docker = self.engine.connect().await?;
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        let creating = docker.create_container(Some(options), body);
        match self.engine.ask(CHANGE_TIMEOUT, creating).await {
            // Somebody else has created it just now.
            Ok(_) | Err(EngineError::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.start_created(spec, &name).await
    }

    async fn start_again(
        &self,
        spec: &UnitSpec,
        name: &str,
        found: &ContainerInspectResponse,
    ) -> Result<(), ProvisionError> {
        if report::status_text(found) == Some("paused") {
            let docker = self.engine.connect().await?;
            self.engine
                .ask(CHANGE_TIMEOUT, docker.unpause_container(name))
                .await?;
            return Ok(());
        }
        self.notes.update(&spec.unit, |notes| notes.is_stopped = false)?;
        self.start_created(spec, name).await
    }

    async fn start_created(&self, spec: &UnitSpec, name: &str) -> Result<(), ProvisionError> {
        let docker = self.engine.connect().await?;
        let starting = docker.start_container(name, None);
        match self.engine.ask(CHANGE_TIMEOUT, starting).await {
            Ok(()) => {
                exec::spawn_hooks(self, spec);
                Ok(())
            }
            Err(error @ EngineError::NoAnswer(_)) => Err(error.into()),
            Err(error) => {
                self.delete_container(name).await?;
                Err(ProvisionError::Transient(format!(
                    "The unit {} cannot be started. {error}",
                    spec.unit
                )))
            }
        }
    }

    /// Says whether a running container of this name exists. Errors: `Gone`.
    pub(super) async fn find_running(
        &self,
        unit: &super::UnitId,
    ) -> Result<ContainerInspectResponse, ProvisionError> {
        match self.inspect(&self.container_name(unit)).await {
            Ok(found) if report::status_text(&found) == Some("running") => Ok(found),
            Ok(_) | Err(EngineError::Missing(_)) => Err(super::unit_gone(unit)),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the name of the engine's kind of processor, such as `amd64`.
    pub(super) async fn find_architecture(&self) -> Result<String, ProvisionError> {
        let docker = self.engine.connect().await?;
        let version = self.engine.ask(ASK_TIMEOUT, docker.version()).await?;
        Ok(version.arch.unwrap_or_default())
    }
}
