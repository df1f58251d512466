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

use super::{AppName, EnvName, ProcessName, Secret, UnitId, UnitLimits, UnitSpec};

/// The limit on the size of a spec, in bytes.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// The message to a shim. The only place where the values of variables are written in plain text, to memory.
#[derive(Serialize, Deserialize)]
pub(super) struct SpecTransfer {
    unit: UnitId,
    app: AppName,
    process: ProcessName,
    version: i32,
    dir: PathBuf,
    before: Vec<String>,
    command: String,
    after: Vec<String>,
    #[serde(serialize_with = "in_clear")]
    env: Vec<(EnvName, Secret)>,
    memory_bytes: u64,
    #[serde(default)]
    cpu_milli: u32,
    user: Option<u32>,
    grace: Duration,
    /// The limits from the settings.
    #[serde(default)]
    pub(super) bounds: UnitLimits,
    /// The parent cgroup of the unit's; `None` = Tancho's own.
    pub(super) cgroup: Option<PathBuf>,
}

impl SpecTransfer {
    pub(super) fn new(spec: &UnitSpec, bounds: &UnitLimits, cgroup: Option<PathBuf>) -> Self {
        Self {
            unit: spec.unit.clone(),
            app: spec.app.clone(),
            process: spec.process.clone(),
            version: spec.version,
            dir: spec.dir.clone(),
            before: spec.before.clone(),
            command: spec.command.clone(),
            after: spec.after.clone(),
            env: spec.env.clone(),
            memory_bytes: spec.memory_bytes,
            cpu_milli: spec.cpu_milli,
            user: spec.user,
            grace: spec.grace,
            bounds: bounds.clone(),
            cgroup,
        }
    }

    pub(super) fn into_spec(self) -> UnitSpec {
        UnitSpec {
            unit: self.unit,
            app: self.app,
            process: self.process,
            version: self.version,
            dir: self.dir,
            before: self.before,
            command: self.command,
            after: self.after,
            env: self.env,
            memory_bytes: self.memory_bytes,
            cpu_milli: self.cpu_milli,
            user: self.user,
            grace: self.grace,
        }
    }

    /// Writes the message to a memory file, ready to be read from its start.
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
pub(super) fn unit_env(spec: &UnitSpec, home: &Path, port: u16) -> Vec<(String, String)> {
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
    let given = spec
        .env
        .iter()
        .map(|(name, value)| (name.to_string(), value.expose_secret().to_owned()));
    for (name, value) in given.chain(port) {
        all.retain(|(known, _)| *known != name);
        all.push((name, value));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::super::contract;
    use super::*;

    #[test]
    fn spec_overrides_all_variables_but_the_port() {
        let mut spec = contract::sample_spec("x", "/nonexistent".into(), "true");
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
        let spec = contract::sample_spec("x", "/app".into(), "true");
        let file = SpecTransfer::new(&spec, &UnitLimits::default(), None)
            .write_memfd()
            .unwrap();
        let back = SpecTransfer::read_from(file).unwrap().into_spec();
        assert_eq!(format!("{back:?}"), format!("{spec:?}"));
        assert_eq!(back.env, spec.env);
    }
}
