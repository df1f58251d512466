//! The data folder: everything that one Tancho keeps on disk.
//!
//! One process at a time owns it, by a lock that ends with the process, however that ends. A process that
//! only reads from it (`tancho router`) looks at it without the lock.
//!
//! Started by root, units and the managed Postgres run as other users, who must be able to pass through:
//! the folder lets everybody pass (0711) and nobody list, and each folder below says who may go on.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::config::SecretsSettings;
use crate::kernel::ids::ReplicaId;
use crate::kernel::problem::Problem;
use crate::kernel::seal::Keyring;
use crate::kernel::secret::Secret;

/// Keys are a few lines.
const LARGEST_KEY_FILE: u64 = 64 * 1024;

/// An open data folder. Its paths are absolute and free of links.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    as_root: bool,
    lock: Option<Flock<File>>,
    starting: tokio::sync::Mutex<()>,
}

impl DataDir {
    /// Makes the folder and what belongs into it, and takes it for this process until the value is dropped.
    /// Errors: `Conflict` when another Tancho has it (naming its pid), `Invalid` when the place does not do.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let as_root = nix::unistd::geteuid().is_root();
        let pass = if as_root { 0o711 } else { 0o700 };
        let is_new = !path.exists();
        if is_new {
            if as_root {
                check_passage(&future(path)?)?;
            }
            make_with_parents(path, pass).map_err(|error| cannot("be made", path, error))?;
        }
        let path = real_folder(path)?;
        if !is_new {
            check_mode(&path, as_root)?;
        }
        if as_root {
            check_passage(&path)?;
        }
        let lock = lock(&path)?;
        let dir = Self {
            path,
            as_root,
            lock: Some(lock),
            starting: tokio::sync::Mutex::default(),
        };
        dir.make_folders()?;
        Ok(dir)
    }

    /// Looks at an existing folder without taking it. Errors: `Invalid` when there is none.
    pub fn peek(path: &Path) -> Result<Self, Problem> {
        Ok(Self {
            path: real_folder(path)?,
            as_root: nix::unistd::geteuid().is_root(),
            lock: None,
            starting: tokio::sync::Mutex::default(),
        })
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this process is root, so that others' processes get users of their own.
    pub fn is_root(&self) -> bool {
        self.as_root
    }

    /// Whether this process has taken the folder (`open`) or only looks at it (`peek`).
    pub fn is_held(&self) -> bool {
        self.lock.is_some()
    }

    /// Held by who starts the managed Postgres: one at a time in this process.
    pub fn starting(&self) -> &tokio::sync::Mutex<()> {
        &self.starting
    }

    /// The managed Postgres: `postgres` and what stands beside it with that name in front. Made by
    /// `db::local`.
    pub fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }

    /// A folder a unit: its scratch home, logs and state.
    pub fn units(&self) -> PathBuf {
        self.path.join("units")
    }

    /// What builds made, a folder a version.
    pub fn versions(&self) -> PathBuf {
        self.path.join("versions")
    }

    /// The folder of one app's versions, made if need be; `app` is an id, never a name from outside.
    pub fn app_versions(&self, app: uuid::Uuid) -> io::Result<PathBuf> {
        let folder = self.versions().join(app.to_string());
        make_folder(&folder, if self.as_root { 0o711 } else { 0o700 })?;
        Ok(folder)
    }

    /// Archives of source on their way to a build.
    pub fn uploads(&self) -> PathBuf {
        self.path.join("uploads")
    }

    /// The git repositories of apps, their hook, and pushes under way.
    pub fn repositories(&self) -> PathBuf {
        self.path.join("repositories")
    }

    /// One repository, made or not; `id` is its own, never a name from outside.
    pub fn repository(&self, id: uuid::Uuid) -> PathBuf {
        self.repositories().join(format!("{id}.git"))
    }

    /// Mails, as long as there is no server to send them.
    pub fn mail(&self) -> PathBuf {
        self.path.join("mail")
    }

    /// What builds may keep from one another; may be removed at any time.
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// The scripts of platforms; everybody may read them.
    pub fn platforms(&self) -> PathBuf {
        self.path.join("platforms")
    }

    /// The keys that seal, unless the settings name another file.
    pub fn seal_keys(&self) -> PathBuf {
        self.path.join("seal.keys")
    }

    /// This machine's name for units and versions: the host's name and what tells this folder from others
    /// on the same host. Made once, kept in the folder, so that a host that is renamed keeps its units.
    pub fn host_id(&self) -> Result<String, Problem> {
        let path = self.path.join("host-id");
        let wrong = |error| cannot("be used", &path, error);
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
        self.keep("host-id", &id)?;
        Ok(id)
    }

    /// The last replica that worked on this folder, which is dead, for we hold the lock; from now on it is
    /// `this` one. `None` at the first start, and when a file that nobody can read tells it.
    pub fn succeed(&self, this: ReplicaId) -> Result<Option<ReplicaId>, Problem> {
        let last = fs::read_to_string(self.path.join("replica"));
        self.keep("replica", &this.to_string())?;
        Ok(last.ok().and_then(|id| id.trim().parse().ok()))
    }

    /// Writes a small file, whole or not at all.
    fn keep(&self, name: &str, text: &str) -> Result<(), Problem> {
        let (path, fresh) = (self.path.join(name), self.path.join(format!(".{name}")));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(|error| cannot("be written", &path, error))
    }

    fn make_folders(&self) -> Result<(), Problem> {
        let pass = if self.as_root { 0o711 } else { 0o700 };
        let read = if self.as_root { 0o755 } else { 0o700 };
        for (folder, mode) in [
            (self.units(), pass),
            (self.versions(), pass),
            (self.cache(), pass),
            (self.platforms(), read),
            (self.uploads(), 0o700),
            (self.mail(), 0o700),
            (self.repositories(), 0o700),
        ] {
            make_folder(&folder, mode).map_err(|error| cannot("be made", &folder, error))?;
        }
        Ok(())
    }
}

/// Makes a folder, or gives an existing one its mode, whatever the umask.
fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Folders above are made as `mkdir -p` makes them; only the last one gets our mode.
fn make_with_parents(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    make_folder(path, mode)
}

fn cannot(what: &str, path: &Path, error: io::Error) -> Problem {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; choose another with --data-dir",
        _ => "",
    };
    Problem::invalid(format!("{} cannot {what}: {error}{hint}.", path.display()))
}

fn real_folder(path: &Path) -> Result<PathBuf, Problem> {
    let real = path
        .canonicalize()
        .map_err(|error| cannot("be used as the data folder", path, error))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Problem::invalid(format!(
            "{} is not a folder; choose another with --data-dir.",
            path.display()
        ))),
    }
}

/// A folder that was there already keeps its mode: it may be more than ours. It must do, though.
fn check_mode(path: &Path, as_root: bool) -> Result<(), Problem> {
    let meta = path.metadata().map_err(|error| cannot("be read", path, error))?;
    let (me, owner) = (nix::unistd::geteuid().as_raw(), meta.uid());
    let (shown, mode) = (path.display(), meta.mode() & 0o777);
    if owner != me {
        return Err(Problem::invalid(format!(
            "The data folder {shown} belongs to another user (number {owner}); choose another with --data-dir, or \
             run `chown {me} {shown}`."
        )));
    }
    let needed = if as_root { 0o711 } else { 0o700 };
    if mode & 0o022 != 0 || mode & needed != needed {
        return Err(Problem::invalid(format!(
            "The data folder {shown} has mode {mode:03o}, which does not do; run `chmod {needed:o} {shown}`."
        )));
    }
    Ok(())
}

/// Where a folder that is not there yet will be, free of links.
fn future(path: &Path) -> Result<PathBuf, Problem> {
    let path =
        std::path::absolute(path).map_err(|error| cannot("be used as the data folder", path, error))?;
    let there = path
        .ancestors()
        .find(|above| above.exists())
        .unwrap_or(Path::new("/"));
    let real = there
        .canonicalize()
        .map_err(|error| cannot("be read", there, error))?;
    // Only the folders above it matter, and those between do not exist yet.
    Ok(real.join("new"))
}

/// As root, units run as other users: every folder above must let them pass.
fn check_passage(path: &Path) -> Result<(), Problem> {
    for above in path.ancestors().skip(1) {
        let meta = above
            .metadata()
            .map_err(|error| cannot("be read", above, error))?;
        if meta.mode() & 0o001 == 0 {
            return Err(Problem::invalid(format!(
                "Started by root, Tancho runs Postgres and apps as other users, and those cannot pass through {} \
                 to the data folder; choose another with --data-dir, such as /var/lib/tancho.",
                above.display()
            )));
        }
    }
    Ok(())
}

fn lock(folder: &Path) -> Result<Flock<File>, Problem> {
    let path = folder.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| cannot("be opened", &path, error))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            let pid = std::process::id();
            held.set_len(0)
                .and_then(|()| writeln!(held, "{pid}"))
                .map_err(|error| cannot("be written", &path, error))?;
            Ok(held)
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Only for the sentence; the holder may be about to write it.
            let _ = file.take(20).read_to_string(&mut pid);
            let who = match pid.trim() {
                "" => "Another Tancho".to_owned(),
                pid => format!("Another Tancho (pid {pid})"),
            };
            Err(Problem::conflict(format!(
                "{who} is using the data folder {}; stop it first, or choose another folder with --data-dir.",
                folder.display()
            )))
        }
        Err((_, error)) => Err(cannot("be locked", &path, error.into())),
    }
}

/// The keys that seal: from the settings, from the file they name, or from `seal.keys`, which is made when
/// it is missing. Errors: `Invalid` when keys cannot be read or others can read them.
pub fn load_or_create_keys(settings: &SecretsSettings, dir: &DataDir) -> Result<Keyring, Problem> {
    if !settings.keys.is_empty() {
        return Keyring::parse(Secret::new(settings.keys.expose().replace(',', "\n")).expose());
    }
    if settings.key_file.as_os_str().is_empty() {
        let path = dir.seal_keys();
        if !path.exists() {
            create_keys(&path).map_err(|error| cannot("be made", &path, error))?;
        }
        return read_keys(&path);
    }
    if !settings.key_file.exists() {
        // Making one here would hide a mistyped path until the sealed values do not open.
        return Err(Problem::invalid(format!(
            "The key file {} does not exist; put one line of the form 1:<64 hexadecimal digits> into it, for \
             example with `echo \"1:$(openssl rand -hex 32)\"`, and give it mode 600.",
            settings.key_file.display()
        )));
    }
    read_keys(&settings.key_file)
}

/// Written aside and linked into place, so that a crash leaves no half a file, and the first of two wins.
fn create_keys(path: &Path) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    let written = file
        .write_all(Keyring::generate().expose().as_bytes())
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

/// Reads a file of keys. Errors: `Invalid`, also when others can read it.
pub fn read_keys(path: &Path) -> Result<Keyring, Problem> {
    let unreadable = |error| cannot("be read", path, error);
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    if mode & 0o077 != 0 {
        return Err(Problem::invalid(format!(
            "The key file {} can be read by others (mode {:03o}); run `chmod 600 {}`.",
            path.display(),
            mode & 0o777,
            path.display()
        )));
    }
    let mut text = String::new();
    let read = file.take(LARGEST_KEY_FILE).read_to_string(&mut text);
    let text = Secret::new(text);
    read.map_err(unreadable)?;
    Keyring::parse(text.expose())
        .map_err(|problem| Problem::invalid(format!("{}: {}", path.display(), problem.words())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::kernel::seal::{Column, Place};

    /// A folder that others can pass through, gone with the guard.
    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!("tancho-datadir-{}", uuid::Uuid::new_v4()));
            make_folder(&path, 0o755).unwrap();
            Self(path)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().mode() & 0o777
    }

    #[test]
    fn the_folder_and_what_is_in_it_have_their_modes() {
        let temp = Temp::new();
        let dir = DataDir::open(&temp.0.join("a/b")).unwrap();
        let pass = if dir.is_root() { 0o711 } else { 0o700 };
        for (path, expected) in [
            (dir.path().to_owned(), pass),
            (dir.units(), pass),
            (dir.uploads(), 0o700),
            (dir.path().join("lock"), 0o600),
        ] {
            assert_eq!(mode(&path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_second_process_is_refused_with_the_pid_of_the_first() {
        let temp = Temp::new();
        let first = DataDir::open(&temp.0).unwrap();
        let words = DataDir::open(&temp.0).unwrap_err().to_string();
        assert!(words.contains(&format!("pid {}", std::process::id())), "{words}");
        assert_eq!(DataDir::peek(&temp.0).unwrap().path(), first.path());
        drop(first);
        assert!(DataDir::open(&temp.0).is_ok());
    }

    #[test]
    fn a_place_that_does_not_do_is_refused_with_what_to_do() {
        let temp = Temp::new();
        let open = temp.0.join("open");
        make_folder(&open, 0o777).unwrap();
        let words = DataDir::open(&open).unwrap_err().to_string();
        assert!(words.contains("chmod 7"), "{words}");
        let file = temp.0.join("file");
        fs::write(&file, "").unwrap();
        assert!(
            DataDir::open(&file)
                .unwrap_err()
                .words()
                .contains("is not a folder")
        );
        assert!(DataDir::peek(&temp.0.join("none")).is_err());
        if nix::unistd::geteuid().is_root() {
            let closed = temp.0.join("closed");
            make_folder(&closed, 0o700).unwrap();
            let words = DataDir::open(&closed.join("data")).unwrap_err().to_string();
            assert!(words.contains("/var/lib/tancho"), "{words}");
            assert!(
                !closed.join("data").exists(),
                "nothing is made where it does not do"
            );
        }
    }

    #[test]
    fn keys_are_made_once_and_read_again() {
        let temp = Temp::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let settings = Settings::defaults().secrets;
        let place = Place::new(Column::BEARER, &[&1]);
        let sealed = load_or_create_keys(&settings, &dir)
            .unwrap()
            .seal(&place, &Secret::new("x"));
        assert_eq!(mode(&dir.seal_keys()), 0o600);
        let again = load_or_create_keys(&settings, &dir).unwrap();
        assert_eq!(again.open(&place, &sealed).unwrap().expose(), "x");
        let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        assert_eq!(names.filter(|n| n.to_string_lossy().contains("new")).count(), 0);
    }

    #[test]
    fn keys_that_others_can_read_are_refused() {
        let temp = Temp::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let settings = Settings::defaults().secrets;
        load_or_create_keys(&settings, &dir).unwrap();
        fs::set_permissions(dir.seal_keys(), fs::Permissions::from_mode(0o644)).unwrap();
        let words = load_or_create_keys(&settings, &dir).unwrap_err().to_string();
        assert!(words.contains("chmod 600"), "{words}");
    }

    #[test]
    fn keys_come_from_the_settings_first_and_a_named_file_must_exist() {
        let temp = Temp::new();
        let dir = DataDir::open(&temp.0).unwrap();
        let mut settings = Settings::defaults().secrets;
        settings.key_file = temp.0.join("no.keys");
        let words = load_or_create_keys(&settings, &dir).unwrap_err().to_string();
        assert!(words.contains("no.keys"), "{words}");
        settings.keys = Secret::new(format!("1:{},2:{}", "11".repeat(32), "22".repeat(32)));
        let ring = load_or_create_keys(&settings, &dir).unwrap();
        assert_eq!(format!("{ring:?}"), "Keyring(2 keys, current 2)");
        assert!(!dir.seal_keys().exists());
    }
}
