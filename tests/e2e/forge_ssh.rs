//! Deploys from a forge by SSH, with the deploy key: from Tancho's own door as the forge, and from a real `sshd`.

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

use crate::apps::Source;
use crate::desk::repository;
use crate::forge::{Origin, deliver, deploys, failures, follow, push, signature};
use crate::house::{House, names, seconds, until};
use crate::push_hostile::noise;

const SECRET: &str = "a secret of the forge";

/// Lets `shop` follow a forge; what is shown of it.
async fn set(house: &House, wish: &Value) -> Value {
    let mut wish = wish.clone();
    wish["secret"] = SECRET.into();
    wish["branch"] = "live".into();
    let answer = follow(house, &wish).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 200, "{text}");
    let shown: Value = serde_json::from_str(&text).unwrap();
    for key in ["deployKey", "hostKey"] {
        assert_eq!(shown[key], house.read("/1.0/forges/shop").await[key]);
    }
    shown
}

/// A forge's news of a commit.
async fn tell(house: &House, commit: &str) {
    let body = push("live", commit);
    let id = format!("of-{commit}");
    let (status, said) = deliver(house, "shop", &id, "push", &body, &signature(SECRET, &body)).await;
    assert_eq!(status, 200, "{said}");
}

/// Tells of a commit that is not deployed; why not.
async fn refused(house: &House, commit: &str) -> String {
    let before = failures(house, "shop").await.len();
    tell(house, commit).await;
    let problem = until("the refusal is shown", seconds(120), async || {
        let forge = house.read("/1.0/forges/shop").await;
        let problem = forge["problem"].as_str().unwrap().to_owned();
        (forge["commit"] == commit && !problem.is_empty()).then_some(problem)
    })
    .await;
    let told = failures(house, "shop").await;
    assert_eq!(told.len(), before + 1, "{told:?}");
    assert_eq!(told[0]["Error"], problem.as_str());
    problem
}

async fn answers(house: &House, text: &str) {
    until(&format!("the app says {text}"), seconds(90), async || {
        (house.visit("shop", "/").await == (200, format!("{text} -"))).then_some(())
    })
    .await;
    until("no event runs", seconds(60), async || {
        let running = house.read("/1.1/events?running=true").await;
        running.as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
}

/// A way to a server that can be blocked in the middle of what the server says.
struct Gate {
    address: String,
    /// Bytes that one connection lets through.
    room: Arc<AtomicUsize>,
    /// Connections that stand still.
    still: Arc<AtomicUsize>,
}

impl Gate {
    async fn before(server: &str) -> Self {
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
                tokio::spawn(pass(near, far, gate.clone()));
            }
        });
        Self { address, room, still }
    }
}

async fn pass(near: TcpStream, far: TcpStream, (room, still): (Arc<AtomicUsize>, Arc<AtomicUsize>)) {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let asking = tokio::spawn(async move {
        // Until either side is gone.
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
async fn a_forge_is_read_with_the_deploy_key_and_known_by_its_host_key() {
    let mut house = House::start().await;
    for app in ["shop", "mirror", "cart"] {
        house.create_app(app).await;
    }
    let origin = Origin::new(&house, "mirror");
    follow_none(&house).await;
    let gate = Gate::before(&house.running().ssh).await;
    let url = format!("ssh://git@{}/mirror.git", gate.address);
    for bad in [
        json!({ "url": "ssh://-oProxyCommand=id/mirror.git" }),
        json!({ "url": format!("ssh://git@{}/'; id; '", gate.address) }),
        json!({ "url": "git@host:--upload-pack=id" }),
        json!({ "url": url, "password": "correct-horse" }),
        json!({ "url": url, "host_key": "MD5:00:11" }),
        json!({ "url": "https://example.com/x.git", "host_key": house.running().host_key }),
    ] {
        assert_eq!(follow(&house, &bad).await.status(), 400, "{bad}");
    }

    // One key for the app's forge, whatever else is set anew.
    let shown = set(&house, &json!({ "url": url })).await;
    let key = shown["deployKey"].as_str().unwrap().to_owned();
    assert!(
        key.starts_with("ssh-ed25519 AAAA") && key.ends_with(" tancho-shop"),
        "{key}"
    );
    assert_eq!(shown["hostKey"], "");
    assert_eq!(
        set(&house, &json!({ "url": url })).await["deployKey"],
        key.as_str()
    );

    // It is not let in yet; whom it has met stays known.
    let commit = origin.push(&Source::web("one"), "The first");
    let why = refused(&house, &commit).await;
    assert!(why.contains("does not let us in") && why.contains(&key), "{why}");
    let right = house.running().host_key.clone();
    assert_eq!(
        set(&house, &json!({ "url": url })).await["hostKey"],
        right.as_str()
    );
    add_key(&house, &key).await;
    // What came to nothing may be sent again, as a forge does when it is told to.
    tell(&house, &commit).await;
    answers(&house, "one").await;
    let commit = origin.push(&Source::web("two"), "The second");
    tell(&house, &commit).await;
    answers(&house, "two").await;
    assert_eq!(deploys(&house, "shop").await[0]["Commit"], commit.as_str());

    // Another host key.
    let other = format!("SHA256:{}", "A".repeat(43));
    set(&house, &json!({ "url": url, "host_key": other })).await;
    let commit = origin.push(&Source::web("three"), "The third");
    let why = refused(&house, &commit).await;
    for part in [&right, &other, "`host_key`"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // Killed while the forge sends.
    set(&house, &json!({ "url": url, "host_key": right })).await;
    let noise: String = (0..60_000).map(|n| format!("{:x}", n * 7919 % 65_521)).collect();
    let commit = origin.push(&Source::web("four").with("noise", &noise), "The fourth");
    gate.room.store(20_000, Ordering::SeqCst);
    tell(&house, &commit).await;
    until("the forge sends", seconds(60), async || {
        (gate.still.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
    let (api, ssh) = (house.running().api.clone(), house.running().ssh.clone());
    house.kill();
    gate.room.store(usize::MAX, Ordering::SeqCst);
    // The forge, which is this server, stays where it is.
    house.set("TANCHO_SSH_LISTEN", &ssh);
    house.serve_at(&api);
    answers(&house, "four").await;
    assert_eq!(deploys(&house, "shop").await.len(), 3);
    assert_eq!(failures(&house, "shop").await.len(), 2);

    // What the forge says is passed on, once no other try has helped.
    let told = until("the other app's refusal", seconds(150), async || {
        failures(&house, "cart").await.first().cloned()
    })
    .await;
    let why = told["Error"].as_str().unwrap();
    assert!(
        why.contains("The forge says: ") && why.contains("no such repository"),
        "{why}"
    );
}

async fn add_key(house: &House, key: &str) {
    let request = house.by(Method::POST, "/users/keys");
    let answer = request.body(json!({ "key": key }).to_string()).send().await;
    assert_eq!(answer.unwrap().status(), 200);
}

/// Lets `cart` follow a repository that is not there, and tells of a commit of it.
async fn follow_none(house: &House) {
    let url = format!("ssh://git@{}/none.git", house.running().ssh);
    let wish = json!({ "url": url, "secret": SECRET });
    let answer = house.by(Method::PUT, "/1.0/forges/cart").json(&wish).send().await;
    let shown: Value = answer.unwrap().json().await.unwrap();
    add_key(house, shown["deployKey"].as_str().unwrap()).await;
    let body = push("main", &"a1".repeat(20));
    let (status, said) = deliver(house, "cart", "none", "push", &body, &signature(SECRET, &body)).await;
    assert_eq!(status, 200, "{said}");
}

/// A real `sshd` that lets one key in, as who runs the tests.
struct Sshd {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Sshd {
    const PROGRAM: &str = "/usr/sbin/sshd";

    /// Whether this machine has one; else the test is skipped aloud.
    fn is_there() -> bool {
        let there = Path::new(Self::PROGRAM).exists();
        if !there {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // Not by a macro: those are captured.
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

    fn take_another_key(&mut self) {
        self.stop();
        self.child = Self::run(&self.folder);
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn let_in(&self, key: &str) {
        fs::write(self.folder.join("authorized"), format!("{key}\n")).unwrap();
    }

    /// Its host key as `known_hosts` has it.
    fn known_as(&self) -> String {
        let key = fs::read_to_string(self.folder.join("host.pub")).unwrap();
        format!("[127.0.0.1]:{} {key}", self.port)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_behind_a_real_sshd_is_fetched_from_until_its_host_key_changes() {
    if !Sshd::is_there() {
        return;
    }
    let house = House::with(&[("TANCHO_GIT_MAX_REPOSITORY_BYTES", "3M")]).await;
    house.create_app("shop").await;
    let mut sshd = Sshd::start(house.root.join("sshd"));
    let bare = house.root.join("shop.git");
    let made = Command::new("git")
        .args(["init", "--quiet", "--bare"])
        .arg(&bare)
        .status();
    assert!(made.unwrap().success());
    let origin = Origin::pushing_to(&house, bare.to_str().unwrap());
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .unwrap()
        .unwrap()
        .name;
    let url = format!("ssh://{user}@127.0.0.1:{}{}", sshd.port, bare.display());
    let shown = set(&house, &json!({ "url": url })).await;
    sshd.let_in("");
    let commit = origin.push(&Source::web("one"), "One");
    let why = refused(&house, &commit).await;
    assert!(why.contains("does not let us in"), "{why}");
    sshd.let_in(shown["deployKey"].as_str().unwrap());
    for text in ["two", "three"] {
        let commit = origin.push(&Source::web(text), text);
        tell(&house, &commit).await;
        answers(&house, text).await;
    }
    // More than there is room for leaves nothing, and keeps nothing else out.
    let noise = hex::encode(noise(4 << 20));
    let commit = origin.push(&Source::web("four").with("noise", &noise), "Four");
    let why = refused(&house, &commit).await;
    assert!(why.contains("larger than the 3145728 bytes"), "{why}");
    let left = names(&repository(&house).join("objects/pack"));
    assert!(left.iter().all(|name| name.starts_with("pack-")), "{left:?}");
    origin.git(&["reset", "--quiet", "--hard", "HEAD~"]);
    let commit = origin.push(&Source::web("small"), "Small");
    tell(&house, &commit).await;
    answers(&house, "small").await;

    sshd.take_another_key();
    let commit = origin.push(&Source::web("five"), "Five");
    let why = refused(&house, &commit).await;
    assert!(why.contains("somebody else may be answering"), "{why}");
    set(&house, &json!({ "url": url, "host_key": sshd.known_as() })).await;
    let commit = origin.push(&Source::web("six"), "Six");
    tell(&house, &commit).await;
    answers(&house, "six").await;
    assert_eq!(deploys(&house, "shop").await.len(), 4);
}
