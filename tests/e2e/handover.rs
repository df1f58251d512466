//! `tancho upgrade`: a new process takes the place of the running one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;

use crate::apps::AppSource;
use crate::git_client::GitClient;
use crate::load::SteadyLoad;
use crate::test_instance::{BINARY, TestInstance, find_processes, seconds, wait_for};

/// Answers requests; after an upgrade of the protocol it returns lines in upper case. `/say/<word>` logs a word.
const ECHO: &str = r#"
import os, socketserver
class Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    def handle(self):
        for line in self.rfile:
            path, names = line.split()[1].decode(), set()
            for header in iter(lambda: self.rfile.readline().strip(), b""):
                names.add(header.split(b":")[0].lower())
            if b"upgrade" in names:
                head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
                self.wfile.write(head)
                for line in self.rfile:
                    self.wfile.write(line.upper())
                return
            if path.startswith("/say/"):
                print(path[5:], flush=True)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 128
    daemon_threads = True
print("listening", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"#;

/// A process that has taken over; it is stopped at the end.
struct Successor(i32);

impl Successor {
    /// Runs `tancho upgrade`, which must succeed.
    fn by_upgrade(tancho: &TestInstance) -> Self {
        let upgraded = tancho.run(&["upgrade"]);
        let said = String::from_utf8_lossy(&upgraded.stdout).into_owned();
        assert!(
            upgraded.status.success(),
            "{said} {}",
            String::from_utf8_lossy(&upgraded.stderr)
        );
        let pid = said.split("pid=").nth(1).and_then(|rest| rest.split(':').next());
        Self(pid.unwrap().parse().unwrap())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        // It may have exited.
        let _ = kill(Pid::from_raw(self.0), Signal::SIGTERM);
        let deadline = std::time::Instant::now() + seconds(60);
        while is_running(self.0) && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// True if a process runs; one that nobody has waited for does not, once its last thread has ended and with it its files
/// are closed.
fn is_running(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    match state.chars().next() {
        None => false,
        Some('Z') => threads > 1,
        Some(_) => true,
    }
}

/// Returns the pid that the data folder names as its owner.
fn owner(tancho: &TestInstance) -> i32 {
    let text = fs::read_to_string(tancho.data.join("lock")).unwrap();
    text.trim().parse().unwrap()
}

/// A connection of upgraded protocol to the app `shop`.
struct Tunnel(BufReader<TcpStream>);

impl Tunnel {
    fn open(router: &str) -> Self {
        let stream = TcpStream::connect(router.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(seconds(30))).unwrap();
        let mut tunnel = Self(BufReader::new(stream));
        let head =
            "GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        tunnel.0.get_mut().write_all(head.as_bytes()).unwrap();
        assert!(tunnel.read_line().contains(" 101 "));
        while tunnel.read_line() != "\r\n" {}
        tunnel
    }

    fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn assert_alive(&mut self) {
        self.0.get_mut().write_all(b"still there\n").unwrap();
        assert_eq!(self.read_line(), "STILL THERE\n");
    }
}

/// Follows the log of the app `shop`.
async fn follow_log(tancho: &TestInstance) -> reqwest::Response {
    let following = tancho.request_as_admin(Method::GET, "/1.0/apps/shop/log?lines=1&follow=1");
    let mut answer = following.send().await.unwrap().error_for_status().unwrap();
    read_until(&mut answer, "listening").await;
    answer
}

async fn read_until(answer: &mut reqwest::Response, word: &str) {
    let mut seen = String::new();
    while !seen.contains(word) {
        let chunk = tokio::time::timeout(seconds(30), answer.chunk()).await;
        let chunk = chunk.unwrap_or_else(|_| panic!("no {word} in {seen}")).unwrap();
        let chunk = chunk.unwrap_or_else(|| panic!("it ended without {word}: {seen}"));
        seen.push_str(&String::from_utf8_lossy(&chunk));
    }
}

async fn deploy_echo(tancho: &TestInstance) {
    tancho.create_app("shop").await;
    let source = AppSource::web("one").with("app.py", ECHO);
    tancho.deploy("shop", &source.pack()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upgrade_loses_no_request_no_stream_and_no_push() {
    let mut tancho = TestInstance::start().await;
    deploy_echo(&tancho).await;
    tancho.create_app("site").await;
    let units = tancho.pids();
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "site");
    let pushed = work.commit(
        &AppSource::web("pushed").hooks(&["echo in the build; sleep 3"]),
        "One",
    );
    let router = tancho.running().router.clone();
    let mut tunnels: Vec<Tunnel> = (0..20).map(|_| Tunnel::open(&router)).collect();
    let mut followers = Vec::new();
    for _ in 0..5 {
        followers.push(follow_log(&tancho).await);
    }
    let load = SteadyLoad::start(router.clone(), Some("shop.localhost"), 200);
    let api_load = SteadyLoad::start(format!("{}/healthcheck", tancho.running().api), None, 50);
    let (mut pusher, mut lines, mut said) = work.begin_push("main", "in the build");
    let old = owner(&tancho);
    let successor = Successor::by_upgrade(&tancho);
    assert_ne!(successor.0, old);
    assert_eq!((owner(&tancho), is_running(old)), (successor.0, true));
    // What was open goes on.
    lines.read_to_string(&mut said).unwrap();
    assert!(pusher.wait().unwrap().success(), "{said}");
    assert_eq!(work.remote_ref("refs/heads/main"), pushed);
    assert_eq!(tancho.get_app("site", "/").await, (200, "pushed -".to_owned()));
    assert_eq!(tancho.get_app("shop", "/say/afterwards").await.0, 200);
    for follower in &mut followers {
        read_until(follower, "afterwards").await;
    }
    tunnels.iter_mut().for_each(Tunnel::assert_alive);
    load.end().await.assert_clean(200);
    api_load.end().await.assert_clean(50);
    // What is new is served by the new process alone; the old one ends with its last client.
    let mut fresh = Tunnel::open(&router);
    drop((tunnels, followers));
    assert_eq!(tancho.program.as_mut().unwrap().wait(seconds(60)), Some(0));
    fresh.assert_alive();
    drop(fresh);
    for unit in units {
        assert!(tancho.pids().contains(&unit), "{unit:?} runs on");
    }
    tancho.deploy("shop", &AppSource::web("two").pack()).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    // Once more, from a process that was a successor itself.
    let second = Successor::by_upgrade(&tancho);
    wait_for("the end of the first successor", seconds(60), async || {
        (!is_running(successor.0)).then_some(())
    })
    .await;
    assert_eq!(owner(&tancho), second.0);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
}

/// Writes a program into the folder of an instance.
fn write_program(tancho: &TestInstance, name: &str, script: &str) -> PathBuf {
    let path = tancho.root.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Asks an instance to hand over to a program; returns the connection.
fn ask_for_upgrade(tancho: &TestInstance, program: &Path) -> BufReader<UnixStream> {
    let token = fs::read_to_string(tancho.data.join("handover.token")).unwrap();
    let mut stream = UnixStream::connect(tancho.data.join("handover.sock")).unwrap();
    stream.set_read_timeout(Some(seconds(60))).unwrap();
    writeln!(stream, "{{\"token\":\"{token}\"}}").unwrap();
    writeln!(
        stream,
        "{{\"upgrade\":{{\"program\":{:?}}}}}",
        program.display().to_string()
    )
    .unwrap();
    BufReader::new(stream)
}

fn read_answer(mut connection: BufReader<UnixStream>) -> String {
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn successor_that_fails_or_is_killed_changes_nothing() {
    let mut tancho = TestInstance::with(&[("TANCHO_UPGRADE_READY_SECONDS", "20")]).await;
    deploy_echo(&tancho).await;
    let router = tancho.running().router.clone();
    let (old, mut tunnel) = (owner(&tancho), Tunnel::open(&router));
    let load = SteadyLoad::start(router, Some("shop.localhost"), 100);
    for (name, script, reason) in [
        ("ends", "exit 3", "exit status: 3"),
        ("dies", "kill -9 $$", "signal: 9"),
        (
            "refuses",
            &format!("TANCHO_NO_SUCH=1 exec {BINARY} \"$@\""),
            "TANCHO_NO_SUCH",
        ),
        (
            "cannot-reach",
            &format!("DATABASE_URL=postgres://x@127.0.0.1:1/x exec {BINARY} \"$@\""),
            "database",
        ),
    ] {
        let answer = read_answer(ask_for_upgrade(&tancho, &write_program(&tancho, name, script)));
        assert!(
            answer.contains("refused") && answer.contains(reason),
            "{name}: {answer}"
        );
    }
    let answer = read_answer(ask_for_upgrade(&tancho, Path::new("/no/such/program")));
    assert!(answer.contains("cannot be started"), "{answer}");

    // It has the listeners, and waits for a database that never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let database = format!("postgres://x@{}/x", silent.local_addr().unwrap());
    let script = format!("DATABASE_URL={database} exec {BINARY} \"$@\"");
    let hanging = ask_for_upgrade(&tancho, &write_program(&tancho, "hangs", &script));
    let (waiting, _) = silent.accept().unwrap();
    // Meanwhile there is no second one.
    let second = tancho.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(
        !second.status.success() && said.contains("Another upgrade is under way"),
        "{said}"
    );
    let successors = find_processes(&database);
    assert_eq!(successors.len(), 1, "{successors:?}");
    kill(Pid::from_raw(successors[0].0), Signal::SIGKILL).unwrap();
    let answer = read_answer(hanging);
    assert!(answer.contains("ended before it was ready"), "{answer}");
    drop(waiting);

    assert_eq!(owner(&tancho), old);
    tunnel.assert_alive();
    load.end().await.assert_clean(100);
    tancho.deploy("shop", &AppSource::web("two").pack()).await;
    // What is no request is answered by nothing, and harms nobody.
    let mut stranger = UnixStream::connect(tancho.data.join("handover.sock")).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(stranger.read(&mut [0; 100]).unwrap(), 0);
    let mut stranger = UnixStream::connect(tancho.data.join("handover.sock")).unwrap();
    stranger
        .write_all(b"{\"token\":\"guessed\"}\n{\"upgrade\":{\"program\":\"/bin/true\"}}\n")
        .unwrap();
    let answer = read_answer(BufReader::new(stranger));
    assert!(answer.contains("The token is wrong"), "{answer}");
    let mode = fs::metadata(tancho.data.join("handover.token"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    if nix::unistd::geteuid().is_root() {
        let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
        let mut command = tancho.command(&["upgrade"]);
        let refused = command.uid(nobody.uid.as_raw()).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("as the user who runs Tancho"),
            "{said}"
        );
    }
    let successor = Successor::by_upgrade(&tancho);
    drop(tunnel);
    assert_eq!(tancho.program.as_mut().unwrap().wait(seconds(60)), Some(0));
    assert_eq!(owner(&tancho), successor.0);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signal_ends_a_process_that_was_replaced_and_leaves_the_apps() {
    let mut tancho = TestInstance::start().await;
    deploy_echo(&tancho).await;
    let _tunnel = Tunnel::open(&tancho.running().router.clone());
    let units = tancho.pids();
    let successor = Successor::by_upgrade(&tancho);
    // Ctrl-C stops units, but not those of another process.
    let old = tancho.program.as_mut().unwrap();
    old.signal(Signal::SIGINT);
    assert_eq!(old.wait(seconds(60)), Some(0));
    assert_eq!(tancho.pids(), units);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "hello".to_owned()));
    // Without a running Tancho there is nothing to upgrade, and with one nothing to start.
    let second = tancho.run(&["serve"]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("pid {}", successor.0)), "{said}");
    drop(successor);
    let none = tancho.run(&["upgrade"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(
        !none.status.success() && said.contains("No Tancho is running"),
        "{said}"
    );
}

/// Opens two sockets as systemd does, and becomes the program that follows.
const ACTIVATE: &str = "
import os, socket, sys
for at in (3, 4):
    held = socket.create_server(('127.0.0.1', 0))
    while held.fileno() < 10:
        held = socket.socket(fileno=os.dup(held.detach()))
    os.dup2(held.fileno(), at)
    print(held.getsockname()[1], file=open('ports', 'a'))
names = 'api:router'
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2', LISTEN_FDNAMES=names)
os.execv(sys.argv[1], sys.argv[1:])
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_of_systemd_are_used_and_it_is_told_of_each_successor() {
    let mut tancho = TestInstance::new_empty();
    let path = tancho.root.join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(seconds(60))).unwrap();
    tancho.set("NOTIFY_SOCKET", &path.display().to_string());
    tancho.launcher = ["/usr/bin/python3", "-c", ACTIVATE].map(str::to_owned).to_vec();
    tancho.serve();
    let receive = || {
        let mut text = [0; 200];
        let length = notified.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let old = tancho.running().pid();
    assert_eq!(receive(), format!("READY=1\nMAINPID={old}"));
    let ports = fs::read_to_string(tancho.root.join("ports")).unwrap();
    let urls = [&tancho.running().api, &tancho.running().router];
    let used: Vec<&str> = urls.iter().filter_map(|url| url.rsplit(':').next()).collect();
    assert_eq!(ports.lines().collect::<Vec<_>>(), used);
    tancho.login().await;
    let successor = Successor::by_upgrade(&tancho);
    assert_eq!(receive(), format!("READY=1\nMAINPID={}", successor.0));
    assert_eq!(tancho.program.as_mut().unwrap().wait(seconds(60)), Some(0));
    tancho.team().await;
}

#[test]
fn socket_that_belongs_to_no_listener_is_refused() {
    let tancho = TestInstance::new_empty();
    let script = ACTIVATE.replace("'api:router'", "'api:web.socket'");
    let refused = Command::new("/usr/bin/python3")
        .args([
            "-c",
            &script,
            BINARY,
            "serve",
            "--api",
            "127.0.0.1:0",
            "--data-dir",
        ])
        .arg(&tancho.data)
        .current_dir(&tancho.root)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("FileDescriptorName="),
        "{said}"
    );
}
