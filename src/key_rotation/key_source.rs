//! The source of the encryption keys, and how keys are added to and removed from the file.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::SecretsSettings;
use crate::datadir::{DataDir, atomic_file, read_keys};
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// The source of the encryption keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// The settings: fixed as long as the process lives.
    Settings(Secret),
    /// A file, which is read periodically.
    File(PathBuf),
}

impl KeySource {
    /// Chooses the source as `datadir::load_or_create_keys` does.
    pub fn new(settings: &SecretsSettings, dir: &DataDir) -> Self {
        if !settings.keys.is_empty() {
            return Self::Settings(settings.keys.clone());
        }
        match settings.key_file.as_os_str().is_empty() {
            true => Self::File(dir.key_file_path()),
            false => Self::File(settings.key_file.clone()),
        }
    }

    /// Loads the current keys. Errors: `Invalid`.
    pub fn load_keyring(&self) -> Result<Keyring, Error> {
        match self {
            Self::Settings(keys) => {
                Keyring::parse(Secret::new(keys.expose_secret().replace(',', "\n")).expose_secret())
            }
            Self::File(path) => read_keys(path),
        }
    }

    /// Adds a new key after the existing ones. Errors: `Precondition` if the operator has to do it.
    pub(super) fn add_key(&self, id: u32) -> Result<(), Error> {
        self.change_key_file(
            &format!("add a key with the id {id} to it yourself, on every machine, and run this again"),
            |text| {
                format!(
                    "{}\n{}",
                    text.trim_end(),
                    Keyring::generate_key_line(id).expose_secret()
                )
            },
        )
    }

    /// Removes all keys but one; comments stay. Errors: as `add_key`.
    pub(super) fn retain_key(&self, id: u32) -> Result<(), Error> {
        let stays = |line: &&str| Keyring::parse_key_id(line).is_none_or(|found| found == id);
        self.change_key_file(
            &format!("remove all keys but {id} from it yourself, on every machine"),
            |text| {
                text.lines()
                    .filter(stays)
                    .map(|line| format!("{line}\n"))
                    .collect()
            },
        )
    }

    fn change_key_file(&self, otherwise: &str, to: impl Fn(&str) -> String) -> Result<(), Error> {
        match self {
            Self::Settings(_) => Err(Error::precondition(format!(
                "The keys are in the setting `secrets.keys`: {otherwise}."
            ))),
            Self::File(path) => rewrite_file(path, to).map_err(|error| {
                Error::precondition(format!(
                    "Cannot write the key file {}: {otherwise}.",
                    path.display()
                ))
                .with_source(error)
            }),
        }
    }
}

/// Rewrites the file atomically and keeps its owner, because the caller may be another user than the server.
fn rewrite_file(path: &Path, to: impl Fn(&str) -> String) -> io::Result<()> {
    let path = path.canonicalize()?;
    let before = path.metadata()?;
    let text = Secret::new(fs::read_to_string(&path)?);
    let new = Secret::new(to(text.expose_secret()));
    // Whoever runs this owns what they write, unless they give it away, which only root may.
    let is_mine = nix::unistd::geteuid().as_raw() == before.uid();
    let owner = (!is_mine).then(|| (before.uid(), before.gid()));
    atomic_file::write_file(&path, new.expose_secret().as_bytes(), 0o600, owner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn adding_and_retaining_keys_preserves_comments() {
        let path = std::env::temp_dir().join(format!("tancho-keys-{}", uuid::Uuid::new_v4()));
        let text = format!("# of the cluster\n1:{}", "11".repeat(32));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let source = KeySource::File(path.clone());
        source.add_key(2).unwrap();
        assert_eq!(source.load_keyring().unwrap().key_ids(), [1, 2]);
        source.retain_key(2).unwrap();
        assert_eq!(source.load_keyring().unwrap().key_ids(), [2]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# of the cluster\n2:"), "{}", text.len());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        let words = source.add_key(3).unwrap_err().message().to_owned();
        assert!(words.contains("the id 3"), "{words}");
    }

    #[test]
    fn keys_in_settings_cannot_be_added() {
        let keys = format!("1:{}", "11".repeat(32));
        let source = KeySource::Settings(Secret::new(keys.as_str()));
        let error = source.add_key(2).unwrap_err();
        assert!(error.message().contains("secrets.keys") && !error.report().contains("1111"));
    }
}
