//! Several replicas over one Postgres behind an nginx that shares the requests out.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::Value;

use crate::apps::Source;
use crate::cluster::Cluster;
use crate::house::{House, seconds, until, visit};
use crate::load::Load;
use crate::services::Slow;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port that stays free while a replica is restarted: below those that the system gives to who calls.
fn port() -> u16 {
    let base = 15_000 + u16::try_from(std::process::id() % 15_000).unwrap();
    loop {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An nginx before all replicas, gone with the value.
struct Nginx {
    child: Child,
    api: String,
    router: String,
}

impl Nginx {
    fn start(folder: &Path, apis: &[u16], routers: &[u16]) -> Self {
        let (api, router) = (port(), port());
        // One that is being restarted is asked again at once: else three restarts in ten seconds leave nobody.
        let servers = |ports: &[u16]| -> String {
            let lines = ports
                .iter()
                .map(|port| format!("server 127.0.0.1:{port} max_fails=0;"));
            lines.collect()
        };
        let here = folder.display();
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {here}/nginx-{name};\n"))
            .concat();
        let server = |port: u16, name: &str| {
            format!(
                "server {{ listen 127.0.0.1:{port}; location / {{
                     proxy_pass http://{name}; proxy_set_header Host $http_host;
                     proxy_buffering off; proxy_request_buffering off; client_max_body_size 0;
                 }} }}\n"
            )
        };
        let text = format!(
            "daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;
             events {{ worker_connections 1024; }}
             http {{ access_log off;
             {paths}
             upstream api {{ {} }}
             upstream router {{ {} }}
             {}{} }}\n",
            servers(apis),
            servers(routers),
            server(api, "api"),
            server(router, "router"),
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(folder.join("nginx.log")).unwrap();
        let child = Command::new("/usr/sbin/nginx")
            .args(["-e", "stderr", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the Debian package nginx-light");
        let url = |port| format!("http://127.0.0.1:{port}");
        Self {
            child,
            api: url(api),
            router: url(router),
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Both fail when it has ended, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One replica with its ports.
struct Replica {
    house: House,
    api: u16,
    router: u16,
}

impl Replica {
    fn new(url: &str, key: &str) -> Self {
        let mut house = House::empty();
        house.set("DATABASE_URL", url);
        house.set("TANCHO_SECRETS_KEYS", key);
        house.set("TANCHO_ROUTER_PUBLIC_PORT", "80");
        house.set("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "yes");
        let (api, router) = (port(), port());
        Self { house, api, router }
    }

    fn serve(&mut self) {
        let (api, router) = (
            format!("127.0.0.1:{}", self.api),
            format!("127.0.0.1:{}", self.router),
        );
        let program = self
            .house
            .try_start(&["serve", "--api", &api, "--router", &router]);
        self.house.program = Some(program.unwrap());
    }
}

/// Reads JSON through nginx.
async fn read(house: &House, nginx: &Nginx, path: &str) -> Value {
    let request = house
        .http
        .get(format!("{}{path}", nginx.api))
        .bearer_auth(&house.token);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200, "{path}");
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_serves_any_call_and_none_is_missed() {
    let folder = House::empty();
    let cluster = Cluster::start(std::path::PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut all: Vec<Replica> = (0..3)
        .map(|_| Replica::new(&cluster.url("postgres"), &key))
        .collect();
    // At the same moment, on an empty database: one migrates it, one makes the administrator.
    std::thread::scope(|scope| {
        for replica in &mut all {
            scope.spawn(|| replica.serve());
        }
    });
    let told: usize = all.iter().map(|one| one.house.running().before.len()).sum();
    assert_eq!(told, 1);
    let apis: Vec<u16> = all.iter().map(|one| one.api).collect();
    let routers: Vec<u16> = all.iter().map(|one| one.router).collect();
    let nginx = Nginx::start(&folder.root, &apis, &routers);
    until("nginx answers for the replicas", seconds(30), async || {
        let answer = folder.http.get(format!("{}/healthcheck/?check=all", nginx.api));
        let answer = answer.send().await.ok()?;
        (answer.status() == 200 && answer.text().await.ok()? == "WORKING").then_some(())
    })
    .await;
    all[0].house.login().await;
    let token = all[0].house.token.clone();
    for one in &mut all {
        one.house.token.clone_from(&token);
    }
    all[1].house.team().await;
    all[2].house.create_app("shop").await;

    // A deploy that runs on the first is followed through whichever nginx picks.
    let source = Source::web("v1").hooks(&["echo in the build; sleep 2"]);
    let mut answer = all[0].house.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    for one in &all[1..] {
        until("it is seen to run elsewhere", seconds(30), async || {
            let seen = one.house.read(&format!("/1.1/events/{event}")).await;
            seen["StructuredLog"]
                .to_string()
                .contains("in the build")
                .then_some(())
        })
        .await;
    }
    let mut text = String::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("\nOK\n"), "{text}");
    for _ in 0..6 {
        let said = visit(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
        let app = read(&all[0].house, &nginx, "/1.0/apps/shop").await;
        assert_eq!(app["name"], "shop");
    }

    // Each is restarted under load, and nobody notices.
    let apps = Load::start(nginx.router.clone(), Some("shop.localhost"), 30);
    let calls = Load::start(format!("{}/1.0/auth/scheme", nginx.api), None, 30);
    for one in &mut all {
        one.house.running().signal(Signal::SIGTERM);
        assert_eq!(one.house.program.as_mut().unwrap().wait(seconds(60)), Some(0));
        one.serve();
    }
    for load in [apps, calls] {
        // A quick restart is over before many have been sent.
        let enough = load.sent().max(60) + 20;
        until("more requests", seconds(30), async || {
            (load.sent() > enough).then_some(())
        })
        .await;
        load.end().await.assert_clean(60);
    }

    // The first dies in the middle of what it does, and another does it to its end.
    let slow = Slow::start();
    let manifest = [
        ("id", "store"),
        ("username", "store"),
        ("password", "canary-store"),
        ("team", "crew"),
        ("endpoint", &slow.url),
    ];
    let request = all[1].house.by(Method::POST, "/1.0/services").form(&manifest);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    slow.slow(30.0, 0.0).await;
    // Only the first can take it.
    for one in &all[1..] {
        one.house.running().signal(Signal::SIGSTOP);
    }
    crate::services::doomed(
        &all[0].house,
        Method::POST,
        "/1.0/services/store/instances",
        &[("name", "orders"), ("owner", "crew")],
    );
    slow.has("begun", "POST /resources").await;
    all[0].house.kill();
    slow.slow(0.0, 0.0).await;
    for one in &all[1..] {
        one.house.running().signal(Signal::SIGCONT);
    }
    let event = until("another has ended it", seconds(60), async || {
        let events = read(
            &all[1].house,
            &nginx,
            "/1.1/events?kindname=service-instance.create",
        )
        .await;
        (events[0]["Running"] == false).then(|| events[0].clone())
    })
    .await;
    println!("it ended with {:?}", event["Error"]);
    // Its units went on all along, and any other router knows them.
    for _ in 0..4 {
        let said = visit(&folder.http, &nginx.router, "shop", "/").await;
        assert_eq!(said, (200, "v1 -".to_owned()));
    }
    all[0].serve();
    drop(slow);
    drop(nginx);
    drop(all);
    drop(cluster);
    drop(folder);
}
