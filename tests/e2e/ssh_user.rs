//! Users of `git` over SSH: the real `git` and the real `ssh` from a clean home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use reqwest::Method;
use serde_json::{Value, json};

use crate::git_client::{CommandOutput, GitClient, WorkingCopy};
use crate::test_instance::{PASSWORD, TestInstance};

/// Returns true if this machine has no `ssh`, which `script/test` installs.
pub(crate) fn is_ssh_missing() -> bool {
    let missing = Command::new("ssh").arg("-V").output().is_err();
    if missing {
        println!("SKIPPED: ssh is missing; install the Debian package openssh-client");
    }
    missing
}

/// A user: a machine with nothing but a key, and a session of the API.
pub(crate) struct SshUser {
    pub(crate) client: GitClient,
    pub(crate) token: String,
}

impl SshUser {
    /// Creates a user with a new key that is added.
    pub(crate) async fn new(tancho: &TestInstance, name: &str) -> Self {
        let person = Self::new_without_key(tancho, name).await;
        assert_eq!(person.add_key(tancho, &person.public_key()).await.0, 200);
        person
    }

    /// Creates a user, and a key that is not added yet.
    pub(crate) async fn new_without_key(tancho: &TestInstance, name: &str) -> Self {
        let email = format!("{name}@example.com");
        let api = &tancho.running().api;
        let form = [("email", email.as_str()), ("password", PASSWORD)];
        let made = tancho
            .http
            .post(format!("{api}/1.0/users"))
            .form(&form)
            .send()
            .await;
        assert_eq!(made.unwrap().status(), 201);
        let login = tancho.http.post(format!("{api}/1.0/users/{email}/tokens"));
        let answer = login.form(&[("password", PASSWORD)]).send().await.unwrap();
        let answer: Value = answer.error_for_status().unwrap().json().await.unwrap();
        let mut client = GitClient::at(tancho.root.join(name));
        let keys = client.home.join(".ssh");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
        client.ssh = format!("ssh {}", ssh_options(&client, "id"));
        let token = answer["token"].as_str().unwrap().to_owned();
        let person = Self { client, token };
        person.make_key("ed25519", "id");
        person
    }

    pub(crate) fn make_key(&self, kind: &str, name: &str) {
        let file = self.client.home.join(".ssh").join(name);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", "a key", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    pub(crate) fn public_key(&self) -> String {
        fs::read_to_string(self.client.home.join(".ssh/id.pub")).unwrap()
    }

    pub(crate) async fn keys(&self, tancho: &TestInstance, method: Method, key: &str) -> (u16, String) {
        let url = format!("{}/users/keys", tancho.running().api);
        let request = tancho.http.request(method, url).bearer_auth(&self.token);
        let answer = request
            .body(json!({ "key": key }).to_string())
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    pub(crate) async fn add_key(&self, tancho: &TestInstance, key: &str) -> (u16, String) {
        self.keys(tancho, Method::POST, key).await
    }

    /// Adds the user to the team, as the administrator.
    pub(crate) async fn join_team(&self, tancho: &TestInstance) {
        let name = self.client.home.file_name().unwrap().to_str().unwrap();
        let answer = tancho.request_as_admin(Method::PUT, &format!("/teams/crew/{name}@example.com"));
        assert_eq!(answer.send().await.unwrap().status(), 200);
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> CommandOutput {
        self.client.run(&self.client.home, arguments)
    }

    /// Builds an `ssh` command: its options, then the arguments after the host.
    pub(crate) fn ssh(&self, tancho: &TestInstance, more: &[&str], words: &[&str]) -> Command {
        let (host, port) = tancho.running().ssh.split_once(':').unwrap();
        let mut command = self.client.program("ssh", &self.client.home, &[]);
        command
            .args(ssh_options(&self.client, "id").split_ascii_whitespace())
            .args(["-p", port])
            .args(more)
            .arg(format!("git@{host}"))
            .args(words);
        command
    }

    pub(crate) fn run_ssh(&self, tancho: &TestInstance, options: &[&str], words: &[&str]) -> CommandOutput {
        CommandOutput::from_output(&self.ssh(tancho, options, words).output().unwrap())
    }

    /// Creates a working copy with the repository of `app` as its remote.
    pub(crate) fn init_copy_of_app(&self, tancho: &TestInstance, folder: &str, app: &str) -> WorkingCopy<'_> {
        self.client.init_copy(folder, &repository_url(tancho, app))
    }
}

/// Returns the options that keep this machine's settings from `ssh`, and give it a key of this client.
pub(crate) fn ssh_options(client: &GitClient, key: &str) -> String {
    format!(
        "-F none -i {0}/{key} -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
         -o UserKnownHostsFile={0}/known_hosts -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=accept-new",
        client.home.join(".ssh").display()
    )
}

/// Returns the URL of a repository, as the API shows it.
pub(crate) fn repository_url(tancho: &TestInstance, app: &str) -> String {
    format!("ssh://git@{}/{app}.git", tancho.running().ssh)
}
