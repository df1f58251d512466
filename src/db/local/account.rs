//! As whom the server runs.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::User;

use crate::kernel::problem::Problem;

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl Account {
    /// `None`: as ourselves. As root: the owner of a folder that is there already, else `postgres`, else
    /// `nobody`; Postgres refuses to run as root.
    pub(super) fn for_folder(folder: &Path, as_root: bool) -> Result<Option<Self>, Problem> {
        if !as_root {
            return Ok(None);
        }
        if let Ok(meta) = folder.symlink_metadata() {
            if meta.uid() == 0 {
                return Err(Problem::invalid(format!(
                    "{0} belongs to root, as whom Postgres does not run; run `chown -R postgres: {0}`.",
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
            None => Err(Problem::invalid(
                "Postgres does not run as root, and there is neither a user `postgres` nor `nobody`; make one \
                 with `useradd --system postgres`, or start Tancho as another user.",
            )),
        }
    }
}
