//! Parses the command of a client.

use crate::repositories::GitService;

/// The error for requests other than git commands.
pub(super) const ONLY_GIT_MESSAGE: &str = "This server accepts git only: clone, fetch, push and `git archive --remote`. \
                                   There is no shell, no file transfer and no forwarding.";

/// A git command for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GitRequest {
    pub(super) service: GitService,
    /// As sent by the client, with or without `.git`.
    pub(super) repository: String,
}

/// Parses `git-upload-pack '/board.git'`, as `git` quotes it for a shell. `None`: another command.
pub(super) fn parse_command(command: &[u8]) -> Option<GitRequest> {
    let command = std::str::from_utf8(command).ok()?;
    let (program, argument) = command.split_once(' ')?;
    let service = GitService::parse(program)?;
    let path = strip_quotes(argument.trim());
    Some(GitRequest {
        service,
        // Anything that is not the name of an app, for example with more slashes or quotes, is refused later.
        repository: path.strip_prefix('/').unwrap_or(path).to_owned(),
    })
}

/// Removes one pair of quotes. Names of apps need no further unquoting.
fn strip_quotes(text: &str) -> &str {
    ['\'', '"']
        .iter()
        .find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn git_commands_are_parsed() {
        for (command, service, repository) in [
            ("git-upload-pack 'board.git'", GitService::UploadPack, "board.git"),
            (
                "git-upload-pack '/board.git'",
                GitService::UploadPack,
                "board.git",
            ),
            (
                "git-receive-pack \"/board.git\"",
                GitService::ReceivePack,
                "board.git",
            ),
            ("git-receive-pack board.git", GitService::ReceivePack, "board.git"),
            ("git-upload-archive '/board'", GitService::UploadArchive, "board"),
        ] {
            let read = parse_command(command.as_bytes()).unwrap();
            assert_eq!(
                (read.service, read.repository.as_str()),
                (service, repository),
                "{command}"
            );
        }
    }

    #[test]
    fn shell_syntax_stays_part_of_the_repository_name() {
        for (command, repository) in [
            ("git-upload-pack 'a.git' --strict", "'a.git' --strict"),
            ("git-upload-pack '//etc'", "/etc"),
            ("git-upload-pack '../a.git'", "../a.git"),
            ("git-upload-pack 'a'\\''b.git'", "a'\\''b.git"),
            ("git-upload-pack a.git; ls", "a.git; ls"),
            ("git-upload-pack $(ls)", "$(ls)"),
        ] {
            assert_eq!(
                parse_command(command.as_bytes()).unwrap().repository,
                repository,
                "{command}"
            );
        }
    }

    #[test]
    fn other_commands_are_refused() {
        for command in [
            "",
            "ls",
            "git-upload-pack",
            "git upload-pack 'a.git'",
            "/bin/sh -c ls",
            "scp -t /tmp",
            "git-shell a",
        ] {
            assert_eq!(parse_command(command.as_bytes()), None, "{command}");
        }
        assert_eq!(parse_command(b"git-upload-pack '\xff.git'"), None);
    }

    proptest! {
        #[test]
        fn no_command_makes_it_panic(command in "(git-upload-pack|git-receive-pack|.{0,9}) .{0,40}") {
            let _ = parse_command(command.as_bytes());
        }
    }
}
