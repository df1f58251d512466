//! People who use `git` over SSH: the real `git` and the real `ssh` from a clean home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::desk::{Copy, Desk, Said};
use crate::house::{House, PASSWORD};

/// True if this machine has no `ssh`, which `script/test` installs.
pub(crate) fn no_ssh() -> bool {
    let missing = Command::new("ssh").arg("-V").output().is_err();
    if missing {
        println!("SKIPPED: ssh is missing; install the Debian package openssh-client");
    }
    missing
}

/// Somebody: a machine with nothing on it but a key, and their session with the API.
pub(crate) struct Person {
    pub(crate) desk: Desk,
    pub(crate) token: String,
}

impl Person {
    /// A new user with a new key that is theirs.
    pub(crate) async fn new(house: &House, name: &str) -> Self {
        let person = Self::without_key(house, name).await;
        assert_eq!(person.add_key(house, &person.public()).await.0, 200);
        person
    }

    /// A new user, and a key that nobody knows yet.
    pub(crate) async fn without_key(house: &House, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let api = &house.running().api;
        let form = [("email", email.as_str()), ("password", PASSWORD)];
        let made = house
            .http
            .post(format!("{api}/1.0/users"))
            .form(&form)
            .send()
            .await;
        assert_eq!(made.unwrap().status(), 201);
        let login = house.http.post(format!("{api}/1.0/users/{email}/tokens"));
        let answer = login.form(&[("password", PASSWORD)]).send().await.unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        let mut desk = Desk::at(house.root.join(name));
        let keys = desk.home.join(".ssh");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
        desk.ssh = format!("ssh {}", options(&desk, "id"));
        let token = answer["token"].as_str().unwrap().to_owned();
        let person = Self { desk, token };
        person.make_key("ed25519", "id");
        person
    }

    pub(crate) fn make_key(&self, kind: &str, name: &str) {
        let file = self.desk.home.join(".ssh").join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", "a key", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    pub(crate) fn public(&self) -> String {
        fs::read_to_string(self.desk.home.join(".ssh/id.pub")).unwrap()
    }

    pub(crate) async fn keys(&self, house: &House, method: Method, key: &str) -> (u16, String) {
        let url = format!("{}/users/keys", house.running().api);
        let request = house.http.request(method, url).bearer_auth(&self.token);
        let answer = request
            .body(json!({ "key": key }).to_string())
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn add_key(&self, house: &House, key: &str) -> (u16, String) {
        self.keys(house, Method::POST, key).await
    }

    /// Lets the administrator take them into the team.
    pub(crate) async fn join(&self, house: &House) {
        let name = self.desk.home.file_name().unwrap().to_str().unwrap();
        let answer = house.by(Method::PUT, &format!("/teams/crew/{name}@example.com"));
        assert_eq!(answer.send().await.unwrap().status(), 200);
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> Said {
        self.desk.run(&self.desk.home, arguments)
    }

    /// `ssh`, not yet started: options of its own, then the words after the host.
    pub(crate) fn ssh(&self, house: &House, more: &[&str], words: &[&str]) -> Command {
        let (host, port) = house.running().ssh.split_once(':').unwrap();
        let mut command = self.desk.program("ssh", &self.desk.home, &[]);
        command
            .args(options(&self.desk, "id").split_ascii_whitespace())
            .args(["-p", port])
            .args(more)
            .arg(format!("git@{host}"))
            .args(words);
        command
    }

    pub(crate) fn says(&self, house: &House, options: &[&str], words: &[&str]) -> Said {
        Said::of(&self.ssh(house, options, words).output().unwrap())
    }

    /// A new working copy that knows the repository of `app`.
    pub(crate) fn copy(&self, house: &House, folder: &str, app: &str) -> Copy<'_> {
        self.desk.copy_of(folder, &url(house, app))
    }
}

/// The options by which nothing of this machine's reaches `ssh`, and a key of the desk's does.
pub(crate) fn options(desk: &Desk, key: &str) -> String {
    format!(
        "-F none -i {0}/{key} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
         -o UserKnownHostsFile={0}/known_hosts -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=accept-new",
        desk.home.join(".ssh").display()
    )
}

/// The URL of a repository, as the API says it.
pub(crate) fn url(house: &House, app: &str) -> String {
    format!("ssh://git@{}/{app}.git", house.running().ssh)
}
