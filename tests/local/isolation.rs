//! Hostile units, run for real; and well-behaved ones, which the sandbox must not disturb.

use std::os::unix::fs::PermissionsExt;

use super::*;

pub(super) const USER: u32 = 20_001;
pub(super) const OTHER: u32 = 20_002;

pub(super) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Returns this uid if the test may change users.
pub(super) fn own_uid(uid: u32) -> Option<u32> {
    is_root().then_some(uid)
}

/// Returns whether the kernel has a feature; if not, the test is skipped with a message. `docs/isolation.md`
/// lists the kernel versions.
pub(super) fn kernel_has(part: &str) -> bool {
    let all = SandboxPolicy {
        landlock: true,
        seccomp: true,
        ..SandboxPolicy::default()
    };
    require_feature(part, !all.list_unsupported().contains(&part))
}

pub(super) fn kernel_since(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).filter_map(|part| part.parse().ok());
    (parts.next(), parts.next()) >= (Some(major), Some(minor))
}

/// A fixture with an operator's settings: units write only to their homes, and the root belongs to Tancho.
pub(super) fn isolated_fixture(change: impl FnOnce(&mut LocalRunnerConfig)) -> LocalFixture {
    let fixture = LocalFixture::with(|settings| {
        settings.limits.confinement.writable.clear();
        change(settings);
    });
    fs::create_dir(fixture.root.join("app")).unwrap();
    make_accessible(&fixture.root.join("app"), 0o755);
    fixture
}

pub(super) fn make_accessible(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A unit that runs a Python program from its version's folder.
pub(super) fn python(fixture: &LocalFixture, unit: &str, program: &str) -> UnitSpec {
    let file = fixture.root.join("app").join(format!("{unit}.py"));
    fs::write(&file, program).unwrap();
    make_accessible(&file, 0o644);
    let mut spec = fixture.spec(unit, &format!("exec /usr/bin/python3 {unit}.py"));
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    spec
}

/// Returns all lines of a unit, once it has printed `end`.
pub(super) async fn unit_output(fixture: &LocalFixture, spec: &UnitSpec) -> Vec<String> {
    fixture.wait_for_log_line(spec, "end").await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 10_000)
        .await
        .unwrap();
    lines.into_iter().map(|line| line.message).collect()
}

/// The pid of another unit, and files of other owners, all of them readable by their permissions, so that only
/// the sandbox protects them.
async fn foreign_files(fixture: &LocalFixture) -> (String, Vec<PathBuf>) {
    let data = fixture.root.join("data");
    fs::create_dir_all(data.join("postgres")).unwrap();
    make_accessible(&data, 0o755);
    let outside = std::env::temp_dir().join(format!("tancho-secret-{}", uuid::Uuid::new_v4()));
    let mut files = vec![data.join("seal.keys"), data.join("postgres/PG_VERSION"), outside];
    for file in &files {
        fs::write(file, "secret").unwrap();
        make_accessible(file, 0o644);
    }
    let mut other = fixture.spec(
        "other",
        "umask 000; chmod 777 $HOME; echo secret > $HOME/file; echo end; exec sleep 1000",
    );
    fixture.place(&mut other, fixture.root.join("app"), own_uid(OTHER));
    set_env(&mut other, "PASSWORD", "secret");
    fixture.start(&other).await;
    unit_output(fixture, &other).await;
    files.push(fixture.unit(&other.unit).join("home/file"));
    files.push(fixture.unit(&other.unit).join("state.json"));
    (fixture.pid(&other.unit), files)
}

/// Tries to read each file, to access the other unit's process, and to write to folders of others.
fn attack_script(pid: &str, files: &[PathBuf]) -> String {
    format!(
        r#"
import os, signal
def attempt(what, act):
    try:
        act()
        print("DONE", what, flush=True)
    except OSError as error:
        print("refused", what, error.errno, flush=True)
for path in {files:?}:
    attempt("read " + path, lambda: open(path).read())
pid = {pid}
for name in ["environ", "mem", "maps", "fd/0"]:
    attempt("read " + name, lambda: open(f"/proc/{{pid}}/{{name}}", "rb").read(1))
attempt("signal", lambda: os.kill(pid, signal.SIGCONT))
for folder in ["/tmp", "/var/tmp", os.getcwd(), "/etc", "/usr/local/bin", os.environ["HOME"] + "/.."]:
    attempt("write " + folder, lambda: open(folder + "/tancho-attacker", "w"))
for folder in ["/root", "/home", "/var/log", "/tmp"]:
    attempt("list " + folder, lambda: os.listdir(folder))
attempt("overwrite", lambda: open(__file__, "a"))
open(os.environ["HOME"] + "/mine", "w").write("x")
open("/etc/passwd").read(), open(__file__).read(), open("/dev/urandom", "rb").read(1)
open("/dev/null", "w").write("x")
print("end", flush=True)
signal.pause()
"#,
        files = files.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(),
    )
}

#[tokio::test]
async fn hostile_unit_accesses_nothing_of_tancho_or_other_apps() {
    if !kernel_has("Landlock") {
        return;
    }
    let fixture = isolated_fixture(|_| {});
    let (pid, files) = foreign_files(&fixture).await;
    let spec = python(&fixture, "attacker", &attack_script(&pid, &files));
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    let done: Vec<_> = lines.iter().filter(|line| line.starts_with("DONE")).collect();
    assert!(done.is_empty(), "{lines:#?}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("refused")).count(),
        files.len() + 16
    );
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn hostile_unit_with_shared_uid_accesses_nothing() {
    if !kernel_has("Landlock") {
        return;
    }
    // As on a host where Tancho is not root: one unprivileged user for all.
    let fixture = isolated_fixture(|settings| settings.limits.confinement.shared_user = true);
    let (_, files) = foreign_files(&fixture).await;
    let mut neighbour = fixture.spec("neighbour", "echo end; exec sleep 1000");
    fixture.place(&mut neighbour, fixture.root.join("app"), own_uid(USER));
    fixture.start(&neighbour).await;
    unit_output(&fixture, &neighbour).await;
    let pid = fixture.pid(&neighbour.unit);
    let spec = python(&fixture, "attacker", &attack_script(&pid, &files));
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    let done = |line: &&String| line.starts_with("DONE") && (kernel_since(6, 12) || *line != "DONE signal");
    assert_eq!(lines.iter().filter(done).count(), 0, "{lines:#?}");
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn isolation_disabled_by_the_operator_is_off() {
    let fixture = isolated_fixture(|settings| {
        settings.limits.confinement.landlock = false;
        settings.limits.confinement.seccomp = false;
    });
    let (pid, files) = foreign_files(&fixture).await;
    let spec = python(&fixture, "attacker", &attack_script(&pid, &files));
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    // Permissions alone do not protect the files: so it is Landlock that the other tests check.
    for file in &files[..4] {
        let line = format!("DONE read {}", file.display());
        assert!(lines.contains(&line), "{lines:#?}");
    }
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn folder_opened_by_the_operator_is_writable() {
    let fixture = isolated_fixture(|_| {});
    let shared = fixture.root.join("shared");
    fs::create_dir(&shared).unwrap();
    make_accessible(&shared, 0o777);
    let mut settings = settings(&fixture.root, &fixture.folders);
    settings.limits.confinement.writable = vec![shared.clone()];
    let local = LocalRunner::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap();
    let mut spec = fixture.spec("sharer", &format!("echo x > {}/file; echo end", shared.display()));
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    local.ensure_unit(&spec).await.unwrap();
    unit_output(&fixture, &spec).await;
    assert!(shared.join("file").exists());
}

#[tokio::test]
async fn system_calls_that_no_app_needs_are_refused() {
    if !kernel_has("seccomp") {
        return;
    }
    let fixture = isolated_fixture(|_| {});
    let program = r#"
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
PERM = errno.EPERM
# Numbers of x86_64 and aarch64.
calls = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "ptrace": (101, 117), "process_vm_readv": (310, 270), "init_module": (175, 105),
    "kexec_load": (246, 104), "bpf": (321, 280), "perf_event_open": (298, 241), "reboot": (169, 142),
    "swapon": (167, 224), "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "open_by_handle_at": (304, 265), "fsopen": (430, 430), "open_tree": (428, 428),
    "syslog": (103, 116), "settimeofday": (164, 170), "sethostname": (170, 161),
}
column = 1 if platform.machine() == "aarch64" else 0
for name, numbers in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(numbers[column], 0, 0, 0, 0, 0)
    print(name, "refused" if (result, ctypes.get_errno()) == (-1, PERM) else f"PASSED {result} {ctypes.get_errno()}")
result = libc.syscall(56 if column == 0 else 220, 0x10000000 | 17, 0, 0, 0, 0)
print("clone(NEWUSER)", "refused" if (result, ctypes.get_errno()) == (-1, PERM) else "PASSED")
result = libc.syscall(435, 0, 0)
print("clone3", "refused" if (result, ctypes.get_errno()) == (-1, errno.ENOSYS) else "PASSED")
for family, kind, protocol in [(17, socket.SOCK_RAW, 0), (38, socket.SOCK_SEQPACKET, 0), (40, socket.SOCK_STREAM, 0), (16, socket.SOCK_RAW, 9), (16, socket.SOCK_RAW, 12)]:
    try:
        socket.socket(family, kind, protocol)
        print("socket", family, "PASSED")
    except OSError as error:
        print("socket", family, protocol, "refused" if error.errno == errno.EAFNOSUPPORT else f"PASSED {error}")
for act in [lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.chown(os.environ["HOME"], 0, 0)]:
    try:
        act()
        print("PASSED as", os.getuid())
    except OSError as error:
        # In a user namespace the number of root stands for nobody.
        print("refused" if error.errno in [PERM, errno.EINVAL] else f"PASSED {error}")
socket.socket(16, socket.SOCK_RAW, 0)
socket.if_nameindex()
print("end", flush=True)
"#;
    let mut spec = python(&fixture, "caller", program);
    spec.command.push_str("; sleep 1000");
    // Without a user of its own it has Tancho's privileges: the calls are refused all the same.
    if !is_root() {
        set_user(&mut spec, None);
    }
    fixture.local.ensure_unit(&spec).await.unwrap();
    let lines = unit_output(&fixture, &spec).await;
    assert!(lines.len() > 30, "{lines:#?}");
    let passed = |line: &&String| line.contains("PASSED") && (is_root() || !line.starts_with("PASSED as"));
    assert_eq!(lines.iter().filter(passed).count(), 0, "{lines:#?}");
}

#[tokio::test]
async fn setuid_program_gives_no_privileges() {
    let fixture = isolated_fixture(|_| {});
    let mut spec = fixture.spec(
        "climber",
        "cp /usr/bin/id $HOME/id; chmod 6755 $HOME/id; $HOME/id -u; echo end; exec sleep 1000",
    );
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    fixture.start(&spec).await;
    unit_output(&fixture, &spec).await;
    // As if root had carelessly taken ownership of it.
    let id = fixture.unit(&spec.unit).join("home/id");
    if is_root() {
        std::os::unix::fs::chown(&id, Some(0), Some(0)).unwrap();
        make_accessible(&id, 0o6755);
    }
    let request = ExecRequest::for_argv(vec![id.display().to_string(), "-u".into()]);
    let mut session = fixture.local.exec_in_unit(&spec.unit, &request).await.unwrap();
    let mut said = String::new();
    session.output.read_to_string(&mut said).await.unwrap();
    assert_eq!(said.trim(), user_of(&spec).to_string());
}

#[tokio::test]
async fn fork_bomb_is_stopped_by_the_process_limit() {
    let program = r#"
import os, signal, threading
count = 0
try:
    while count < 5000:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError as error:
    print("forks", count, error.errno, flush=True)
print("end", flush=True)
signal.pause()
"#;
    let small = |settings: &mut LocalRunnerConfig| settings.limits.processes = 40;
    let mut fixtures = vec![(isolated_fixture(small), 40)];
    if is_root() {
        // Where no cgroup counts processes, the kernel counts those of the user.
        let without = isolated_fixture(|settings| {
            small(settings);
            settings.cgroup = Some("/nonexistent".into());
        });
        fixtures.push((without, 160));
    }
    for (fixture, most) in fixtures {
        let name = format!("bomb-{}", uuid::Uuid::new_v4().simple());
        let mut spec = python(&fixture, &name, program);
        // A user of its own, so that other processes do not count.
        set_user(&mut spec, own_uid(20_100 + most));
        fixture.start(&spec).await;
        let has_pids = fixture.state(&spec.unit)["more_cgroups"]
            .to_string()
            .contains("pids");
        if !require_feature("cgroup pids or root", has_pids || is_root()) {
            continue;
        }
        let lines = unit_output(&fixture, &spec).await;
        let forks: u32 = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            lines[0].ends_with(" 11") && forks < most && forks > most / 2,
            "{lines:?}"
        );
        // The unit is removed as reliably as any other.
        fixture.local.remove_unit(&spec.unit).await.unwrap();
        let left = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&name) && is_alive(&entry.file_name().to_string_lossy())
        });
        assert_eq!(left.count(), 0);
    }
}

#[tokio::test]
async fn open_files_are_limited() {
    let fixture = isolated_fixture(|settings| settings.limits.open_files = 100);
    let program = r#"
import os, resource, signal
try:
    resource.setrlimit(resource.RLIMIT_NOFILE, (10_000, 10_000))
    print("RAISED")
except (ValueError, OSError):
    pass
files = []
try:
    while len(files) < 5000:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    count = len(files)
    os.close(files.pop())
    print("files", count, error.errno, flush=True)
print("end", flush=True)
signal.pause()
"#;
    let spec = python(&fixture, "opener", program);
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    let files: u32 = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(
        lines[0].ends_with(" 24") && (90..100).contains(&files),
        "{lines:?}"
    );
}

#[tokio::test]
async fn unit_over_its_memory_limit_restarts_with_growing_pauses() {
    let fixture = isolated_fixture(|_| {});
    let mut spec = python(&fixture, "hungry", "x = bytearray(300 << 20); print(len(x))");
    spec.memory_bytes = 64 << 20;
    fixture.local.ensure_unit(&spec).await.unwrap();
    let report = wait_for_report(&*fixture.local, &spec.unit, "started again twice", |r| {
        r.restarts >= 2
    })
    .await;
    let (lines, _) = fixture
        .local
        .read_log(&spec.unit, LogPosition::START, 100)
        .await
        .unwrap();
    let pauses: Vec<_> = lines
        .iter()
        .filter_map(|line| line.message.split_once("starting again in "))
        .map(|(_, pause)| pause.to_owned())
        .collect();
    assert_eq!(pauses[..2], ["0.5 s", "1.0 s"], "{lines:#?} {report:?}");
    if require_feature("cgroup", fixture.state(&spec.unit)["cgroup"].is_string()) {
        assert!(
            lines
                .iter()
                .any(|l| l.message.contains("killed: over its memory limit of 64M")),
            "{lines:#?}"
        );
    }
    fixture.local.remove_unit(&spec.unit).await.unwrap();
}

#[tokio::test]
async fn one_file_cannot_be_larger_than_the_scratch_folder() {
    let fixture = isolated_fixture(|settings| settings.limits.scratch_bytes = 4 << 20);
    let program = r#"
import os, signal
file = open(os.environ["HOME"] + "/large", "wb", buffering=0)
try:
    while True:
        file.write(b"x" * (1 << 20))
except OSError as error:
    print("wrote", file.tell(), error.errno, flush=True)
print("end", flush=True)
signal.pause()
"#;
    let spec = python(&fixture, "large", program);
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    assert_eq!(lines[0], format!("wrote {} 27", 4 << 20), "{lines:?}");
}

#[tokio::test]
async fn unit_over_its_scratch_limit_is_killed_and_restarts_with_an_empty_home() {
    let fixture = isolated_fixture(|settings| settings.limits.scratch_bytes = 4 << 20);
    let plain = r#"
import os, signal
home = os.environ["HOME"]
print("found", len(os.listdir(home)), flush=True)
for n in range(10):
    with open(f"{home}/{n}", "wb") as file:
        file.write(b"x" * (1 << 20))
signal.pause()
"#;
    // Deleted but still open.
    let sly = plain
        .replace(
            "with open",
            "files = globals().setdefault('files', []); files.append(open",
        )
        .replace(" as file:", "); os.unlink(f\"{home}/{n}\")")
        .replace("        file.write", "    files[-1].write")
        .replace("(1 << 20))\nsignal", "(1 << 20)); files[-1].flush()\nsignal");
    for (name, program) in [("filler", plain), ("sly", &sly)] {
        let spec = python(&fixture, name, program);
        fixture.start(&spec).await;
        let report = wait_for_report(&*fixture.local, &spec.unit, "ended", |r| {
            r.state == UnitState::Error
        })
        .await;
        assert_eq!(
            report.reason.as_deref(),
            Some("killed: its scratch folder exceeded 4M and was emptied"),
            "{name}"
        );
        wait_for_report(&*fixture.local, &spec.unit, "started again", |r| {
            r.state == UnitState::Started && r.restarts > 0
        })
        .await;
        let (lines, _) = fixture
            .local
            .read_log(&spec.unit, LogPosition::START, 100)
            .await
            .unwrap();
        assert!(
            !lines.iter().any(|l| l.message.starts_with("found 1")),
            "{lines:#?}"
        );
        fixture.local.remove_unit(&spec.unit).await.unwrap();
    }
}

#[tokio::test]
async fn cpu_share_of_a_unit_is_that_of_its_plan() {
    let fixture = isolated_fixture(|_| {});
    let mut spec = fixture.spec("share", "echo end; exec sleep 1000");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    spec.cpu_milli = 500;
    fixture.start(&spec).await;
    unit_output(&fixture, &spec).await;
    let state = fixture.state(&spec.unit);
    let groups = state["more_cgroups"].as_array().unwrap();
    let cgroups = groups
        .iter()
        .chain([&state["cgroup"]])
        .filter_map(|path| path.as_str());
    let cgroups: Vec<&str> = cgroups.collect();
    require_feature("cgroup", !cgroups.is_empty());
    for group in cgroups.into_iter().map(Path::new) {
        for (file, value) in [("cpu.shares", "512"), ("cpu.weight", "50"), ("pids.max", "1024")] {
            if let Ok(found) = fs::read_to_string(group.join(file)) {
                assert_eq!(found.trim(), value, "{file}");
            }
        }
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(
            members.lines().any(|pid| pid == fixture.pid(&spec.unit)),
            "{group:?}: {members}"
        );
    }
    fixture.local.remove_unit(&spec.unit).await.unwrap();
    for group in groups.iter().filter_map(|path| path.as_str()) {
        assert!(!Path::new(group).exists(), "{group}");
    }
}

/// Requests `/` from a unit's address; returns the whole response.
pub(super) async fn http_get(address: std::net::SocketAddr) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
            let mut answer = String::new();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
            if stream.read_to_string(&mut answer).await.is_ok() && !answer.is_empty() {
                return answer;
            }
        }
        assert!(Instant::now() < deadline, "no answer from {address}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn honest_python_and_node_programs_work() {
    let fixture = isolated_fixture(|_| {});
    let python_program = r#"
import asyncio, concurrent.futures, http.server, json, multiprocessing, os, socket, sqlite3, ssl, subprocess, tempfile, threading, uuid
def square(n):
    return n * n
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {}
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x"); file.flush()
            found["temporary"] = os.path.dirname(file.name) == os.environ["HOME"]
        db = sqlite3.connect(os.environ["HOME"] + "/db"); db.execute("create table if not exists t (x)"); db.commit()
        os.makedirs(os.environ["HOME"] + "/a/b", exist_ok=True)
        open(os.environ["HOME"] + "/a/one", "w").close()
        os.rename(os.environ["HOME"] + "/a/one", os.environ["HOME"] + "/a/b/two")
        found["child"] = subprocess.run(["/bin/sh", "-c", "cat /dev/fd/0 </dev/null; echo hi > /dev/stdout"], capture_output=True).stdout == b"hi\n"
        with multiprocessing.Pool(2) as pool:
            found["pool"] = pool.map(square, [1, 2, 3]) == [1, 4, 9]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found["threads"] = list(pool.map(square, [1, 2])) == [1, 4]
        found["names"] = len(socket.getaddrinfo("localhost", 80)) > 0
        found["loop"] = asyncio.run(asyncio.sleep(0, True))
        found["unix"] = socket.socketpair() is not None
        ssl.create_default_context(); uuid.uuid4(); os.cpu_count()
        body = json.dumps(found).encode()
        self.send_response(200); self.end_headers(); self.wfile.write(body)
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
"#;
    let spec = python(&fixture, "honest", python_program);
    let report = fixture.start(&spec).await;
    let answer = http_get(report.address.unwrap()).await;
    assert!(
        answer.contains("\"pool\": true") && !answer.contains("false"),
        "{answer}"
    );

    if !require_feature("node", Path::new("/usr/bin/node").exists()) {
        return;
    }
    let node_program = r#"
const http = require("http"), fs = require("fs"), os = require("os"), { Worker } = require("worker_threads"), { execFileSync } = require("child_process");
http.createServer(async (_, answer) => {
    const file = os.tmpdir() + "/x";
    await fs.promises.writeFile(file, "x");
    await fs.promises.readFile(file);
    const worked = await new Promise((done) => new Worker("require('worker_threads').parentPort.postMessage(7)", { eval: true }).on("message", done));
    execFileSync("/bin/true");
    answer.end(JSON.stringify([worked, os.cpus().length > 0, process.memoryUsage().rss > 0, Object.keys(os.networkInterfaces()).length > 0, require("crypto").randomUUID().length]));
}).listen(process.env.PORT, "127.0.0.1");
"#;
    fs::write(fixture.root.join("app/honest.js"), node_program).unwrap();
    make_accessible(&fixture.root.join("app/honest.js"), 0o644);
    let mut spec = fixture.spec("node", "exec /usr/bin/node honest.js");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    let report = fixture.start(&spec).await;
    let answer = http_get(report.address.unwrap()).await;
    assert!(answer.contains("[7,true,true,true,36]"), "{answer}");
}

/// Runs a test on a thread for which Landlock is unavailable, also in its child processes.
fn without_landlock<T: Send + 'static>(
    test: impl FnOnce(&tokio::runtime::Runtime) -> T + Send + 'static,
) -> T {
    let thread = std::thread::spawn(|| {
        let unknown = seccompiler::SeccompFilter::new(
            [(nix::libc::SYS_landlock_create_ruleset, Vec::new())].into(),
            seccompiler::SeccompAction::Allow,
            seccompiler::SeccompAction::Errno(nix::libc::ENOSYS.unsigned_abs()),
            std::env::consts::ARCH.try_into().unwrap(),
        );
        let program = seccompiler::BpfProgram::try_from(unknown.unwrap()).unwrap();
        seccompiler::apply_filter(&program).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        test(&runtime)
    });
    thread.join().unwrap()
}

#[test]
fn missing_landlock_is_reported_and_stops_no_unit() {
    if !kernel_has("seccomp") {
        return;
    }
    let asked = SandboxPolicy {
        landlock: true,
        ..SandboxPolicy::default()
    };
    let lines = without_landlock(move |runtime| {
        assert_eq!(asked.list_unsupported(), ["Landlock"]);
        runtime.block_on(async {
            let fixture = isolated_fixture(|_| {});
            let (_, files) = foreign_files(&fixture).await;
            let mut spec = fixture.spec(
                "plain",
                &format!("cat {}; echo; echo end; exec sleep 1000", files[0].display()),
            );
            fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
            fixture.start(&spec).await;
            let lines = unit_output(&fixture, &spec).await;
            let _ = fs::remove_file(&files[2]);
            lines
        })
    });
    assert_eq!(lines[0], "secret", "it ran without: {lines:?}");
}
