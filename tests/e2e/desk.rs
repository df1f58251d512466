//! A developer's machine with the real `git`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use crate::apps::Source;
use crate::house::{House, names};

/// A developer's machine: a home with nothing in it, and working copies.
pub(crate) struct Desk {
    pub(crate) home: PathBuf,
    /// How its `git` calls `ssh`.
    pub(crate) ssh: String,
}

/// What a program has said, on both its outputs.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: Option<i32>,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn of(output: &Output) -> Self {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Self {
            status: output.status.code(),
            text,
        }
    }

    pub(crate) fn must(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.text);
        self.text
    }

    pub(crate) fn must_fail(self) -> String {
        assert_ne!(self.status, Some(0), "{}", self.text);
        self.text
    }
}

impl Desk {
    pub(crate) fn new(house: &House) -> Self {
        Self::at(house.root.join("home"))
    }

    /// One whose home is this folder, which is made.
    pub(crate) fn at(home: PathBuf) -> Self {
        fs::create_dir(&home).unwrap();
        let ssh = "ssh".to_owned();
        Self { home, ssh }
    }

    pub(crate) fn command(&self, at: &Path, arguments: &[&str]) -> Command {
        self.program("git", at, arguments)
    }

    /// Any program, in the environment of this machine.
    pub(crate) fn program(&self, name: &str, at: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(name);
        command
            .args(arguments)
            .current_dir(at)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_SSH_COMMAND", &self.ssh)
            .env("GIT_AUTHOR_NAME", "Ana Alba")
            .env("GIT_AUTHOR_EMAIL", "ana@example.com")
            .env("GIT_COMMITTER_NAME", "Ana Alba")
            .env("GIT_COMMITTER_EMAIL", "ana@example.com")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, at: &Path, arguments: &[&str]) -> Said {
        Said::of(&self.command(at, arguments).output().unwrap())
    }

    /// A new working copy that knows the repository of `app` by HTTP.
    pub(crate) fn copy(&self, house: &House, folder: &str, app: &str) -> Copy<'_> {
        self.copy_of(folder, &url(house, &house.token, app))
    }

    /// A new working copy that knows the repository at a URL as `tancho`.
    pub(crate) fn copy_of(&self, folder: &str, url: &str) -> Copy<'_> {
        let path = self.home.join(folder);
        fs::create_dir(&path).unwrap();
        let copy = Copy { desk: self, path };
        copy.git(&["init", "--quiet", "--initial-branch=main"]).must();
        copy.git(&["remote", "add", "tancho", url]).must();
        copy
    }
}

/// The URL of a repository, with a token as the password.
pub(crate) fn url(house: &House, token: &str, app: &str) -> String {
    let api = house
        .running()
        .api
        .replacen("://", &format!("://token:{token}@"), 1);
    format!("{api}/git/{app}.git")
}

pub(crate) struct Copy<'a> {
    pub(crate) desk: &'a Desk,
    pub(crate) path: PathBuf,
}

impl Copy<'_> {
    pub(crate) fn git(&self, arguments: &[&str]) -> Said {
        self.desk.run(&self.path, arguments)
    }

    /// Commits the files of a source; the commit.
    pub(crate) fn commit(&self, source: &Source, message: &str) -> String {
        source.write_to(&self.path);
        self.git(&["add", "--all"]).must();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message])
            .must();
        self.git(&["rev-parse", "HEAD"]).must().trim().to_owned()
    }

    pub(crate) fn push(&self, what: &[&str]) -> Said {
        let mut arguments = vec!["push", "tancho"];
        arguments.extend(what);
        self.git(&arguments)
    }

    /// Pushes a build that fails: its lines and the reason come back, and the push is refused.
    pub(crate) fn push_broken(&self) {
        self.commit(
            &Source::web("two").hooks(&["echo no such thing >&2; exit 7"]),
            "Broken",
        );
        let said = self.push(&["main"]).must_fail();
        let lines = remote_lines(&said);
        assert!(
            lines.contains("no such thing") && lines.contains("ERROR: "),
            "{said}"
        );
        assert!(
            said.contains("[remote rejected] main -> main (pre-receive hook declined)"),
            "{said}"
        );
    }

    /// What a ref is there; empty if it is not.
    pub(crate) fn remote(&self, name: &str) -> String {
        let text = self.git(&["ls-remote", "tancho", name]).must();
        // Before it there may be what `ssh` says.
        let line = text.lines().find(|line| line.ends_with(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Begins a push, and reads what it says until that has a text in it.
    pub(crate) fn begin_push(&self, what: &str, until: &str) -> (Child, BufReader<ChildStderr>, String) {
        let mut command = self
            .desk
            .command(&self.path, &["push", "--progress", "tancho", what]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains(until) {
            assert!(lines.read_line(&mut text).unwrap() > 0, "it ended: {text}");
        }
        (child, lines, text)
    }
}

/// The lines that came from the server.
pub(crate) fn remote_lines(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix("remote: "));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The only repository of a house.
pub(crate) fn repository(house: &House) -> PathBuf {
    let folder = house.data.join("repositories");
    let found: Vec<String> = names(&folder)
        .into_iter()
        .filter(|name| name.ends_with(".git"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    folder.join(&found[0])
}
