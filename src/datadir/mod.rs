//! The data folder: everything that a Tancho process keeps on disk.
//!
//! One process at a time owns it, by a lock that ends with the process in any case. A process that only reads
//! from it (`tancho router`) opens it without the lock.
//!
//! If started by root, units and the managed Postgres run as other users, who must be able to traverse the
//! folder: its mode lets everybody traverse but not list it (0711), and each folder below sets its own
//! access.

pub mod atomic_file;
mod folder_checks;
mod keys;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kernel::error::Error;
use crate::kernel::ids::ReplicaId;

use folder_checks::{check_mode, check_traversable, resolve_new_folder};
pub use keys::{load_or_create_keys, read_keys};

/// An open data folder. Its paths are absolute and contain no symbolic links.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    as_root: bool,
    /// The lock belongs to the open file: it ends when no process has that file open any more.
    lock: Mutex<Option<File>>,
    postgres_start_lock: tokio::sync::Mutex<()>,
}

impl DataDir {
    /// Creates the folder and its subfolders, and locks it for this process until the value is dropped.
    /// Errors: `Conflict` if another Tancho has it (naming its pid), `Invalid` if the path is unsuitable.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let dir = Self::open_shared(path)?;
        dir.acquire_lock()?;
        dir.make_folders()?;
        Ok(dir)
    }

    /// The same without the lock and the subfolders, for a process that is to get the lock from the one that has it.
    pub fn open_shared(path: &Path) -> Result<Self, Error> {
        let as_root = nix::unistd::geteuid().is_root();
        let pass = if as_root { 0o711 } else { 0o700 };
        let is_new = !path.exists();
        if is_new {
            if as_root {
                check_traversable(&resolve_new_folder(path)?)?;
            }
            make_with_parents(path, pass).map_err(|error| path_error("be created", path, error))?;
        }
        let path = resolve_folder(path)?;
        if !is_new {
            check_mode(&path, as_root)?;
        }
        if as_root {
            check_traversable(&path)?;
        }
        Ok(Self {
            path,
            as_root,
            lock: Mutex::default(),
            postgres_start_lock: tokio::sync::Mutex::default(),
        })
    }

    /// Opens an existing folder without locking it. Errors: `Invalid` if there is none.
    pub fn open_unlocked(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: resolve_folder(path)?,
            as_root: nix::unistd::geteuid().is_root(),
            lock: Mutex::default(),
            postgres_start_lock: tokio::sync::Mutex::default(),
        })
    }

    /// Returns the path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True if this process is root, so that units and Postgres run as other users.
    pub fn runs_as_root(&self) -> bool {
        self.as_root
    }

    /// Whether this process has taken the folder (`open`) or only looks at it (`peek`).
    pub fn is_locked(&self) -> bool {
        self.hold_lock().is_some()
    }

    fn hold_lock(&self) -> MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lock. Errors: `Conflict` if another process has it.
    pub fn acquire_lock(&self) -> Result<(), Error> {
        *self.hold_lock() = Some(lock_folder(&self.path)?);
        Ok(())
    }

    /// Returns the open file of the lock, for the process that takes over; this process has the lock no more once the
    /// file is closed.
    pub fn release_lock_file(&self) -> Option<File> {
        self.hold_lock().take()
    }

    /// Takes the lock over with its open file. Errors: `Invalid` if it is not the file of this folder's lock.
    pub fn adopt_lock_file(&self, file: File) -> Result<(), Error> {
        let path = self.path.join("lock");
        let wrong = |error| path_error("be locked", &path, error);
        let (given, own) = (file.metadata().map_err(wrong)?, path.metadata().map_err(wrong)?);
        if (given.dev(), given.ino()) != (own.dev(), own.ino()) {
            return Err(Error::invalid(format!(
                "The running Tancho uses another data folder than {}.",
                self.path.display()
            )));
        }
        // It is locked already, and locking it again proves that.
        file.try_lock().map_err(|error| wrong(error.into()))?;
        write_owner(&file).map_err(wrong)?;
        *self.hold_lock() = Some(file);
        Ok(())
    }

    /// The socket at which the owner of the folder is asked to hand over.
    pub fn handover_socket_path(&self) -> PathBuf {
        self.path.join("handover.sock")
    }

    /// The lock for starting the managed Postgres: one start at a time in this process.
    pub fn postgres_start_lock(&self) -> &tokio::sync::Mutex<()> {
        &self.postgres_start_lock
    }

    /// The folder of the managed Postgres: `postgres`; further files have that name as a prefix. Created by
    /// `db::local`.
    pub fn postgres_dir(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// One folder per unit: its scratch home, logs and state.
    pub fn units_dir(&self) -> PathBuf {
        self.path.join("units")
    }

    /// The data of volumes, one folder each.
    pub fn volumes_dir(&self) -> PathBuf {
        self.path.join("volumes")
    }

    /// The results of builds, one folder per version.
    pub fn versions_dir(&self) -> PathBuf {
        self.path.join("versions")
    }

    /// Returns the folder of one app's versions, created if necessary; `app` is an id, never a user-supplied
    /// name.
    pub fn make_app_versions_dir(&self, app: uuid::Uuid) -> io::Result<PathBuf> {
        let folder = self.versions_dir().join(app.to_string());
        make_folder(&folder, if self.as_root { 0o711 } else { 0o700 })?;
        Ok(folder)
    }

    /// Uploaded source archives that wait for a build.
    pub fn uploads_dir(&self) -> PathBuf {
        self.path.join("uploads")
    }

    /// The git repositories of apps, their hook, and pushes in progress.
    pub fn repositories_dir(&self) -> PathBuf {
        self.path.join("repositories")
    }

    /// Returns the path of a repository, which may not exist; `id` is its own id, never a user-supplied name.
    pub fn repository_dir(&self, id: uuid::Uuid) -> PathBuf {
        self.repositories_dir().join(format!("{id}.git"))
    }

    /// Mails, while no mail server is configured.
    pub fn mail_dir(&self) -> PathBuf {
        self.path.join("mail")
    }

    /// Build caches; may be removed at any time.
    pub fn cache_dir(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The scripts of platforms; readable by every user.
    pub fn platforms_dir(&self) -> PathBuf {
        self.path.join("platforms")
    }

    /// The key file, unless the settings name another one.
    pub fn key_file_path(&self) -> PathBuf {
        self.path.join("seal.keys")
    }

    /// Returns the id of this host in units and versions: the host name and a random part that distinguishes
    /// data folders on one host. Created once and stored in the folder, so that a renamed host keeps its
    /// units.
    pub fn load_or_create_host_id(&self) -> Result<String, Error> {
        let path = self.path.join("host-id");
        let wrong = |error| path_error("be used", &path, error);
        match fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => return Ok(id.trim().to_owned()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(wrong(error)),
            _ => {}
        }
        let name = nix::unistd::gethostname().map_err(|e| wrong(e.into()))?;
        let id = format!(
            "{}-{:08x}",
            name.to_string_lossy(),
            uuid::Uuid::new_v4().as_fields().0
        );
        self.write_small_file("host-id", &id)?;
        Ok(id)
    }

    /// Records `this` replica as the owner, and returns the previous owner, which has exited because this
    /// process holds the lock. `None` at the first start, and if the file cannot be parsed.
    pub fn take_over(&self, this: ReplicaId) -> Result<Option<ReplicaId>, Error> {
        let last = fs::read_to_string(self.path.join("replica"));
        self.write_small_file("replica", &this.to_string())?;
        Ok(last.ok().and_then(|id| id.trim().parse().ok()))
    }

    fn write_small_file(&self, name: &str, text: &str) -> Result<(), Error> {
        let path = self.path.join(name);
        atomic_file::write_file(&path, text.as_bytes(), 0o644, None)
            .map_err(|error| path_error("be written", &path, error))
    }

    fn make_folders(&self) -> Result<(), Error> {
        let pass = if self.as_root { 0o711 } else { 0o700 };
        let read = if self.as_root { 0o755 } else { 0o700 };
        for (folder, mode) in [
            (self.units_dir(), pass),
            (self.volumes_dir(), pass),
            (self.versions_dir(), pass),
            (self.cache_dir(), pass),
            (self.platforms_dir(), read),
            (self.uploads_dir(), 0o700),
            (self.mail_dir(), 0o700),
            (self.repositories_dir(), pass),
        ] {
            make_folder(&folder, mode).map_err(|error| path_error("be created", &folder, error))?;
        }
        Ok(())
    }
}

/// Creates a folder, or sets the mode of an existing one, regardless of the umask.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Creates parents as `mkdir -p` does; only the last folder gets the given mode.
fn make_with_parents(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    make_folder(path, mode)
}

fn path_error(what: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; choose another with --data-dir",
        _ => "",
    };
    Error::invalid(format!("{} cannot {what}: {error}{hint}.", path.display()))
}

fn resolve_folder(path: &Path) -> Result<PathBuf, Error> {
    let real = path
        .canonicalize()
        .map_err(|error| path_error("be used as the data folder", path, error))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Error::invalid(format!(
            "{} is not a folder; choose another with --data-dir.",
            path.display()
        ))),
    }
}

/// Writes the pid of the owner, for messages, over that of the one before, so that who reads sees one of them.
fn write_owner(mut file: &File) -> io::Result<()> {
    // A pid has up to ten digits.
    let text = format!("{:<10}\n", std::process::id());
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))
}

fn lock_folder(folder: &Path) -> Result<File, Error> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| path_error("be opened", &path, error))?;
    match file.try_lock() {
        Ok(()) => {
            write_owner(&file).map_err(|error| path_error("be written", &path, error))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the error message; the owner may be about to write it.
            let _ = file.take(20).read_to_string(&mut pid);
            let who = match pid.trim() {
                "" => "Another Tancho".to_owned(),
                pid => format!("Another Tancho (pid {pid})"),
            };
            Err(Error::conflict(format!(
                "{who} is using the data folder {}; replace it with `tancho upgrade`, stop it first, or choose another folder with \
                 --data-dir.",
                folder.display()
            )))
        }
        Err(TryLockError::Error(error)) => Err(path_error("be locked", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that other users can traverse; the guard deletes it.
    pub(super) struct DataDirFixture(pub(super) PathBuf);

    impl DataDirFixture {
        pub(super) fn new() -> Self {
            let path = std::env::temp_dir().join(format!("tancho-datadir-{}", uuid::Uuid::new_v4()));
            make_folder(&path, 0o755).unwrap();
            Self(path)
        }
    }

    impl Drop for DataDirFixture {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    pub(super) fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn data_folder_and_subfolders_have_their_modes() {
        let temp = DataDirFixture::new();
        let dir = DataDir::open(&temp.0.join("a/b")).unwrap();
        let pass = if dir.runs_as_root() { 0o711 } else { 0o700 };
        for (path, expected) in [
            (dir.path().to_owned(), pass),
            (dir.units_dir(), pass),
            (dir.uploads_dir(), 0o700),
            (dir.path().join("lock"), 0o600),
        ] {
            assert_eq!(mode(&path), expected, "{path:?}");
        }
    }

    #[test]
    fn second_process_is_rejected_with_the_pid_of_the_first() {
        let temp = DataDirFixture::new();
        let first = DataDir::open(&temp.0).unwrap();
        let words = DataDir::open(&temp.0).unwrap_err().to_string();
        assert!(words.contains(&format!("pid {}", std::process::id())), "{words}");
        assert_eq!(DataDir::open_unlocked(&temp.0).unwrap().path(), first.path());
        drop(first);
        assert!(DataDir::open(&temp.0).is_ok());
    }

    #[test]
    fn lock_passes_to_another_owner_without_a_moment_in_between() {
        let temp = DataDirFixture::new();
        let first = DataDir::open(&temp.0).unwrap();
        let second = DataDir::open_shared(&temp.0).unwrap();
        assert!(second.acquire_lock().is_err());
        let file = first.release_lock_file().unwrap();
        assert!(DataDir::open(&temp.0).is_err(), "the file is still open");
        let foreign = File::create(temp.0.join("other")).unwrap();
        assert!(second.adopt_lock_file(foreign).is_err());
        second.adopt_lock_file(file).unwrap();
        assert!(second.is_locked() && !first.is_locked());
        drop(first);
        assert!(DataDir::open(&temp.0).is_err(), "the second has it");
        drop(second);
        assert!(DataDir::open(&temp.0).is_ok());
    }

    #[test]
    fn unsuitable_folder_is_refused_with_a_hint() {
        let temp = DataDirFixture::new();
        let open = temp.0.join("open");
        make_folder(&open, 0o777).unwrap();
        let words = DataDir::open(&open).unwrap_err().to_string();
        assert!(words.contains("chmod 7"), "{words}");
        let file = temp.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(
            DataDir::open(&file)
                .unwrap_err()
                .message()
                .contains("is not a folder")
        );
        assert!(DataDir::open_unlocked(&temp.0.join("none")).is_err());
        if nix::unistd::geteuid().is_root() {
            let closed = temp.0.join("closed");
            make_folder(&closed, 0o700).unwrap();
            let words = DataDir::open(&closed.join("data")).unwrap_err().to_string();
            assert!(words.contains("/var/lib/tancho"), "{words}");
            assert!(
                !closed.join("data").exists(),
                "nothing is created in an unsuitable folder"
            );
        }
    }
}
