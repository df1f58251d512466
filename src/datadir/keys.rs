//! The file with the encryption keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::{DataDir, path_error};
use crate::config::SecretsSettings;
use crate::kernel::encryption::Keyring;
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// The maximum size of a key file, which has a few lines.
const MAX_KEY_FILE_BYTES: u64 = 64 * 1024;

/// Loads the encryption keys: from the settings, from the file they name, or from `seal.keys`, which is
/// created if missing. Errors: `Invalid` if the keys cannot be read or other users can read them.
pub fn load_or_create_keys(settings: &SecretsSettings, dir: &DataDir) -> Result<Keyring, Error> {
    if !settings.keys.is_empty() {
        return Keyring::parse(Secret::new(settings.keys.expose_secret().replace(',', "\n")).expose_secret());
    }
    if settings.key_file.as_os_str().is_empty() {
        let path = dir.key_file_path();
        if !path.exists() {
            create_keys(&path).map_err(|error| path_error("be created", &path, error))?;
        }
        return read_keys(&path);
    }
    if !settings.key_file.exists() {
        // Creating one here would hide a mistyped path until values cannot be decrypted.
        return Err(Error::invalid(format!(
            "The key file {} does not exist; put one line of the form 1:<64 hexadecimal digits> into it, for \
             example with `echo \"1:$(openssl rand -hex 32)\"`, and give it mode 600.",
            settings.key_file.display()
        )));
    }
    read_keys(&settings.key_file)
}

/// Written under another name and linked into place, so that a crash leaves no partial file, and the first of
/// two processes succeeds.
fn create_keys(path: &Path) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let written = file
        .write_all(Keyring::generate_key_file().expose_secret().as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| match fs::hard_link(&aside, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            done => done,
        });
    fs::remove_file(&aside)?;
    written?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Reads a key file. Errors: `Invalid`, also if other users can read it.
pub fn read_keys(path: &Path) -> Result<Keyring, Error> {
    let unreadable = |error| path_error("be read", path, error);
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(Error::invalid(format!(
            "The key file {} can be read by other users (mode {:03o}); run `chmod 600 {}`.",
            path.display(),
            mode & 0o777,
            path.display()
        )));
    }
    let mut text = String::new();
    let read = file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(unreadable)?;
    Keyring::parse(text.expose_secret())
        .map_err(|error| Error::invalid(format!("{}: {}", path.display(), error.message())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::tests::{DataDirFixture, mode};
    use super::*;
    use crate::config::Settings;
    use crate::kernel::encryption::{AssociatedData, SealedColumn};

    #[test]
    fn keys_are_created_once_and_loaded_again() {
        let temp = DataDirFixture::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let settings = Settings::defaults().secrets;
        let place = AssociatedData::new(SealedColumn::ACCESS_TOKEN, &[&1]);
        let sealed = load_or_create_keys(&settings, &dir)
            .unwrap()
            .encrypt(&place, &Secret::new("x"));
        assert_eq!(mode(&dir.key_file_path()), 0o600);
        let again = load_or_create_keys(&settings, &dir).unwrap();
        assert_eq!(again.decrypt(&place, &sealed).unwrap().expose_secret(), "x");
        let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(names.filter(|n| n.to_string_lossy().contains("new")).count(), 0);
    }

    #[test]
    fn keys_readable_by_others_are_rejected() {
        let temp = DataDirFixture::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let settings = Settings::defaults().secrets;
        load_or_create_keys(&settings, &dir).unwrap();
        fs::set_permissions(dir.key_file_path(), fs::Permissions::from_mode(0o644)).unwrap();
        let words = load_or_create_keys(&settings, &dir).unwrap_err().to_string();
        assert!(words.contains("chmod 600"), "{words}");
    }

    #[test]
    fn keys_in_settings_take_precedence_and_a_configured_file_must_exist() {
        let temp = DataDirFixture::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let mut settings = Settings::defaults().secrets;
        settings.key_file = temp.0.join("no.keys");
        let words = load_or_create_keys(&settings, &dir).unwrap_err().to_string();
        assert!(words.contains("no.keys"), "{words}");
        settings.keys = Secret::new(format!("1:{},2:{}", "11".repeat(32), "22".repeat(32)));
        let ring = load_or_create_keys(&settings, &dir).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring(2 keys, current 2)");
        assert!(!dir.key_file_path().exists());
    }
}
