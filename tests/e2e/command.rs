//! The command line: signals, failed starts, two replicas, subcommands.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use nix::sys::signal::Signal;
use reqwest::Method;

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::test_instance::{
    EMAIL, PASSWORD, TestInstance, find_processes, get_through_router, seconds, wait_for,
};

/// Asserts that the error is one clear sentence, and no more.
fn assert_sentence(what: &str, status: Option<i32>, stderr: &str, words: &[&str]) {
    println!("{what}: {status:?} {stderr}");
    assert!(
        status.is_some_and(|status| status != 0),
        "{what}: {status:?} {stderr}"
    );
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    // Log lines may precede it.
    let last = lines.last().unwrap_or_else(|| panic!("{what}: no output"));
    assert!(
        last.starts_with("tancho: ") || last.starts_with("error: "),
        "{what}: {stderr}"
    );
    for word in words {
        assert!(last.contains(word), "{what}: {last:?} does not contain {word:?}");
    }
    for trace in ["panicked", "RUST_BACKTRACE", "stack backtrace"] {
        assert!(!stderr.contains(trace), "{what}: {stderr}");
    }
}

fn text(output: &Output) -> (Option<i32>, String, String) {
    let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), read(&output.stdout), read(&output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_keeps_apps_running_and_sigint_and_down_stop_them() {
    let mut tancho = TestInstance::start().await;
    assert_eq!(tancho.running().before.len(), 1, "{:?}", tancho.running().before);
    assert!(tancho.running().before[0].starts_with(&format!("tancho administrator email={EMAIL} ")));
    assert!(!tancho.running().before[0].contains(PASSWORD));
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("one").pack()).await;
    let pids = tancho.pids();
    // The router and the API finish requests in flight.
    let (http, router) = (tancho.http.clone(), tancho.running().router.clone());
    let slow = tokio::spawn(async move { get_through_router(&http, &router, "shop", "/slow/2").await });
    let log = tancho
        .request_as_admin(Method::GET, "/1.0/apps/shop/log?lines=10&follow=true")
        .send()
        .await
        .unwrap();
    wait_for("the request is in flight", seconds(5), async || {
        // An established connection to the unit, which listens on the port of its address.
        let units = tancho.units("shop").await;
        let port: u16 = units[0]["HostPort"].as_str().unwrap().parse().unwrap();
        let tcp = fs::read_to_string("/proc/net/tcp").unwrap();
        let wanted = format!(":{port:04X} 01 ");
        tcp.lines()
            .any(|line| {
                line.split_whitespace()
                    .skip(1)
                    .collect::<Vec<_>>()
                    .join(" ")
                    .contains(&wanted)
            })
            .then_some(())
    })
    .await;
    let program = tancho.program.as_mut().unwrap();
    program.signal(Signal::SIGTERM);
    assert_eq!(program.wait(seconds(20)), Some(0));
    assert_eq!(slow.await.unwrap(), (200, "one -".to_owned()));
    drop(log);
    assert_eq!(tancho.pids(), pids);
    assert!(!find_processes(&format!("{}/postgres", tancho.data.display())).is_empty());
    tancho.serve();
    assert_eq!(tancho.running().before, Vec::<String>::new());
    assert_eq!(tancho.pids(), pids);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    // `down` is refused while the server runs.
    let (status, _, stderr) = text(&tancho.run(&["down"]));
    assert_sentence("down while running", status, &stderr, &["data folder", "pid"]);
    assert_eq!(tancho.pids(), pids);
    let program = tancho.program.as_mut().unwrap();
    program.signal(Signal::SIGINT);
    assert_eq!(program.wait(seconds(30)), Some(0));
    let none = || find_processes(&tancho.data.display().to_string());
    assert_eq!(none(), []);
    tancho.serve();
    wait_for("the app answers again", seconds(20), async || {
        (tancho.get_app("shop", "/").await.0 == 200).then_some(())
    })
    .await;
    tancho.kill();
    let (status, stdout, stderr) = text(&tancho.run(&["down"]));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(
        stdout.contains("no units are running") && stdout.contains("no Postgres"),
        "{stdout}"
    );
    assert_eq!(find_processes(&tancho.data.display().to_string()), []);
    // A repeated `down` succeeds.
    assert_eq!(text(&tancho.run(&["down"])).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_start_prints_one_error_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let tancho = TestInstance::new_empty();
    let any = "127.0.0.1:0";
    let cases: [(&str, &[&str], &[&str]); 8] = [
        (
            "the API's port in use",
            &["--api", &address, "--router", any],
            &[&address, "in use"],
        ),
        (
            "the port of SSH in use",
            &["--api", any, "--router", any, "--ssh", &address],
            &[&address, "in use", "--ssh"],
        ),
        (
            "the router's port in use",
            &["--api", any, "--router", &address],
            &[&address, "in use"],
        ),
        (
            "no database",
            &[
                "--api",
                any,
                "--router",
                any,
                "--database-url",
                "postgres://u:hush@127.0.0.1:1/d",
            ],
            &["127.0.0.1:1", "Cannot reach the database", "refused"],
        ),
        (
            "no URL",
            &["--api", any, "--router", any, "--database-url", "nonsense"],
            &["database.url"],
        ),
        ("no address", &["--api", "here"], &["api.listen"]),
        ("no role", &["--roles", "cook"], &["cook"]),
        ("no option", &["--prot", "1"], &[]),
    ];
    for (what, arguments, words) in cases {
        let (status, stdout, stderr) = text(&tancho.run(arguments));
        assert!(!stdout.contains("ready"), "{what}: {stdout}");
        match what {
            "no option" => assert!(status != Some(0) && stderr.contains("--prot"), "{stderr}"),
            _ => assert_sentence(what, status, &stderr, words),
        }
        assert!(!stderr.contains("hush"), "{stderr}");
    }
    let file = tancho.root.join("tancho.toml");
    let config = file.to_str().unwrap();
    for (content, words) in [
        ("[router]\ndomian = \"x\"\n", ["router.domian", "domain"]),
        (
            "[api]\ndrain_seconds = \"soon\"\n",
            ["api.drain_seconds", "number"],
        ),
        ("[api\n", ["tancho.toml", "line 1"]),
    ] {
        fs::write(&file, content).unwrap();
        for command in ["serve", "check-config"] {
            let (status, _, stderr) = text(&tancho.run(&[command, "--config", config]));
            assert_sentence(&format!("{command} {content:?}"), status, &stderr, &words[..1]);
            assert!(stderr.contains(words[1]), "{stderr}");
        }
    }
    fs::write(&file, "[router]\ndomain = \"apps.example.com\"\n").unwrap();
    let (status, stdout, stderr) = text(&tancho.run(&["check-config", "--config", config]));
    assert_eq!(status, Some(0), "{stderr}");
    assert!(
        stdout.contains("apps.example.com") && !stdout.contains(PASSWORD),
        "{stdout}"
    );
    let mut tancho = tancho;
    tancho.set("TANCHO_ROUTER_DOMIAN", "x");
    let (status, _, stderr) = text(&tancho.run(&["check-config"]));
    assert_sentence("an unknown variable", status, &stderr, &["TANCHO_ROUTER_DOMIAN"]);
    tancho.env.retain(|(name, _)| name != "TANCHO_ROUTER_DOMIAN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_and_the_subcommands_share_one_database() {
    let mut one = TestInstance::new_empty();
    let mut two = TestInstance::new_empty();
    // Dropped before the folders of the instances, and after their programs.
    let cluster = PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", one.root.display())));
    let secret = one.root.join("password");
    fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let key = format!("1:{}", "5e".repeat(32));
    for tancho in [&mut one, &mut two] {
        tancho.env.retain(|(name, _)| name != "TANCHO_ADMIN_PASSWORD");
        tancho.set("TANCHO_ADMIN_PASSWORD_FILE", secret.to_str().unwrap());
        tancho.set("TANCHO_SECRETS_KEYS", &key);
        tancho.set("DATABASE_URL", &cluster.url("postgres"));
    }
    let serve = ["serve", "--api", "127.0.0.1:0", "--router", "127.0.0.1:0"];
    // Concurrently, on an empty database.
    let (first, second) = std::thread::scope(|scope| {
        let first = scope.spawn(|| one.try_start(&serve));
        let second = scope.spawn(|| two.try_start(&serve));
        (first.join().unwrap(), second.join().unwrap())
    });
    one.program = Some(first.unwrap());
    two.program = Some(second.unwrap());
    let made = one.running().before.len() + two.running().before.len();
    assert_eq!(made, 1, "{:?} {:?}", one.running().before, two.running().before);
    assert!(one.running().host_key.starts_with("SHA256:"));
    assert_eq!(one.running().host_key, two.running().host_key);
    one.login().await;
    one.team().await;
    two.token.clone_from(&one.token);
    two.create_app("shop").await;
    let source = AppSource::web("v1").hooks(&["echo in the build; sleep 1"]);
    let mut answer = one.begin_deploy("shop", &source.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    // The other replica streams its output, line by line, while it runs.
    wait_for("the second replica sees it run", seconds(20), async || {
        let seen = two.read_json(&format!("/1.1/events/{event}")).await;
        let said = seen["StructuredLog"].to_string().contains("in the build");
        (said && seen["Running"] == true).then_some(())
    })
    .await;
    two.wait_for_event_end(&event, seconds(30)).await;
    let mut all = String::new();
    while let Some(chunk) = answer.chunk().await.unwrap() {
        all.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(all.ends_with("\nOK\n"), "{all}");
    for tancho in [&one, &two] {
        assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 -".to_owned()));
    }
    // The other replica can change units that are not its own.
    two.set_env("shop", "GREETING", "hello").await;
    for tancho in [&one, &two] {
        assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 hello".to_owned()));
    }
    let (status, _, stderr) = text(&one.run(&["serve", "--api", "127.0.0.1:0", "--router", "127.0.0.1:0"]));
    assert_sentence("a folder in use", status, &stderr, &["data folder", "pid"]);
    // Subcommands beside running servers.
    let mut three = TestInstance::new_empty();
    let new = cluster.url("fresh");
    cluster.sql("postgres", "create database fresh").await;
    three.set("DATABASE_URL", &new);
    for _ in 0..2 {
        let (status, stdout, stderr) = text(&three.run(&["migrate"]));
        assert!(status == Some(0) && stdout.contains("up to date"), "{stderr}");
    }
    fs::write(&secret, "another-password\n").unwrap();
    let create = [
        "user",
        "create-admin",
        "bob@example.com",
        "--password-file",
        secret.to_str().unwrap(),
    ];
    let (status, stdout, stderr) = text(&one.run(&create));
    assert!(
        status == Some(0) && stdout.contains("bob@example.com"),
        "{stderr}"
    );
    let url = format!("{}/1.0/users/bob@example.com/tokens", two.running().api);
    let login = two
        .http
        .post(url)
        .form(&[("password", "another-password")])
        .send()
        .await
        .unwrap();
    assert_eq!(login.status(), 200);
    // A database of a newer release.
    let row = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
               values (9999, 'of the future', true, '\\x00', 1)";
    cluster.sql("fresh", row).await;
    for command in [&["migrate"][..], &serve[..]] {
        let (status, _, stderr) = text(&three.run(command));
        assert_sentence("a newer database", status, &stderr, &["9999", "newer"]);
    }
    drop((one, two, three));
    drop(cluster);
}
