//! Deploys from a forge over SSH, with the deploy key: with Tancho's own SSH server as the forge, and with a
//! real `sshd`.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::apps::AppSource;
use crate::forge::{ForgeRemote, deliver, deploys, failed_events, follow, push, signature};
use crate::git_client::repository;
use crate::push_hostile::random_bytes;
use crate::test_instance::{TestInstance, list_names, seconds, wait_for};

const SECRET: &str = "a secret of the forge";

/// Sets the forge of `shop`; returns the response.
async fn set_forge(tancho: &TestInstance, config: &Value) -> Value {
    let mut config = config.clone();
    config["secret"] = SECRET.into();
    config["branch"] = "live".into();
    let answer = follow(tancho, &config).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    for key in ["deployKey", "hostKey"] {
        assert_eq!(shown[key], tancho.read_json("/1.0/forges/shop").await[key]);
    }
    shown
}

/// Delivers a commit, as a forge does.
async fn deliver_push(tancho: &TestInstance, commit: &str) {
    let body = push("live", commit);
    let id = format!("of-{commit}");
    let (status, said) = deliver(tancho, "shop", &id, "push", &body, &signature(SECRET, &body)).await;
    assert_eq!(status, 200, "{said}");
}

/// Delivers a commit that is not deployed; returns the reason.
async fn refusal_of_push(tancho: &TestInstance, commit: &str) -> String {
    let before = failed_events(tancho, "shop").await.len();
    deliver_push(tancho, commit).await;
    let error = wait_for("the error is shown", seconds(120), async || {
        let forge = tancho.read_json("/1.0/forges/shop").await;
        let error = forge["error"].as_str().unwrap().to_owned();
        (forge["commit"] == commit && !error.is_empty()).then_some(error)
    })
    .await;
    let told = failed_events(tancho, "shop").await;
    assert_eq!(told.len(), before + 1, "{told:?}");
    assert_eq!(told[0]["Error"], error.as_str());
    error
}

async fn wait_for_app_text(tancho: &TestInstance, text: &str) {
    wait_for(&format!("the app says {text}"), seconds(90), async || {
        (tancho.get_app("shop", "/").await == (200, format!("{text} -"))).then_some(())
    })
    .await;
    wait_for("no event runs", seconds(60), async || {
        let running = tancho.read_json("/1.1/events?running=true").await;
        running.as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
}

/// A tunnel to a server that can be blocked in the middle of the server's output.
struct BlockableTunnel {
    address: String,
    /// Bytes that one connection may still transfer.
    room: Arc<AtomicUsize>,
    /// The number of blocked connections.
    still: Arc<AtomicUsize>,
}

impl BlockableTunnel {
    async fn new(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (room, still) = (
            Arc::new(AtomicUsize::new(usize::MAX)),
            Arc::new(AtomicUsize::new(0)),
        );
        let (server, gate) = (server.to_owned(), (Arc::clone(&room), Arc::clone(&still)));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&server).await;
                let Ok(far) = far else { continue };
                tokio::spawn(relay(near, far, gate.clone()));
            }
        });
        Self { address, room, still }
    }
}

async fn relay(near: TcpStream, far: TcpStream, (room, still): (Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let asking = tokio::spawn(async move {
        // Until either side closes.
        let _ = tokio::io::copy(&mut from_near, &mut to_far).await;
    });
    let (mut left, mut chunk) = (room.load(Ordering::SeqCst), vec![0; 16 * 1024]);
    while let Ok(read @ 1..) = from_far.read(&mut chunk).await {
        let Some(rest) = left.checked_sub(read) else {
            still.fetch_add(1, Ordering::SeqCst);
            return asking.await.unwrap();
        };
        left = rest;
        if to_near.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_forge_is_fetched_with_the_deploy_key_and_verified_by_its_host_key() {
    let mut tancho = TestInstance::start().await;
    for app in ["shop", "mirror", "cart"] {
        tancho.create_app(app).await;
    }
    let origin = ForgeRemote::new(&tancho, "mirror");
    follow_missing_repository(&tancho).await;
    let gate = BlockableTunnel::new(&tancho.running().ssh).await;
    let url = format!("ssh://git@{}/mirror.git", gate.address);
    for bad in [
        json!({ "url": "ssh://-oProxyCommand=id/mirror.git" }),
        json!({ "url": format!("ssh://git@{}/'; id; '", gate.address) }),
        json!({ "url": "git@host:--upload-pack=id" }),
        json!({ "url": url, "password": "correct-horse" }),
        json!({ "url": url, "host_key": "MD5:00:11" }),
        json!({ "url": "https://example.com/x.git", "host_key": tancho.running().host_key }),
    ] {
        assert_eq!(follow(&tancho, &bad).await.status(), 400, "{bad}");
    }

    // The deploy key of the app stays the same, whatever else is set.
    let shown = set_forge(&tancho, &json!({ "url": url })).await;
    let key = shown["deployKey"].as_str().unwrap().to_owned();
    assert!(
        key.starts_with("ssh-ed25519 AAAA") && key.ends_with(" tancho-shop"),
        "{key}"
    );
    assert_eq!(shown["hostKey"], "");
    assert_eq!(
        set_forge(&tancho, &json!({ "url": url })).await["deployKey"],
        key.as_str()
    );

    // The key is not accepted yet; the host key seen is stored.
    let commit = origin.push(&AppSource::web("one"), "The first");
    let why = refusal_of_push(&tancho, &commit).await;
    assert!(
        why.contains("rejected the deploy key") && why.contains(&key),
        "{why}"
    );
    let right = tancho.running().host_key.clone();
    assert_eq!(
        set_forge(&tancho, &json!({ "url": url })).await["hostKey"],
        right.as_str()
    );
    add_key(&tancho, &key).await;
    // A failed delivery may be sent again, as a forge does on request.
    deliver_push(&tancho, &commit).await;
    wait_for_app_text(&tancho, "one").await;
    let commit = origin.push(&AppSource::web("two"), "The second");
    deliver_push(&tancho, &commit).await;
    wait_for_app_text(&tancho, "two").await;
    assert_eq!(deploys(&tancho, "shop").await[0]["Commit"], commit.as_str());

    // Another host key.
    let other = format!("SHA256:{}", "A".repeat(43));
    set_forge(&tancho, &json!({ "url": url, "host_key": other })).await;
    let commit = origin.push(&AppSource::web("three"), "The third");
    let why = refusal_of_push(&tancho, &commit).await;
    for part in [&right, &other, "`host_key`"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // Killed while the forge sends.
    set_forge(&tancho, &json!({ "url": url, "host_key": right })).await;
    let noise: String = (0..60_000).map(|n| format!("{:x}", n * 7919 % 65_521)).collect();
    let commit = origin.push(&AppSource::web("four").with("noise", &noise), "The fourth");
    gate.room.store(20_000, Ordering::SeqCst);
    deliver_push(&tancho, &commit).await;
    wait_for("the forge sends", seconds(60), async || {
        (gate.still.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let (api, ssh) = (tancho.running().api.clone(), tancho.running().ssh.clone());
    tancho.kill();
    gate.room.store(usize::MAX, Ordering::SeqCst);
    // The forge, which is this server, keeps its address.
    tancho.set("TANCHO_SSH_LISTEN", &ssh);
    tancho.serve_at(&api);
    wait_for_app_text(&tancho, "four").await;
    assert_eq!(deploys(&tancho, "shop").await.len(), 3);
    assert_eq!(failed_events(&tancho, "shop").await.len(), 2);

    // The error of the forge is passed on, once all retries have failed.
    let told = wait_for("the other app's error", seconds(150), async || {
        failed_events(&tancho, "cart").await.first().cloned()
    })
    .await;
    let why = told["Error"].as_str().unwrap();
    assert!(
        why.contains("Output of the forge: ") && why.contains("Repository not found"),
        "{why}"
    );
}

async fn add_key(tancho: &TestInstance, key: &str) {
    let request = tancho.request_as_admin(Method::POST, "/users/keys");
    let answer = request.body(json!({ "key": key }).to_string()).send().await;
    assert_eq!(answer.unwrap().status(), 200);
}

/// Lets `cart` follow a repository that does not exist, and delivers a commit of it.
async fn follow_missing_repository(tancho: &TestInstance) {
    let url = format!("ssh://git@{}/none.git", tancho.running().ssh);
    let config = json!({ "url": url, "secret": SECRET });
    let answer = tancho
        .request_as_admin(Method::PUT, "/1.0/forges/cart")
        .json(&config)
        .send()
        .await;
    let shown: Value = answer.unwrap().json().await.unwrap();
    add_key(tancho, shown["deployKey"].as_str().unwrap()).await;
    let body = push("main", &"a1".repeat(20));
    let (status, said) = deliver(tancho, "cart", "none", "push", &body, &signature(SECRET, &body)).await;
    assert_eq!(status, 200, "{said}");
}

/// A real `sshd` that accepts one key, as the user of the tests.
struct SshdServer {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl SshdServer {
    const PROGRAM: &str = "/usr/sbin/sshd";

    /// Returns true if this machine has `sshd`; otherwise the skipped test is reported.
    fn is_installed() -> bool {
        let there = Path::new(Self::PROGRAM).exists();
        if !there {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // Not by a macro: their output is captured.
            let _ = writeln!(std::io::stderr(), "SKIP {test}: sshd is missing here");
        }
        there
    }

    fn start(folder: PathBuf) -> Self {
        fs::create_dir(&folder).unwrap();
        let port = StdListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nPidFile none\n",
            folder.display()
        );
        fs::write(folder.join("config"), config).unwrap();
        if nix::unistd::geteuid().is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        let child = Self::run(&folder);
        Self { folder, port, child }
    }

    /// Starts it with a new host key.
    fn run(folder: &Path) -> Child {
        let key = folder.join("host");
        // There is none at first.
        let _ = fs::remove_file(&key);
        let mut make = Command::new("ssh-keygen");
        make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key);
        assert!(make.status().unwrap().success());
        let log = File::create(folder.join("log")).unwrap();
        let mut command = Command::new(Self::PROGRAM);
        command.arg("-D").arg("-e").arg("-f").arg(folder.join("config"));
        command.stdin(Stdio::null()).stderr(log).spawn().unwrap()
    }

    fn rotate_host_key(&mut self) {
        self.stop();
        self.child = Self::run(&self.folder);
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn authorize_key(&self, key: &str) {
        fs::write(self.folder.join("authorized"), format!("{key}\n")).unwrap();
    }

    /// Returns its host key in the format of `known_hosts`.
    fn known_hosts_line(&self) -> String {
        let key = fs::read_to_string(self.folder.join("host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }
}

impl Drop for SshdServer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_forge_is_fetched_until_its_host_key_changes() {
    if !SshdServer::is_installed() {
        return;
    }
    let tancho = TestInstance::with(&[("TANCHO_GIT_MAX_REPOSITORY_BYTES", "3M")]).await;
    tancho.create_app("shop").await;
    let mut sshd = SshdServer::start(tancho.root.join("sshd"));
    let bare = tancho.root.join("shop.git");
    let made = Command::new("git")
        .args(["init", "--quiet", "--bare"])
        .arg(&bare)
        .status();
    assert!(made.unwrap().success());
    let origin = ForgeRemote::pushing_to(&tancho, bare.to_str().unwrap());
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    let url = format!("ssh://{user}@127.0.0.1:{}{}", sshd.port, bare.display());
    let shown = set_forge(&tancho, &json!({ "url": url })).await;
    sshd.authorize_key("");
    let commit = origin.push(&AppSource::web("one"), "One");
    let why = refusal_of_push(&tancho, &commit).await;
    assert!(why.contains("rejected the deploy key"), "{why}");
    sshd.authorize_key(shown["deployKey"].as_str().unwrap());
    for text in ["two", "three"] {
        let commit = origin.push(&AppSource::web(text), text);
        deliver_push(&tancho, &commit).await;
        wait_for_app_text(&tancho, text).await;
    }
    // A fetch that exceeds the quota leaves nothing, and does not block others.
    let noise = hex::encode(random_bytes(4 << 20));
    let commit = origin.push(&AppSource::web("four").with("noise", &noise), "Four");
    let why = refusal_of_push(&tancho, &commit).await;
    assert!(why.contains("larger than its quota of 3145728 bytes"), "{why}");
    let left = list_names(&repository(&tancho).join("objects/pack"));
    assert!(left.iter().all(|name| name.starts_with("pack-")), "{left:?}");
    origin.git(&["reset", "--quiet", "--hard", "HEAD~"]);
    let commit = origin.push(&AppSource::web("small"), "Small");
    deliver_push(&tancho, &commit).await;
    wait_for_app_text(&tancho, "small").await;

    sshd.rotate_host_key();
    let commit = origin.push(&AppSource::web("five"), "Five");
    let why = refusal_of_push(&tancho, &commit).await;
    assert!(why.contains("another server may be impersonating it"), "{why}");
    set_forge(
        &tancho,
        &json!({ "url": url, "host_key": sshd.known_hosts_line() }),
    )
    .await;
    let commit = origin.push(&AppSource::web("six"), "Six");
    deliver_push(&tancho, &commit).await;
    wait_for_app_text(&tancho, "six").await;
    assert_eq!(deploys(&tancho, "shop").await.len(), 4);
}
