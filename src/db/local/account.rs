//! The operating system account that runs Postgres.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::User;

use crate::kernel::error::Error;

/// A user and a group, by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OsAccount {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl OsAccount {
    /// Chooses the account for a folder. `None`: the current user. If Tancho runs as root: the owner of an
    /// existing folder, else `postgres`, else `nobody`; Postgres refuses to run as root.
    pub(super) fn for_folder(folder: &Path, as_root: bool) -> Result<Option<Self>, Error> {
        if !as_root {
            return Ok(None);
        }
        if let Ok(meta) = folder.symlink_metadata() {
            if meta.uid() == 0 {
                return Err(Error::invalid(format!(
                    "{0} belongs to root, but Postgres does not run as root; run `chown -R postgres: {0}`.",
                    folder.display()
                )));
            }
            return Ok(Some(Self {
                uid: meta.uid(),
                gid: meta.gid(),
            }));
        }
        let found = ["postgres", "nobody"]
            .iter()
            .find_map(|name| User::from_name(name).ok().flatten());
        match found {
            Some(user) => Ok(Some(Self {
                uid: user.uid.as_raw(),
                gid: user.gid.as_raw(),
            })),
            None => Err(Error::invalid(
                "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`; create one \
                 with `useradd --system postgres`, or start Tancho as another user.",
            )),
        }
    }
}
