//! `git push` over HTTP, with the real `git` from a clean home.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::Source;
use crate::house::{EMAIL, House, PASSWORD, seconds};

/// A developer's machine: a home with nothing in it, and working copies.
struct Desk {
    home: PathBuf,
}

/// What a `git` has said, on both its outputs.
#[derive(Debug)]
struct Said {
    ok: bool,
    text: String,
}

impl Said {
    fn must(self) -> String {
        assert!(self.ok, "{}", self.text);
        self.text
    }

    fn must_fail(self) -> String {
        assert!(!self.ok, "{}", self.text);
        self.text
    }
}

impl Desk {
    fn new(house: &House) -> Self {
        let home = house.root.join("home");
        fs::create_dir(&home).unwrap();
        Self { home }
    }

    fn command(&self, at: &Path, arguments: &[&str]) -> Command {
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

    fn run(&self, at: &Path, arguments: &[&str]) -> Said {
        let output = self.command(at, arguments).output().unwrap();
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Said {
            ok: output.status.success(),
            text,
        }
    }

    /// A new working copy that knows the repository of `app`.
    fn copy(&self, house: &House, folder: &str, app: &str) -> Copy<'_> {
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
fn url(house: &House, token: &str, app: &str) -> String {
    let api = house
        .running()
        .api
        .replacen("://", &format!("://token:{token}@"), 1);
    format!("{api}/git/{app}.git")
}

struct Copy<'a> {
    desk: &'a Desk,
    path: PathBuf,
}

impl Copy<'_> {
    fn git(&self, arguments: &[&str]) -> Said {
        self.desk.run(&self.path, arguments)
    }

    /// Commits the files of a source; the commit.
    fn commit(&self, source: &Source, message: &str) -> String {
        source.write_to(&self.path);
        self.git(&["add", "--all"]).must();
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message])
            .must();
        self.git(&["rev-parse", "HEAD"]).must().trim().to_owned()
    }

    fn push(&self, what: &[&str]) -> Said {
        let mut arguments = vec!["push", "tancho"];
        arguments.extend(what);
        self.git(&arguments)
    }

    /// What a ref is there; empty if it is not.
    fn remote(&self, name: &str) -> String {
        let text = self.git(&["ls-remote", "tancho", name]).must();
        text.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// Begins a push, and reads what it says until that has a text in it.
    fn begin_push(&self, what: &str, until: &str) -> (Child, BufReader<std::process::ChildStderr>, String) {
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
fn remote_lines(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.strip_prefix("remote: "));
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The newest deploy of an app.
async fn newest(house: &House, app: &str) -> Value {
    let list = house.read(&format!("/1.0/deploys?app={app}")).await;
    list[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_deploys_and_a_broken_one_changes_nothing() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    // Nothing there yet, on either side.
    let empty = desk
        .run(&desk.home, &["clone", &url(&house, &house.token, "shop"), "none"])
        .must();
    assert!(empty.contains("empty repository"), "{empty}");
    work.push(&["main"]).must_fail();

    let source = Source::web("one").hooks(&["echo built by hand"]);
    let first = work.commit(&source, "The first\n\nSaid at length.");
    let said = work.push(&["main"]).must();
    let lines = remote_lines(&said);
    for part in ["Deploying ", "built by hand", "version 1 is built"] {
        assert!(lines.contains(part), "{part}: {said}");
    }
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(work.remote("refs/heads/main"), first);
    let deploy = newest(&house, "shop").await;
    for (key, value) in [
        ("Commit", first.as_str()),
        ("Author", "Ana Alba <ana@example.com>"),
        ("Message", "The first\n\nSaid at length."),
        ("Origin", "git"),
        ("User", EMAIL),
        ("Error", ""),
    ] {
        assert_eq!(deploy[key], value, "{key}: {deploy}");
    }

    // A build that fails.
    work.commit(
        &Source::web("two").hooks(&["echo no such thing >&2; exit 7"]),
        "Broken",
    );
    let said = work.push(&["main"]).must_fail();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("no such thing") && lines.contains("ERROR: "),
        "{said}"
    );
    assert!(
        said.contains("[remote rejected] main -> main (pre-receive hook declined)"),
        "{said}"
    );
    assert_eq!(work.remote("refs/heads/main"), first);
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    house.assert_tidy("shop", &["1"]).await;

    // Another branch and a tag are kept, not deployed.
    work.git(&["tag", "v0"]).must();
    let said = work.push(&["main:idea", "v0"]).must();
    assert!(remote_lines(&said).contains("not deployed"), "{said}");
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_ne!(work.remote("refs/heads/idea"), "");
    assert_ne!(work.remote("refs/tags/v0"), "");
    work.push(&[":idea"]).must();
    assert_eq!(work.remote("refs/heads/idea"), "");

    // Clone and fetch, by a password as well.
    let password = PASSWORD.to_owned();
    let login = EMAIL.replace('@', "%40");
    let by_password = url(&house, &password, "shop").replacen("token", &login, 1);
    desk.run(&desk.home, &["clone", "--quiet", &by_password, "clone"])
        .must();
    let clone = Copy {
        desk: &desk,
        path: desk.home.join("clone"),
    };
    assert_eq!(clone.git(&["rev-parse", "HEAD"]).must().trim(), first);
    let second = clone.commit(&Source::web("three"), "From the clone");
    clone.git(&["push", "--quiet", "origin", "main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "three -".to_owned()));
    assert_eq!(newest(&house, "shop").await["Commit"], second.as_str());
    work.git(&["fetch", "--quiet", "tancho"]).must();
    assert_eq!(work.git(&["rev-parse", "tancho/main"]).must().trim(), second);

    // History that was thought over: by force only. The branch that is deployed stays.
    work.git(&["reset", "--quiet", "--hard", &first]).must();
    let other = work.commit(&Source::web("four"), "Thought over");
    assert!(work.push(&["main"]).must_fail().contains("rejected"));
    work.push(&["--force", "main"]).must();
    assert_eq!(work.remote("refs/heads/main"), other);
    assert_eq!(house.visit("shop", "/").await, (200, "four -".to_owned()));
    let said = work.push(&[":main"]).must_fail();
    assert!(said.contains("cannot be deleted"), "{said}");
    assert_eq!(work.remote("refs/heads/main"), other);
    // What went wrong and right has left a repository in order, and no push under way.
    let kept = fs::read_dir(house.data.join("repositories")).unwrap();
    let kept: Vec<PathBuf> = kept.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    for repository in kept.iter().filter(|path| !path.ends_with("hooks")) {
        desk.run(repository, &["fsck", "--strict"]).must();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deployed_and_who_may_not_push_are_told_so() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    work.commit(&Source::web("one"), "One");
    let tip = work.git(&["rev-parse", "HEAD"]).must();
    let link = format!("160000,{},lib/part", tip.trim());
    work.git(&["update-index", "--add", "--cacheinfo", &link]).must();
    work.git(&["commit", "--quiet", "-m", "With a part"]).must();
    let said = work.push(&["main"]).must_fail();
    assert!(
        remote_lines(&said).contains("ERROR: lib/part is a submodule"),
        "{said}"
    );
    work.git(&["reset", "--quiet", "--hard", "HEAD~"]).must();
    let large = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    work.commit(&Source::default().with(".gitattributes", large), "Large");
    let said = work.push(&["main"]).must_fail();
    assert!(remote_lines(&said).contains("Git LFS"), "{said}");
    assert_eq!(work.remote("refs/heads/main"), "");
    assert_eq!(
        house.read("/1.0/deploys?app=shop").await.as_array().map(Vec::len),
        Some(0)
    );

    // Nobody, a wrong password, a stranger: an app that is there looks like one that is not.
    let stranger = json!({ "email": "bob@example.com", "password": PASSWORD });
    let made = house
        .by(Method::POST, "/1.0/users")
        .json(&stranger)
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let tokens = format!("{}/1.0/users/bob@example.com/tokens", house.running().api);
    let login = house
        .http
        .post(tokens)
        .json(&json!({ "password": PASSWORD }))
        .send()
        .await
        .unwrap();
    let login: Value = login.json().await.unwrap();
    for (token, says) in [
        (login["token"].as_str().unwrap(), "not found"),
        ("wrong", "Authentication failed"),
    ] {
        let push = |app: &str| {
            let said = work.git(&["push", &url(&house, token, app), "main"]).must_fail();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        let (there, unknown) = (push("shop"), push("none"));
        assert_eq!(there, unknown);
        assert!(there.contains(says), "{there}");
        let fetch = |app: &str| {
            let said = work.git(&["ls-remote", &url(&house, token, app)]).must_fail();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        assert_eq!(fetch("shop"), fetch("none"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pushes_at_once_the_second_is_told_of_the_first() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let (one, two) = (desk.copy(&house, "one", "shop"), desk.copy(&house, "two", "shop"));
    one.commit(&Source::web("one").hooks(&["echo in the build; sleep 3"]), "One");
    two.commit(&Source::web("two"), "Two");
    let (mut first, _lines, _) = one.begin_push("main", "in the build");
    let said = two.push(&["main"]).must_fail();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("ERROR: ") && lines.contains(&format!("that of {EMAIL} since ")),
        "{said}"
    );
    // What is only kept need not wait.
    two.push(&["main:aside"]).must();
    assert!(first.wait().unwrap().success());
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    two.push(&["--force", "main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));

    // A pusher who hangs up stops neither the deploy nor the branch.
    let last = one.commit(
        &Source::web("three").hooks(&["echo in the build; sleep 2"]),
        "Three",
    );
    let (mut pusher, _lines, _) = one.begin_push("+main", "in the build");
    pusher.kill().unwrap();
    pusher.wait().unwrap();
    crate::house::until("the branch has moved", seconds(60), async || {
        (two.remote("refs/heads/main") == last).then_some(())
    })
    .await;
    assert_eq!(house.visit("shop", "/").await, (200, "three -".to_owned()));
}
