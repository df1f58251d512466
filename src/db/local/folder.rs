//! The server's folders and files: the data, the settings, the socket.
//!
//! Root writes nothing into the folder of the server's account after it has been made: the settings stand beside
//! it, in Tancho's own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, lchown, symlink,
};
use std::path::{Path, PathBuf};

use super::SOCKET;
use super::account::Account;
use super::programs::{Programs, last_line};
use crate::datadir::DataDir;
use crate::kernel::problem::Problem;

/// Longest path of a socket: `sun_path` without its end.
const LONGEST_SOCKET: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Folders that `initdb` works in; renamed when whole.
const ASIDE: &str = "postgres.new-";
const START_LOG: &str = "start.log";

/// Stands in the server's folder; everything else is in `<data>/postgres.conf`.
const POINTER: &str = "# Tancho writes ../postgres.conf at each start. Settings of your own: `alter system set …`.\n\
                       include '../postgres.conf'\n";

fn cannot(what: &str, path: &Path, error: io::Error) -> Problem {
    Problem::unavailable(format!("{} cannot {what}: {error}.", path.display()))
}

/// The version that made the folder; `None` when there is none yet. Errors: when something else is there.
pub(super) fn version(folder: &Path) -> Result<Option<u32>, Problem> {
    match fs::read_to_string(folder.join("PG_VERSION")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            Problem::invalid(format!(
                "{} is of an unknown version of Postgres.",
                folder.display()
            ))
        }),
        Err(_) if folder.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(Problem::invalid(format!(
            "{0} is there, but is no folder of a Postgres ({error}); move it away, and Tancho makes a new one.",
            folder.display()
        ))),
    }
}

/// Makes the folder unless it is there, aside and renamed, so that an interrupted `initdb` leaves nothing that
/// looks whole.
pub(super) async fn ensure(
    dir: &DataDir,
    programs: &Programs,
    account: Option<Account>,
) -> Result<(), Problem> {
    let folder = dir.postgres();
    if version(&folder)?.is_none() {
        tracing::info!(folder = %folder.display(), version = programs.major(), "making a Postgres");
        let aside = dir
            .path()
            .join(format!("{ASIDE}{}", uuid::Uuid::new_v4().simple()));
        let made = match make_private(&aside, account) {
            Ok(()) => programs.init(&aside, account).await,
            Err(error) => Err(cannot("be made", &aside, error)),
        };
        made?;
        write_new(&aside.join("postgresql.conf"), POINTER, 0o600, account)
            .and_then(|()| fs::rename(&aside, &folder))
            .and_then(|()| File::open(dir.path())?.sync_all())
            .or_else(|error| {
                if folder.join("PG_VERSION").exists() {
                    Ok(())
                } else {
                    Err(error)
                }
            })
            .map_err(|error| cannot("be made", &folder, error))?;
    }
    remove_remains(dir.path());
    Ok(())
}

/// What interrupted attempts left. One that still runs loses its folder and ends by itself.
fn remove_remains(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.file_name().as_bytes().starts_with(ASIDE.as_bytes())
            && let Err(error) = fs::remove_dir_all(entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "left for the next start");
        }
    }
}

/// A new folder for the account alone.
fn make_private(path: &Path, account: Option<Account>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    match account {
        Some(account) => lchown(path, Some(account.uid), Some(account.gid)),
        None => Ok(()),
    }
}

/// Writes a file aside and renames it; follows no link that stands there.
fn write_new(path: &Path, text: &str, mode: u32, account: Option<Account>) -> io::Result<()> {
    let aside = path.with_extension(format!("new-{}", uuid::Uuid::new_v4().simple()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    if let Some(account) = account {
        fchown(&file, Some(account.uid), Some(account.gid))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

/// The folder of the socket, made if need be: `<data>/postgres-run`, or, where that is too long for a socket, a
/// private one in /tmp to which `postgres-run` is a link.
pub(super) fn socket(dir: &DataDir, account: Option<Account>) -> Result<PathBuf, Problem> {
    let near = near_socket(dir.path());
    let made = if fits(&near) {
        if near.is_symlink() {
            fs::remove_file(&near).map_err(|error| cannot("be removed", &near, error))?;
        }
        match is_private(&near, account) {
            true => Ok(()),
            false => remove_folder(&near).and_then(|()| make_private(&near, account)),
        }
        .map(|()| near.clone())
    } else {
        match fs::read_link(&near).ok().filter(|far| is_private(far, account)) {
            Some(far) => Ok(far),
            None => make_far(&near, account),
        }
    };
    made.map_err(|error| cannot("be made the folder of Postgres' socket", &near, error))
}

/// The folder of the socket as an earlier `socket` left it. Errors: `Unavailable` when there is none.
pub(super) fn known_socket(dir: &DataDir) -> Result<PathBuf, Problem> {
    let near = near_socket(dir.path());
    let real = near.canonicalize();
    real.map_err(|error| cannot("be used to reach Postgres", &near, error))
}

/// Removes the folder in /tmp once the server has gone; the next start makes another.
pub(super) fn forget_far_socket(folder: &Path) {
    let near = folder.parent().map(near_socket).unwrap_or_default();
    if let Ok(far) = fs::read_link(&near) {
        // Not with its contents: what is not empty is not ours alone.
        let _ = fs::remove_dir(far);
        let _ = fs::remove_file(near);
    }
}

fn near_socket(data: &Path) -> PathBuf {
    data.join("postgres-run")
}

fn fits(folder: &Path) -> bool {
    folder.join(SOCKET).as_os_str().len() <= LONGEST_SOCKET
}

fn is_private(path: &Path, account: Option<Account>) -> bool {
    let uid = account.map_or_else(|| nix::unistd::geteuid().as_raw(), |account| account.uid);
    path.symlink_metadata()
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == uid && meta.mode() & 0o777 == 0o700)
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A name that nobody can foresee, and a `mkdir` that fails if it is there: nobody can put theirs in its place.
fn make_far(near: &Path, account: Option<Account>) -> io::Result<PathBuf> {
    let far = Path::new("/tmp").join(format!("tancho-{}", uuid::Uuid::new_v4().simple()));
    make_private(&far, account)?;
    match fs::remove_file(near) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => remove_folder(near)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&far, near)?;
    Ok(far)
}

/// Writes `<data>/postgres.conf`; read by the next server to start.
pub(super) fn write_settings(dir: &DataDir, socket: &Path) -> Result<(), Problem> {
    let path = dir.path().join("postgres.conf");
    let quoted = socket
        .to_str()
        .filter(|text| !text.contains(char::is_control))
        .map(quote);
    let Some(quoted) = quoted else {
        return Err(Problem::invalid(format!(
            "Postgres cannot work in {}, because of a character in that name; choose another with --data-dir.",
            dir.path().display()
        )));
    };
    let text = format!(
        "{}unix_socket_directories = {quoted}\n",
        include_str!("postgres.conf")
    );
    write_new(&path, &text, 0o644, None).map_err(|error| cannot("be written", &path, error))
}

/// An element of a list of folders in a settings file: quoted once for the list, once for the file.
fn quote(folder: &str) -> String {
    let element = format!("\"{}\"", folder.replace('"', "\"\""));
    format!("'{}'", element.replace('\\', "\\\\").replace('\'', "''"))
}

/// Why the server does not start, from the file that it wrote to last: the log of its start, or its own log,
/// which takes over early.
pub(super) fn last_words(folder: &Path) -> String {
    let logs = fs::read_dir(folder.join("log")).into_iter().flatten().flatten();
    let files = logs.map(|entry| entry.path()).chain([folder.join(START_LOG)]);
    let newest = files.max_by_key(|path| path.metadata().and_then(|meta| meta.modified()).ok());
    let said = newest.and_then(|path| read_end(&path).ok()).unwrap_or_default();
    let text = String::from_utf8_lossy(&said);
    let fatal = text
        .lines()
        .rfind(|line| line.contains("FATAL: ") || line.contains("PANIC: "));
    last_line(fatal.unwrap_or(&text).as_bytes())
}

fn read_end(path: &Path) -> io::Result<Vec<u8>> {
    const END: u64 = 16 * 1024;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(END)))?;
    let mut said = Vec::new();
    file.take(END).read_to_end(&mut said)?;
    Ok(said)
}

/// Each start has a log of its own, so it does not grow.
pub(super) fn remove_start_log(folder: &Path) {
    let _ = fs::remove_file(folder.join(START_LOG));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_quoted_for_the_list_and_for_the_file() {
        assert_eq!(quote("/a b,c"), "'\"/a b,c\"'");
        assert_eq!(quote("/it's \"so\""), "'\"/it''s \"\"so\"\"\"'");
    }

    #[test]
    fn the_longest_path_of_a_socket_still_fits() {
        let folder = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        let longest = LONGEST_SOCKET - SOCKET.len() - 1;
        assert!(fits(&folder(longest)));
        assert!(!fits(&folder(longest + 1)));
    }
}
