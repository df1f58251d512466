//! Passes a spec, including secrets, to the shim: in an anonymous memory file that becomes the shim's
//! standard input and stays open. A later Tancho process reads it again (`/proc/<shim>/fd/0`, which only our
//! own user may open) to run a command in the unit's environment.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

use super::volumes::{ShimVolume, prepare_volumes, scratch_folder};
use super::{LocalRunnerConfig, ProvisionError, RestartPolicy, UnitId, UnitLimits, UnitSpec};
use crate::kernel::artifact::Artifact;
use crate::kernel::names::{AppName, EnvName, ProcessName};
use crate::kernel::secret::Secret;
use crate::provisioners::volume_variable;

/// The limit on the size of a spec, in bytes.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// What the shim of a unit knows of it: its spec as this host runs it. Other versions of Tancho read it: fields
/// are only added, with defaults. The only place where the values of variables are written in plain text, to
/// memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ShimSpec {
    pub(super) unit: UnitId,
    pub(super) app: AppName,
    pub(super) process: ProcessName,
    pub(super) version: i32,
    /// The version's folder; the unit's working directory.
    pub(super) dir: PathBuf,
    pub(super) before: Vec<String>,
    pub(super) command: String,
    pub(super) after: Vec<String>,
    #[serde(serialize_with = "in_clear")]
    pub(super) env: Vec<(EnvName, Secret)>,
    pub(super) memory_bytes: u64,
    #[serde(default)]
    pub(super) cpu_milli: u32,
    /// The uid and gid to run as; `None` = those of Tancho.
    pub(super) user: Option<u32>,
    pub(super) grace: Duration,
    /// The limits from the settings.
    #[serde(default, rename = "bounds")]
    pub(super) limits: UnitLimits,
    /// The parent cgroup of the unit's; `None` = Tancho's own.
    pub(super) cgroup: Option<PathBuf>,
    /// What happens when the command ends.
    #[serde(default)]
    pub(super) restart: RestartPolicy,
    #[serde(default)]
    pub(super) volumes: Vec<ShimVolume>,
    /// The folder over which it mounts them.
    #[serde(default)]
    pub(super) mount_scratch: PathBuf,
}

impl ShimSpec {
    /// Completes a spec by what this host decides. Errors: `Permanent` if this host does not have the content.
    pub(super) fn new(spec: &UnitSpec, settings: &LocalRunnerConfig) -> Result<Self, ProvisionError> {
        match &spec.artifact {
            Artifact::Folder { holder } if *holder == settings.host => {}
            Artifact::Folder { holder } => {
                return Err(ProvisionError::Permanent(format!(
                    "The files of version {} are on the host {holder}, not on this one.",
                    spec.version
                )));
            }
            Artifact::Image(image) => {
                return Err(ProvisionError::Permanent(format!(
                    "The local provisioner runs no images, and version {} is the image {image}.",
                    spec.version
                )));
            }
        }
        Ok(Self {
            unit: spec.unit.clone(),
            app: spec.app.name.clone(),
            process: spec.process.clone(),
            version: spec.version,
            dir: (settings.version_dir)(spec.app.id, spec.version),
            before: spec.before.clone(),
            command: spec.command.clone(),
            after: spec.after.clone(),
            env: spec.env.clone(),
            memory_bytes: spec.memory_bytes,
            cpu_milli: spec.cpu_milli,
            user: (settings.app_uid)(spec.app.number),
            grace: spec.grace,
            limits: settings.limits.clone(),
            cgroup: settings.cgroup.clone(),
            restart: spec.restart,
            volumes: prepare_volumes(settings, spec)?,
            mount_scratch: scratch_folder(&settings.volumes),
        })
    }

    /// Writes the spec to a memory file, ready to be read from its start.
    pub(super) fn write_memfd(&self) -> io::Result<File> {
        let mut file = File::from(memfd_create(c"tancho-unit", MFdFlags::MFD_CLOEXEC)?);
        let text = Zeroizing::new(serde_json::to_vec(self)?);
        file.write_all(&text)?;
        file.rewind()?;
        Ok(file)
    }

    pub(super) fn read_from(from: impl Read) -> io::Result<Self> {
        let mut text = Zeroizing::new(Vec::new());
        from.take(MAX_SPEC_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

fn in_clear<S: Serializer>(env: &[(EnvName, Secret)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(env.iter().map(|(name, value)| (name, value.expose_secret())))
}

/// Builds the complete environment of a unit: defaults, overridden by the spec, overridden by the port.
pub(super) fn unit_env(spec: &ShimSpec, home: &Path, port: u16) -> Vec<(String, String)> {
    let own = spec.dir.join(".tancho/bin");
    let mut path = "/usr/local/bin:/usr/bin:/bin".to_owned();
    if own.is_dir() {
        path.insert_str(0, &format!("{}:", own.display()));
    }
    let home = home.to_string_lossy().into_owned();
    let mut all: Vec<(String, String)> = vec![
        ("HOME".into(), home.clone()),
        ("TMPDIR".into(), home),
        ("PATH".into(), path),
        ("LANG".into(), "C.UTF-8".into()),
        // Defaults for production: unbuffered log output, and no development mode.
        ("PYTHONUNBUFFERED".into(), "1".into()),
        ("NODE_ENV".into(), "production".into()),
    ];
    let port = ["PORT", "port"].map(|name| (name.to_owned(), port.to_string()));
    let volumes = spec.volumes.iter().map(|volume| {
        let path = volume.visible_path().to_string_lossy().into_owned();
        (volume_variable(&volume.name), path)
    });
    let given = spec
        .env
        .iter()
        .map(|(name, value)| (name.to_string(), value.expose_secret().to_owned()));
    for (name, value) in given.chain(port).chain(volumes) {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::super::contract::units::sample_spec;
    use super::*;

    fn sample_config() -> LocalRunnerConfig {
        LocalRunnerConfig::new(
            "/units",
            "test",
            |_, version| format!("/nonexistent/{version}").into(),
            |number| u32::try_from(number).ok(),
        )
    }

    #[test]
    fn spec_overrides_all_variables_but_the_port() {
        let mut spec = ShimSpec::new(&sample_spec("x", "true"), &sample_config()).unwrap();
        spec.env = [("LANG", "de"), ("PORT", "1"), ("A", "b"), ("NODE_ENV", "test")]
            .map(|(name, value)| (EnvName::parse(name).unwrap(), Secret::new(value)))
            .into();
        let mut all: Vec<String> = unit_env(&spec, Path::new("/h"), 7)
            .into_iter()
            .map(|(n, v)| format!("{n}={v}"))
            .collect();
        all.sort();
        let want = [
            "A=b",
            "HOME=/h",
            "LANG=de",
            "NODE_ENV=test",
            "PATH=/usr/local/bin:/usr/bin:/bin",
            "PORT=7",
            "PYTHONUNBUFFERED=1",
            "TMPDIR=/h",
            "port=7",
        ];
        assert_eq!(all, want);
    }

    #[test]
    fn spec_survives_the_transfer() {
        let spec = ShimSpec::new(&sample_spec("x", "true"), &sample_config()).unwrap();
        assert_eq!((spec.dir.to_str(), spec.user), (Some("/nonexistent/1"), Some(7)));
        let back = ShimSpec::read_from(spec.write_memfd().unwrap()).unwrap();
        assert_eq!(format!("{back:?}"), format!("{spec:?}"));
        assert_eq!(back.env, spec.env);
    }

    #[test]
    fn content_that_this_host_does_not_have_is_refused() {
        let image = format!("registry.example.com/app:v1@sha256:{}", "0a".repeat(32));
        let elsewhere = Artifact::Folder {
            holder: "other".into(),
        };
        for artifact in [Artifact::Image(image.parse().unwrap()), elsewhere] {
            let mut spec = sample_spec("x", "true");
            spec.artifact = artifact;
            let refused = ShimSpec::new(&spec, &sample_config()).unwrap_err();
            assert!(matches!(refused, ProvisionError::Permanent(_)), "{refused:?}");
        }
    }
}
