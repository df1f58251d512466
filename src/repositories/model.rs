//! What is asked of a repository.

use crate::kernel::names::BranchName;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;

/// One of git's services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Clone and fetch.
    UploadPack,
    /// Push.
    ReceivePack,
    /// `git archive --remote`; over SSH only.
    UploadArchive,
}

impl Service {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
            Self::UploadArchive => "git-upload-archive",
        }
    }

    /// Its name as a subcommand.
    pub(super) fn subcommand(self) -> &'static str {
        self.name().trim_start_matches("git-")
    }

    /// The service of that name on the wire.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::UploadPack, Self::ReceivePack, Self::UploadArchive]
            .into_iter()
            .find(|service| service.name() == name)
    }

    /// What a user must hold on the app.
    pub(super) fn permission(self) -> Permission {
        match self {
            Self::UploadPack | Self::UploadArchive => Permission::APP_READ,
            Self::ReceivePack => Permission::APP_DEPLOY_GIT,
        }
    }
}

/// What a push wants of one ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// What the pusher believes is there; `None`: nothing.
    pub(super) old: Option<String>,
    /// `None`: that it goes.
    pub(super) new: Option<String>,
    pub(super) name: String,
}

impl Wish {
    /// Reads `<old> <new> <ref>`, as git tells a hook.
    pub(super) fn parse(line: &str) -> Result<Self, Problem> {
        let wrong = || Problem::internal("a hook was told something else than git tells");
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

/// The ref of a branch.
pub(super) fn branch_ref(branch: &BranchName) -> String {
    format!("refs/heads/{branch}")
}

/// The branch that is deployed where none has been chosen: the usual one, or `main` or `master` if only that
/// comes.
pub(super) fn first_default(wishes: &[Wish], usual: &BranchName) -> BranchName {
    let comes = |branch: &BranchName| {
        let name = branch_ref(branch);
        wishes.iter().any(|w| w.name == name && w.new.is_some())
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

    fn wish(name: &str) -> Wish {
        let (old, new) = ("0".repeat(40), "a1".repeat(20));
        Wish::parse(&format!("{old} {new} refs/heads/{name}")).unwrap()
    }

    #[test]
    fn the_first_default_is_the_usual_one_unless_only_another_comes() {
        let first = |usual: &str, come: &[&str]| {
            let wishes: Vec<Wish> = come.iter().map(|name| wish(name)).collect();
            first_default(&wishes, &BranchName::parse(usual).unwrap()).to_string()
        };
        assert_eq!(first("main", &[]), "main");
        assert_eq!(first("main", &["master"]), "master");
        assert_eq!(first("main", &["master", "main"]), "main");
        assert_eq!(first("master", &["master", "main"]), "master");
        assert_eq!(first("trunk", &["x", "master"]), "master");
        assert_eq!(first("trunk", &["x"]), "trunk");
    }

    #[test]
    fn a_deletion_has_no_new_object_and_garbage_is_refused() {
        let (some, none) = ("a1".repeat(20), "0".repeat(40));
        let gone = Wish::parse(&format!("{some} {none} refs/heads/main")).unwrap();
        assert_eq!((gone.old, gone.new), (Some(some), None));
        for line in ["", "a b", "a --upload-pack=x refs/heads/main"] {
            assert!(Wish::parse(line).is_err(), "{line}");
        }
    }
}
