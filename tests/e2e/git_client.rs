//! A developer's machine with the real `git`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, list_names};

/// A developer's machine: an empty home, and working copies.
pub(crate) struct GitClient {
    pub(crate) home: PathBuf,
    /// The command by which `git` calls `ssh`.
    pub(crate) ssh: String,
}

/// The output of a program, standard output and error together.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) status: Option<i32>,
    pub(crate) text: String,
}

impl CommandOutput {
    pub(crate) fn from_output(output: &Output) -> Self {
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Self {
            status: output.status.code(),
            text,
        }
    }

    pub(crate) fn expect_success(self) -> String {
        assert_eq!(self.status, Some(0), "{}", self.text);
        self.text
    }

    pub(crate) fn expect_failure(self) -> String {
        assert_ne!(self.status, Some(0), "{}", self.text);
        self.text
    }
}

impl GitClient {
    pub(crate) fn new(tancho: &TestInstance) -> Self {
        Self::at(tancho.root.join("home"))
    }

    /// Creates one with this folder as its home.
    pub(crate) fn at(home: PathBuf) -> Self {
        fs::create_dir(&home).unwrap();
        let ssh = "ssh".to_owned();
        Self { home, ssh }
    }

    pub(crate) fn command(&self, at: &Path, arguments: &[&str]) -> Command {
        self.program("git", at, arguments)
    }

    /// Builds a command in the environment of this machine.
    pub(crate) fn program(&self, name: &str, at: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(name);
        command
            .args(arguments)
            .current_dir(at)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", &self.home)
            .env("GIT_TERMINAL_PROMPT", "0")
            // The server's repositories, which tests inspect, belong to another user.
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .env("GIT_SSH_COMMAND", &self.ssh)
            .env("GIT_AUTHOR_NAME", "Ana Alba")
            .env("GIT_AUTHOR_EMAIL", "ana@example.com")
            .env("GIT_COMMITTER_NAME", "Ana Alba")
            .env("GIT_COMMITTER_EMAIL", "ana@example.com")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, at: &Path, arguments: &[&str]) -> CommandOutput {
        CommandOutput::from_output(&self.command(at, arguments).output().unwrap())
    }

    /// Creates a working copy with the HTTP repository of `app` as its remote.
    pub(crate) fn init_copy_of_app(&self, tancho: &TestInstance, folder: &str, app: &str) -> WorkingCopy<'_> {
        self.init_copy(folder, &url(tancho, &tancho.token, app))
    }

    /// Creates a working copy with a URL as its remote `tancho`.
    pub(crate) fn init_copy(&self, folder: &str, url: &str) -> WorkingCopy<'_> {
        let path = self.home.join(folder);
        fs::create_dir(&path).unwrap();
        let copy = WorkingCopy { client: self, path };
        copy.git(&["init", "--quiet", "--initial-branch=main"])
            .expect_success();
        copy.git(&["remote", "add", "tancho", url]).expect_success();
        copy
    }
}

/// Returns the URL of a repository, with a token as the password.
pub(crate) fn url(tancho: &TestInstance, token: &str, app: &str) -> String {
    let api = tancho
        .running()
        .api
        .replacen("://", &format!("://token:{token}@"), 1);
    format!("{api}/git/{app}.git")
}

pub(crate) struct WorkingCopy<'a> {
    pub(crate) client: &'a GitClient,
    pub(crate) path: PathBuf,
}

impl WorkingCopy<'_> {
    pub(crate) fn git(&self, arguments: &[&str]) -> CommandOutput {
        self.client.run(&self.path, arguments)
    }

    /// Commits the files of a source; returns the commit.
    pub(crate) fn commit(&self, source: &AppSource, message: &str) -> String {
        source.write_to(&self.path);
        self.git(&["add", "--all"]).expect_success();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message])
            .expect_success();
        self.git(&["rev-parse", "HEAD"])
            .expect_success()
            .trim()
            .to_owned()
    }

    pub(crate) fn push(&self, what: &[&str]) -> CommandOutput {
        let mut arguments = vec!["push", "tancho"];
        arguments.extend(what);
        self.git(&arguments)
    }

    /// Pushes a build that fails: its output and the reason are returned, and the push is refused.
    pub(crate) fn push_broken(&self) {
        self.commit(
            &AppSource::web("two").hooks(&["echo no such thing >&2; exit 7"]),
            "Broken",
        );
        let said = self.push(&["main"]).expect_failure();
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

    /// Returns the commit of a remote ref; empty if it does not exist.
    pub(crate) fn remote_ref(&self, name: &str) -> String {
        let text = self.git(&["ls-remote", "tancho", name]).expect_success();
        // Messages of `ssh` may precede it.
        let line = text.lines().find(|line| line.ends_with(name)).unwrap_or_default();
        line.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Begins a push, and reads its output until it contains a text.
    pub(crate) fn begin_push(&self, what: &str, until: &str) -> (Child, BufReader<ChildStderr>, String) {
        let mut command = self
            .client
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

/// Returns the lines that the server sent.
pub(crate) fn remote_lines(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix("remote: "));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// Returns the path of the only repository of an instance.
pub(crate) fn repository(tancho: &TestInstance) -> PathBuf {
    let folder = tancho.data.join("repositories");
    let found: Vec<String> = list_names(&folder)
        .into_iter()
        .filter(|name| name.ends_with(".git"))
        .collect();
    assert_eq!(found.len(), 1, "{found:?}");
    folder.join(&found[0])
}

/// Gives files that a test has put into a repository to the user that git runs as there.
pub(crate) fn chown_to_git_user(repository: &Path) {
    let mut command = Command::new("chown");
    command
        .arg("-R")
        .arg("--reference")
        .args([repository, repository]);
    assert!(command.status().unwrap().success());
}
