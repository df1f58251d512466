//! The folders and files of Postgres: data, settings, socket.
//!
//! After creating it, root writes nothing into the folder of Postgres' account: the settings are in Tancho's
//! own folder beside it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use super::SOCKET_NAME;
use super::account::OsAccount;
use super::programs::PostgresPrograms;
use crate::datadir::{DataDir, atomic_file};
use crate::kernel::error::Error;

/// The maximum length of a socket path: `sun_path` without its terminator.
const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// The prefix of folders that `initdb` works in; renamed when complete.
const TEMP_PREFIX: &str = "postgres.new-";

/// The file in Postgres' folder; all other settings are in `<data>/postgres.conf`.
const INCLUDE_CONF: &str = "# Tancho writes ../postgres.conf at each start. Add your own settings below; they win.\n\
                       include '../postgres.conf'\n";

pub(super) fn folder_error(what: &str, path: &Path, error: io::Error) -> Error {
    Error::unavailable(format!("{} cannot {what}: {error}.", path.display()))
}

/// Returns the major version that created the folder; `None` if there is no folder. Errors: if it is
/// something else.
pub(super) fn read_version(folder: &Path) -> Result<Option<u32>, Error> {
    match fs::read_to_string(folder.join("PG_VERSION")) {
        Ok(text) => text.trim().parse().map(Some).map_err(|_| {
            Error::invalid(format!(
                "{} was created by an unknown version of Postgres.",
                folder.display()
            ))
        }),
        Err(_) if folder.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(Error::invalid(format!(
            "{0} exists, but is not a Postgres data folder ({error}); move it away, and Tancho creates one.",
            folder.display()
        ))),
    }
}

/// Creates the folder unless it exists. It is created under another name and renamed, so that an interrupted
/// `initdb` leaves nothing that looks complete.
pub(super) async fn ensure_folder(
    dir: &DataDir,
    programs: &PostgresPrograms,
    account: Option<OsAccount>,
) -> Result<(), Error> {
    let folder = dir.postgres_dir();
    if read_version(&folder)?.is_none() {
        tracing::info!(folder = %folder.display(), version = programs.major_version(), "creating a Postgres data folder");
        let aside = dir
            .path()
            .join(format!("{TEMP_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        let made = match make_private_folder(&aside, account) {
            Ok(()) => programs.run_initdb(&aside, account).await,
            Err(error) => Err(folder_error("be created", &aside, error)),
        };
        made?;
        let owner = account.map(|account| (account.uid, account.gid));
        atomic_file::write_file(
            &aside.join("postgresql.conf"),
            INCLUDE_CONF.as_bytes(),
            0o600,
            owner,
        )
        .and_then(|()| fs::rename(&aside, &folder))
        .and_then(|()| File::open(dir.path())?.sync_all())
        .or_else(|error| {
            if folder.join("PG_VERSION").exists() {
                Ok(())
            } else {
                Err(error)
            }
        })
        .map_err(|error| folder_error("be made", &folder, error))?;
    }
    remove_leftovers(dir.path());
    Ok(())
}

/// What interrupted attempts left: folders, and the files of earlier versions that wrote settings and the password under
/// such names. One that still runs loses its folder and ends by itself.
fn remove_leftovers(data: &Path) {
    for entry in fs::read_dir(data).into_iter().flatten().flatten() {
        if !entry.file_name().as_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::debug!(path = %path.display(), %error, "left for the next start");
        }
    }
}

/// Creates a folder that only the account can access.
fn make_private_folder(path: &Path, account: Option<OsAccount>) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    match account {
        Some(account) => lchown(path, Some(account.uid), Some(account.gid)),
        None => Ok(()),
    }
}

/// The folder of the socket, made if need be: `<data>/postgres-run`, or, where that is too long for a socket, a
/// private one in /tmp to which `postgres-run` is a link.
pub(super) fn prepare_socket_folder(dir: &DataDir, account: Option<OsAccount>) -> Result<PathBuf, Error> {
    let near = socket_folder_path(dir.path());
    let made = if fits_socket_path(&near) {
        if near.is_symlink() {
            fs::remove_file(&near).map_err(|error| folder_error("be removed", &near, error))?;
        }
        match is_private_folder(&near, account) {
            true => Ok(()),
            false => remove_folder(&near).and_then(|()| make_private_folder(&near, account)),
        }
        .map(|()| near.clone())
    } else {
        match fs::read_link(&near)
            .ok()
            .filter(|far| is_private_folder(far, account))
        {
            Some(far) => Ok(far),
            None => make_tmp_socket_folder(&near, account),
        }
    };
    made.map_err(|error| folder_error("be used as the folder of Postgres' socket", &near, error))
}

/// Returns the folder of the socket as `prepare_socket_folder` left it. Errors: `Unavailable` if there is
/// none.
pub(super) fn find_socket_folder(dir: &DataDir) -> Result<PathBuf, Error> {
    let near = socket_folder_path(dir.path());
    let real = near.canonicalize();
    real.map_err(|error| folder_error("be used to reach Postgres", &near, error))
}

/// Removes the folder in /tmp after the server has stopped; the next start creates another.
pub(super) fn remove_tmp_socket_folder(folder: &Path) {
    let near = folder.parent().map(socket_folder_path).unwrap_or_default();
    if let Ok(far) = fs::read_link(&near) {
        // Only if it is empty: other contents are not Tancho's.
        let _ = fs::remove_dir(far);
        let _ = fs::remove_file(near);
    }
}

fn socket_folder_path(data: &Path) -> PathBuf {
    data.join("postgres-run")
}

fn fits_socket_path(folder: &Path) -> bool {
    folder.join(SOCKET_NAME).as_os_str().len() <= MAX_SOCKET_PATH
}

fn is_private_folder(path: &Path, account: Option<OsAccount>) -> bool {
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

/// The name is unpredictable and `mkdir` fails if it exists, so another user cannot put a folder there first.
fn make_tmp_socket_folder(near: &Path, account: Option<OsAccount>) -> io::Result<PathBuf> {
    let far = Path::new("/tmp").join(format!("tancho-{}", uuid::Uuid::new_v4().simple()));
    make_private_folder(&far, account)?;
    match fs::remove_file(near) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => remove_folder(near)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&far, near)?;
    Ok(far)
}

/// Writes `<data>/postgres.conf` and `<data>/postgres.hba`; the next server start reads them.
pub(super) fn write_settings(dir: &DataDir, socket: &Path) -> Result<(), Error> {
    let path = dir.path().join("postgres.conf");
    let rules = dir.path().join("postgres.hba");
    let text = |path: &Path| match path.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(Error::invalid(format!(
            "Postgres cannot run in {}, because of a character in the path; choose another folder with --data-dir.",
            dir.path().display()
        ))),
    };
    let settings = format!(
        "{}unix_socket_directories = {}\nhba_file = {}\n",
        include_str!("postgres.conf"),
        quote_list_element(&text(socket)?),
        quote_setting(&text(&rules)?),
    );
    let write = |path: &Path, text: &str| {
        atomic_file::write_file(path, text.as_bytes(), 0o644, None)
            .map_err(|error| folder_error("be written", path, error))
    };
    write(&rules, include_str!("postgres.hba"))?;
    write(&path, &settings)
}

/// Quotes an element of a list of folders in a settings file: once for the list, once for the file.
fn quote_list_element(folder: &str) -> String {
    quote_setting(&format!("\"{}\"", folder.replace('"', "\"\"")))
}

/// Quotes a string in a settings file.
fn quote_setting(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_quoted_for_the_list_and_for_the_file() {
        assert_eq!(quote_list_element("/a b,c"), "'\"/a b,c\"'");
        assert_eq!(quote_list_element("/it's \"so\""), "'\"/it''s \"\"so\"\"\"'");
    }

    #[test]
    fn leftovers_of_interrupted_starts_are_removed_and_nothing_else() {
        let data = std::env::temp_dir().join(format!("tancho-leftovers-{}", uuid::Uuid::new_v4()));
        for folder in ["postgres.new-1", "postgres", "postgres-run"] {
            fs::create_dir_all(data.join(folder)).unwrap();
        }
        for file in [
            "postgres.new-1/PG_VERSION",
            "postgres.new-2",
            "postgres.conf",
            "postgres.pgpass",
        ] {
            fs::write(data.join(file), "x").unwrap();
        }
        symlink(data.join("postgres"), data.join("postgres.new-3")).unwrap();
        remove_leftovers(&data);
        let entries = fs::read_dir(&data).unwrap();
        let mut left: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(
            left,
            ["postgres", "postgres-run", "postgres.conf", "postgres.pgpass"]
        );
        fs::remove_dir_all(&data).unwrap();
    }

    #[test]
    fn the_longest_path_of_a_socket_still_fits() {
        let folder = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        let longest = MAX_SOCKET_PATH - SOCKET_NAME.len() - 1;
        assert!(fits_socket_path(&folder(longest)));
        assert!(!fits_socket_path(&folder(longest + 1)));
    }
}
