//! The list of provisioners, and those that a process has opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{ProvisionError, Runner, UnitRunner, docker, local};
use crate::config::Settings;
use crate::datadir::DataDir;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::ids::AppId;

/// All provisioners that this program has. A new one is a line here. The first is that of a pool that names
/// none.
#[rustfmt::skip]
pub const PROVISIONERS: &[ProvisionerEntry] = &[
    ProvisionerEntry::new("local", local::open_runner),
    ProvisionerEntry::new("docker", docker::open_runner),
];

/// The provisioner of a pool that names none.
pub const DEFAULT: &str = PROVISIONERS[0].name;

/// A provisioner of this program.
#[derive(Clone, Copy)]
pub struct ProvisionerEntry {
    name: &'static str,
    open: OpenRunner,
}

/// Opens the runner of a provisioner on this host; `None`: this host does not have it.
pub type OpenRunner = fn(&RunnerParts<'_>) -> Result<Option<Runner>, ProvisionError>;

impl ProvisionerEntry {
    /// Creates an entry: the name under which pools select the provisioner, and the function that opens it.
    pub const fn new(name: &'static str, open: OpenRunner) -> Self {
        Self { name, open }
    }
}

/// Returns the folder of an app's version on this host.
pub type VersionDirRule = Arc<dyn Fn(AppId, i32) -> PathBuf + Send + Sync>;

/// Returns the uid of an app on this host by the app's number; `None`: that of Tancho.
pub type AppUidRule = Arc<dyn Fn(i32) -> Option<u32> + Send + Sync>;

/// What provisioners are opened with.
pub struct RunnerParts<'a> {
    pub settings: &'a Settings,
    pub data_dir: &'a DataDir,
    /// The id of this host.
    pub host: &'a str,
    /// This program.
    pub exe: PathBuf,
    pub version_dir: VersionDirRule,
    pub app_uid: AppUidRule,
    /// Counts the background tasks of runners, which end at `stop`.
    pub tasks: &'a TaskTracker,
    pub stop: CancellationToken,
}

/// The provisioners that a process has opened, by name. Clones share them.
#[derive(Clone)]
pub struct ProvisionerRegistry(Arc<[(&'static str, Runner)]>);

impl ProvisionerRegistry {
    /// Opens all provisioners of a list. Must be called inside a runtime.
    pub fn open(list: &[ProvisionerEntry], parts: &RunnerParts<'_>) -> Result<Self, ProvisionError> {
        let open = |entry: &ProvisionerEntry| Ok((entry.open)(parts)?.map(|runner| (entry.name, runner)));
        list.iter()
            .filter_map(|entry| open(entry).transpose())
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Creates a registry of opened runners.
    pub fn from_runners(runners: impl IntoIterator<Item = (&'static str, Runner)>) -> Self {
        Self(runners.into_iter().collect())
    }

    /// Returns the names that a pool may give.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(name, _)| *name).collect()
    }

    /// Checks that there is a provisioner of this name. Errors: `Invalid`, with those that there are.
    pub fn check_name(&self, name: &str) -> Result<(), Error> {
        match self.find_runner(name) {
            Some(_) => Ok(()),
            None => Err(Error::invalid(format!(
                "This server has no provisioner {:?}: use one of {}.",
                quote_excerpt(name),
                self.names().join(", ")
            ))),
        }
    }

    /// Returns all runners with their names.
    pub fn runners(&self) -> impl Iterator<Item = &(&'static str, Runner)> {
        self.0.iter()
    }

    /// Returns the runner of a pool's provisioner; `None`: it is not on this host.
    pub fn find_runner(&self, name: &str) -> Option<&Runner> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        found.map(|(_, runner)| runner)
    }

    /// Returns the runners whose units Tancho plans, with their names.
    pub fn unit_runners(&self) -> impl Iterator<Item = (&'static str, &Arc<dyn UnitRunner>)> {
        self.0.iter().filter_map(|(name, runner)| match runner {
            Runner::Units(runner) => Some((*name, runner)),
            Runner::Workloads(_) => None,
        })
    }

    /// Returns the runner of a pool whose units Tancho plans.
    pub fn find_unit_runner(&self, name: &str) -> Option<&Arc<dyn UnitRunner>> {
        match self.find_runner(name)? {
            Runner::Units(runner) => Some(runner),
            Runner::Workloads(_) => None,
        }
    }

    /// Stops the units of all runners on this host concurrently. Errors: the first, after all have ended.
    pub async fn stop_all_units(&self, grace: Duration) -> Result<(), ProvisionError> {
        let stops = self.0.iter().map(|(_, runner)| runner.stop_all_units(grace));
        futures_util::future::join_all(stops).await.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::UnitState;
    use super::super::contract::units::sample_spec;
    use super::super::contract::workloads::sample_workload;
    use super::super::fake::{FakeUnitRunner, FakeWorkloadRunner};
    use super::*;

    /// The list of a program that has the fakes too: one line for each.
    const WITH_FAKES: &[ProvisionerEntry] = &[
        PROVISIONERS[0],
        ProvisionerEntry::new("fake-units", open_units),
        ProvisionerEntry::new("fake-workloads", open_workloads),
    ];

    fn open_units(_: &RunnerParts<'_>) -> Result<Option<Runner>, ProvisionError> {
        Ok(Some(Runner::Units(Arc::new(FakeUnitRunner::new()))))
    }

    fn open_workloads(_: &RunnerParts<'_>) -> Result<Option<Runner>, ProvisionError> {
        Ok(Some(Runner::Workloads(Arc::new(FakeWorkloadRunner::new()))))
    }

    /// A registry on a data folder, which is removed with it.
    struct RegistryFixture {
        registry: ProvisionerRegistry,
        folder: PathBuf,
    }

    impl RegistryFixture {
        fn open(list: &[ProvisionerEntry]) -> Self {
            let name = format!("tancho-registry-{}", uuid::Uuid::new_v4().simple());
            let folder = std::env::temp_dir().join(name);
            let mut settings = Settings::defaults();
            // The program that looks whether there are namespaces is not this one.
            settings.local.namespaces = false;
            // The machine may have an engine.
            settings.docker.host = String::new();
            let parts = RunnerParts {
                settings: &settings,
                data_dir: &DataDir::open(&folder).unwrap(),
                host: "test",
                exe: "/proc/self/exe".into(),
                version_dir: Arc::new(|_, _| "/".into()),
                app_uid: Arc::new(|_| None),
                tasks: &TaskTracker::new(),
                stop: CancellationToken::new(),
            };
            let registry = ProvisionerRegistry::open(list, &parts).unwrap();
            Self { registry, folder }
        }
    }

    impl Drop for RegistryFixture {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[tokio::test]
    async fn provisioner_is_added_by_one_line_in_the_list() {
        let fixture = RegistryFixture::open(WITH_FAKES);
        let registry = &fixture.registry;
        assert_eq!(registry.names(), ["local", "fake-units", "fake-workloads"]);
        for name in registry.names() {
            assert!(registry.check_name(name).is_ok(), "{name}");
        }
        assert_eq!(registry.unit_runners().count(), 2);

        let units = registry.find_unit_runner("fake-units").unwrap();
        let spec = sample_spec("added", "exec sleep 1000");
        units.ensure_unit(&spec).await.unwrap();

        let Some(Runner::Workloads(workloads)) = registry.find_runner("fake-workloads") else {
            panic!("it runs workloads");
        };
        assert!(registry.find_unit_runner("fake-workloads").is_none());
        workloads
            .apply_workload(&sample_workload("added", 1))
            .await
            .unwrap();

        registry.stop_all_units(Duration::ZERO).await.unwrap();
        let states = units.observe_units().await.unwrap();
        assert_eq!(states[0].state, UnitState::Stopped);
        let found = workloads.observe_workloads().await.unwrap();
        assert_eq!(found[0].units[0].state, UnitState::Started);
    }

    #[tokio::test]
    async fn unknown_provisioner_is_refused_with_those_that_there_are() {
        let fixture = RegistryFixture::open(PROVISIONERS);
        let registry = &fixture.registry;
        assert_eq!(registry.names(), [DEFAULT]);
        let refused = registry.check_name("docker").unwrap_err();
        assert_eq!(
            refused.message(),
            "This server has no provisioner \"docker\": use one of local."
        );
    }
}
