//! Where the keys lie, and how a key comes into the file and leaves it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use crate::config::SecretsSettings;
use crate::datadir::{DataDir, read_keys};
use crate::kernel::problem::Problem;
use crate::kernel::seal::Keyring;
use crate::kernel::secret::Secret;

/// Where the keys lie.
#[derive(Clone, Debug)]
pub enum Source {
    /// In the settings: the same as long as the process lives.
    Settings(Secret),
    /// In a file, which is read again and again.
    File(PathBuf),
}

impl Source {
    /// As `datadir::load_or_create_keys` finds them.
    pub fn new(settings: &SecretsSettings, dir: &DataDir) -> Self {
        if !settings.keys.is_empty() {
            return Self::Settings(settings.keys.clone());
        }
        match settings.key_file.as_os_str().is_empty() {
            true => Self::File(dir.seal_keys()),
            false => Self::File(settings.key_file.clone()),
        }
    }

    /// The keys as they are now. Errors: `Invalid`.
    pub fn read(&self) -> Result<Keyring, Problem> {
        match self {
            Self::Settings(keys) => Keyring::parse(Secret::new(keys.expose().replace(',', "\n")).expose()),
            Self::File(path) => read_keys(path),
        }
    }

    /// Puts a new key behind those that are there. Errors: `Precondition` when that is for the operator to do.
    pub(super) fn add(&self, id: u32) -> Result<(), Problem> {
        self.change(
            &format!("add a key with the number {id} to it yourself, on every machine, and run this again"),
            |text| format!("{}\n{}", text.trim_end(), Keyring::generate_line(id).expose()),
        )
    }

    /// Takes out all keys but one; comments stay. Errors: as `add`.
    pub(super) fn keep_only(&self, id: u32) -> Result<(), Problem> {
        let stays = |line: &&str| Keyring::id_of_line(line).is_none_or(|found| found == id);
        self.change(
            &format!("take all keys but {id} out of it yourself, on every machine"),
            |text| {
                text.lines()
                    .filter(stays)
                    .map(|line| format!("{line}\n"))
                    .collect()
            },
        )
    }

    fn change(&self, otherwise: &str, to: impl Fn(&str) -> String) -> Result<(), Problem> {
        match self {
            Self::Settings(_) => Err(Problem::precondition(format!(
                "The keys are in the settings (secrets.keys): {otherwise}."
            ))),
            Self::File(path) => rewrite(path, to).map_err(|error| {
                Problem::precondition(format!(
                    "The key file {} cannot be written: {otherwise}.",
                    path.display()
                ))
                .because(error)
            }),
        }
    }
}

/// Whole or not at all, for the same eyes as before: whoever runs this may be another user than the server.
fn rewrite(path: &Path, to: impl Fn(&str) -> String) -> io::Result<()> {
    let path = path.canonicalize()?;
    let before = path.metadata()?;
    let text = Secret::new(fs::read_to_string(&path)?);
    let new = Secret::new(to(text.expose()));
    let aside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&aside)?;
    let written = file
        .write_all(new.expose().as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| match file.metadata()?.uid() == before.uid() {
            true => Ok(()),
            false => chown(&aside, Some(before.uid()), Some(before.gid())),
        })
        .and_then(|()| fs::rename(&aside, &path));
    if written.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&aside);
    }
    written?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_come_and_go_and_comments_stay() {
        let path = std::env::temp_dir().join(format!("tancho-keys-{}", uuid::Uuid::new_v4()));
        let text = format!("# of the cluster\n1:{}", "11".repeat(32));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let source = Source::File(path.clone());
        source.add(2).unwrap();
        assert_eq!(source.read().unwrap().ids(), [1, 2]);
        source.keep_only(2).unwrap();
        assert_eq!(source.read().unwrap().ids(), [2]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# of the cluster\n2:"), "{}", text.len());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        let words = source.add(3).unwrap_err().words().to_owned();
        assert!(words.contains("number 3"), "{words}");
    }

    #[test]
    fn keys_of_the_settings_are_for_the_operator_to_change() {
        let keys = format!("1:{}", "11".repeat(32));
        let source = Source::Settings(Secret::new(keys.as_str()));
        let problem = source.add(2).unwrap_err();
        assert!(problem.words().contains("secrets.keys") && !problem.chain().contains("1111"));
    }
}
