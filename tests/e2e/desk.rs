//! A developer's machine with the real `git`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::apps::Source;
use crate::house::{House, names};

/// A developer's machine: a home with nothing in it, and working copies.
pub(crate) struct Desk {
    pub(crate) home: PathBuf,
}

/// What a `git` has said, on both its outputs.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) text: String,
}

impl Said {
    pub(crate) fn must(self) -> String {
        assert!(self.ok, "{}", self.text);
        self.text
    }

    pub(crate) fn must_fail(self) -> String {
        assert!(!self.ok, "{}", self.text);
        self.text
    }
}

impl Desk {
    pub(crate) fn new(house: &House) -> Self {
        let home = house.root.join("home");
        fs::create_dir(&home).unwrap();
        Self { home }
    }

    pub(crate) fn command(&self, at: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        command
            .args(arguments)
            .current_dir(at)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_AUTHOR_NAME", "Ana Alba")
            .env("GIT_AUTHOR_EMAIL", "ana@example.com")
            .env("GIT_COMMITTER_NAME", "Ana Alba")
            .env("GIT_COMMITTER_EMAIL", "ana@example.com")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, at: &Path, arguments: &[&str]) -> Said {
        let output = self.command(at, arguments).output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Said {
            ok: output.status.success(),
            text,
        }
    }

    /// A new working copy that knows the repository of `app`.
    pub(crate) fn copy(&self, house: &House, folder: &str, app: &str) -> Copy<'_> {
        let path = self.home.join(folder);
        fs::create_dir(&path).unwrap();
        let copy = Copy { desk: self, path };
        copy.git(&["init", "--quiet", "--initial-branch=main"]).must();
        let url = url(house, &house.token, app);
        copy.git(&["remote", "add", "tancho", &url]).must();
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

    /// What a ref is there; empty if it is not.
    pub(crate) fn remote(&self, name: &str) -> String {
        let text = self.git(&["ls-remote", "tancho", name]).must();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Begins a push, and reads what it says until that has a text in it.
    pub(crate) fn begin_push(
        &self,
        what: &str,
        until: &str,
    ) -> (Child, BufReader<std::process::ChildStderr>, String) {
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
