//! Types for requests to a repository.

use crate::kernel::error::Error;
use crate::kernel::names::BranchName;
use crate::kernel::permission::Permission;

/// One of git's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GitService {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
    /// `git archive --remote`; over SSH only.
    UploadArchive,
}

impl GitService {
    /// Returns its name in the protocol.
    pub fn program_name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
            Self::UploadArchive => "git-upload-archive",
        }
    }

    /// Returns its name as a subcommand.
    pub(super) fn subcommand_name(self) -> &'static str {
        self.program_name().trim_start_matches("git-")
    }

    /// Parses the name of a service in the protocol.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::UploadPack, Self::ReceivePack, Self::UploadArchive]
            .into_iter()
            .find(|service| service.program_name() == name)
    }

    /// Returns the permission that it requires on the app.
    pub(super) fn required_permission(self) -> Permission {
        match self {
            Self::UploadPack | Self::UploadArchive => Permission::APP_READ,
            Self::ReceivePack => Permission::APP_DEPLOY_GIT,
        }
    }
}

/// The update of one ref by a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RefUpdate {
    /// The expected old object; `None`: the ref must not exist.
    pub(super) old: Option<String>,
    /// The new object; `None`: the ref is deleted.
    pub(super) new: Option<String>,
    pub(super) name: String,
}

impl RefUpdate {
    /// Parses `<old> <new> <ref>`, the format of git's hooks.
    pub(super) fn parse(line: &str) -> Result<Self, Error> {
        let wrong = || Error::internal("malformed ref update from the hook of a push");
        let mut words = line.splitn(3, ' ');
        let object = |word: Option<&str>| match word {
            Some(id) if matches!(id.len(), 40 | 64) && id.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok((!id.bytes().all(|b| b == b'0')).then(|| id.to_owned()))
            }
            _ => Err(wrong()),
        };
        let (old, new) = (object(words.next())?, object(words.next())?);
        let name = words.next().filter(|name| name.starts_with("refs/"));
        let name = name.ok_or_else(wrong)?.to_owned();
        Ok(Self { old, new, name })
    }
}

/// Returns the ref of a branch.
pub(super) fn branch_ref(branch: &BranchName) -> String {
    format!("refs/heads/{branch}")
}

/// Chooses the default branch if none is set: the configured one, or `main` or `master` if only that is
/// pushed.
pub(super) fn choose_default_branch(updates: &[RefUpdate], usual: &BranchName) -> BranchName {
    let comes = |branch: &BranchName| {
        let name = branch_ref(branch);
        updates.iter().any(|w| w.name == name && w.new.is_some())
    };
    let others = ["main", "master"];
    let others = others.iter().filter_map(|name| BranchName::parse(name).ok());
    std::iter::once(usual.clone())
        .chain(others)
        .find(comes)
        .unwrap_or_else(|| usual.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(name: &str) -> RefUpdate {
        let (old, new) = ("0".repeat(40), "a1".repeat(20));
        RefUpdate::parse(&format!("{old} {new} refs/heads/{name}")).unwrap()
    }

    #[test]
    fn default_branch_is_the_configured_one_unless_only_main_or_master_is_pushed() {
        let first = |usual: &str, come: &[&str]| {
            let updates: Vec<RefUpdate> = come.iter().map(|name| update(name)).collect();
            choose_default_branch(&updates, &BranchName::parse(usual).unwrap()).to_string()
        };
        assert_eq!(first("main", &[]), "main");
        assert_eq!(first("main", &["master"]), "master");
        assert_eq!(first("main", &["master", "main"]), "main");
        assert_eq!(first("master", &["master", "main"]), "master");
        assert_eq!(first("trunk", &["x", "master"]), "master");
        assert_eq!(first("trunk", &["x"]), "trunk");
    }

    #[test]
    fn deletion_has_no_new_object_and_malformed_line_is_refused() {
        let (some, none) = ("a1".repeat(20), "0".repeat(40));
        let gone = RefUpdate::parse(&format!("{some} {none} refs/heads/main")).unwrap();
        assert_eq!((gone.old, gone.new), (Some(some), None));
        for line in ["", "a b", "a --upload-pack=x refs/heads/main"] {
            assert!(RefUpdate::parse(line).is_err(), "{line}");
        }
    }
}
