//! What a client wants run, taken apart.

use crate::repositories::Service;

/// What is said to whoever wants something else than git.
pub(super) const ONLY_GIT: &str = "This is a git server: clone, fetch, push and `git archive --remote` are all it does. \
                                   There is no shell, no files and no forwarding.";

/// What a client wants of which repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) service: Service,
    /// As the client has named it, with or without `.git`.
    pub(super) repository: String,
}

/// Reads `git-upload-pack '/board.git'`, as `git` writes it for a shell. `None`: it is something else.
pub(super) fn parse(command: &[u8]) -> Option<Request> {
    let command = std::str::from_utf8(command).ok()?;
    let (program, argument) = command.split_once(' ')?;
    let service = Service::parse(program)?;
    let path = unquoted(argument.trim());
    Some(Request {
        service,
        // What is no name of an app, such as one with more slashes or quotes in it, is refused as such.
        repository: path.strip_prefix('/').unwrap_or(path).to_owned(),
    })
}

/// Without a pair of quotes around it. What a shell would unquote within belongs to no name of an app.
fn unquoted(text: &str) -> &str {
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
    fn the_commands_of_git_are_understood() {
        for (command, service, repository) in [
            ("git-upload-pack 'board.git'", Service::UploadPack, "board.git"),
            ("git-upload-pack '/board.git'", Service::UploadPack, "board.git"),
            (
                "git-receive-pack \"/board.git\"",
                Service::ReceivePack,
                "board.git",
            ),
            ("git-receive-pack board.git", Service::ReceivePack, "board.git"),
            ("git-upload-archive '/board'", Service::UploadArchive, "board"),
        ] {
            let read = parse(command.as_bytes()).unwrap();
            assert_eq!(
                (read.service, read.repository.as_str()),
                (service, repository),
                "{command}"
            );
        }
    }

    #[test]
    fn what_a_shell_would_make_of_it_stays_part_of_the_name() {
        for (command, repository) in [
            ("git-upload-pack 'a.git' --strict", "'a.git' --strict"),
            ("git-upload-pack '//etc'", "/etc"),
            ("git-upload-pack '../a.git'", "../a.git"),
            ("git-upload-pack 'a'\\''b.git'", "a'\\''b.git"),
            ("git-upload-pack a.git; ls", "a.git; ls"),
            ("git-upload-pack $(ls)", "$(ls)"),
        ] {
            assert_eq!(
                parse(command.as_bytes()).unwrap().repository,
                repository,
                "{command}"
            );
        }
    }

    #[test]
    fn everything_else_is_no_command() {
        for command in [
            "",
            "ls",
            "git-upload-pack",
            "git upload-pack 'a.git'",
            "/bin/sh -c ls",
            "scp -t /tmp",
            "git-shell a",
        ] {
            assert_eq!(parse(command.as_bytes()), None, "{command}");
        }
        assert_eq!(parse(b"git-upload-pack '\xff.git'"), None);
    }

    proptest! {
        #[test]
        fn no_command_makes_it_panic(command in "(git-upload-pack|git-receive-pack|.{0,9}) .{0,40}") {
            let _ = parse(command.as_bytes());
        }
    }
}
