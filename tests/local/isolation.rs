//! Units that mean harm, run for real; and some that mean none, which must not notice.

use std::os::unix::fs::PermissionsExt;

use super::*;

const USER: u32 = 20_001;
const OTHER: u32 = 20_002;

fn is_root() -> bool {
    Uid::effective().is_root()
}

/// A user of its own, if we may give one.
fn user(uid: u32) -> Option<u32> {
    is_root().then_some(uid)
}

/// Whether the kernel can; what it cannot is not tested, aloud, and README says since when it can.
fn kernel_has(part: &str) -> bool {
    let all = Confinement {
        landlock: true,
        seccomp: true,
        ..Confinement::default()
    };
    has(part, !all.missing().contains(&part))
}

fn kernel_since(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split(['.', '-']).filter_map(|part| part.parse().ok());
    (parts.next(), parts.next()) >= (Some(major), Some(minor))
}

/// A site as an operator has it: units write their homes and nothing else, the site is Tancho's own.
fn house(change: impl FnOnce(&mut LocalSettings)) -> Site {
    let site = Site::with(|settings| {
        settings.bounds.confinement.writable.clear();
        change(settings);
    });
    fs::create_dir(site.root.join("app")).unwrap();
    open_up(&site.root.join("app"), 0o755);
    site
}

fn open_up(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A unit that runs a Python program from its version's folder.
fn python(site: &Site, unit: &str, program: &str) -> UnitSpec {
    let file = site.root.join("app").join(format!("{unit}.py"));
    fs::write(&file, program).unwrap();
    open_up(&file, 0o644);
    let mut spec = site.spec(unit, &format!("exec /usr/bin/python3 {unit}.py"));
    spec.dir = site.root.join("app");
    spec.user = user(USER);
    spec
}

/// Everything that a unit printed, once it has printed `end`.
async fn printed(site: &Site, spec: &UnitSpec) -> Vec<String> {
    site.said(spec, "end").await;
    let (lines, _) = site
        .local
        .read_log(&spec.unit, LogPosition::START, 10_000)
        .await
        .unwrap();
    lines.into_iter().map(|line| line.message).collect()
}

/// Things that are somebody else's, all of them open by their permissions: what keeps them is not that.
async fn treasures(site: &Site) -> (UnitReport, Vec<PathBuf>) {
    let data = site.root.join("data");
    fs::create_dir_all(data.join("postgres")).unwrap();
    open_up(&data, 0o755);
    let outside = std::env::temp_dir().join(format!("tancho-treasure-{}", uuid::Uuid::new_v4()));
    let mut files = vec![data.join("seal.keys"), data.join("postgres/PG_VERSION"), outside];
    for file in &files {
        fs::write(file, "secret").unwrap();
        open_up(file, 0o644);
    }
    let mut other = site.spec(
        "other",
        "umask 000; chmod 777 $HOME; echo secret > $HOME/file; echo end; exec sleep 1000",
    );
    other.dir = site.root.join("app");
    other.user = user(OTHER);
    set(&mut other, "PASSWORD", "secret");
    let report = site.start(&other).await;
    printed(site, &other).await;
    files.push(site.unit(&other.unit).join("home/file"));
    files.push(site.unit(&other.unit).join("state.json"));
    (report, files)
}

/// Tries each treasure, the neighbour's process, and places where nothing of it belongs.
fn burglar(report: &UnitReport, files: &[PathBuf]) -> String {
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
    attempt("write " + folder, lambda: open(folder + "/tancho-burglar", "w"))
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
        pid = report.pid.unwrap(),
    )
}

#[tokio::test]
async fn a_hostile_unit_reaches_nothing_of_tancho_or_of_another_app() {
    if !kernel_has("Landlock") {
        return;
    }
    let site = house(|_| {});
    let (report, files) = treasures(&site).await;
    let spec = python(&site, "burglar", &burglar(&report, &files));
    site.start(&spec).await;
    let lines = printed(&site, &spec).await;
    let done: Vec<_> = lines.iter().filter(|line| line.starts_with("DONE")).collect();
    assert!(done.is_empty(), "{lines:#?}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("refused")).count(),
        files.len() + 16
    );
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn nor_does_one_that_shares_its_user_with_all_others() {
    if !kernel_has("Landlock") {
        return;
    }
    // As where Tancho is not root: one user, without privileges, for all.
    let site = house(|settings| settings.bounds.confinement.shared_user = true);
    let (_, files) = treasures(&site).await;
    let mut neighbour = site.spec("neighbour", "echo end; exec sleep 1000");
    (neighbour.dir, neighbour.user) = (site.root.join("app"), user(USER));
    let report = site.start(&neighbour).await;
    printed(&site, &neighbour).await;
    let spec = python(&site, "burglar", &burglar(&report, &files));
    site.start(&spec).await;
    let lines = printed(&site, &spec).await;
    let done = |line: &&String| line.starts_with("DONE") && (kernel_since(6, 12) || *line != "DONE signal");
    assert_eq!(lines.iter().filter(done).count(), 0, "{lines:#?}");
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn what_the_operator_turns_off_is_off() {
    let site = house(|settings| {
        settings.bounds.confinement.landlock = false;
        settings.bounds.confinement.seccomp = false;
    });
    let (report, files) = treasures(&site).await;
    let spec = python(&site, "burglar", &burglar(&report, &files));
    site.start(&spec).await;
    let lines = printed(&site, &spec).await;
    // Permissions alone let it: so it is Landlock that the other tests see.
    for file in &files[..4] {
        let line = format!("DONE read {}", file.display());
        assert!(lines.contains(&line), "{lines:#?}");
    }
    let _ = fs::remove_file(&files[2]);
}

#[tokio::test]
async fn what_the_operator_opens_is_open() {
    let site = house(|_| {});
    let shared = site.root.join("shared");
    fs::create_dir(&shared).unwrap();
    open_up(&shared, 0o777);
    let mut settings = settings(site.root.join("units"));
    settings.bounds.confinement.writable = vec![shared.clone()];
    let local = Local::new(settings, &TaskTracker::new(), CancellationToken::new()).unwrap();
    let mut spec = site.spec("sharer", &format!("echo x > {}/file; echo end", shared.display()));
    (spec.dir, spec.user) = (site.root.join("app"), user(USER));
    local.ensure(&spec).await.unwrap();
    printed(&site, &spec).await;
    assert!(shared.join("file").exists());
}

#[tokio::test]
async fn calls_that_no_app_needs_are_refused() {
    if !kernel_has("seccomp") {
        return;
    }
    let site = house(|_| {});
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
    except PermissionError:
        print("refused")
socket.socket(16, socket.SOCK_RAW, 0)
socket.if_nameindex()
print("end", flush=True)
"#;
    let mut spec = python(&site, "caller", program);
    spec.command.push_str("; sleep 1000");
    // Without a user of its own its privileges are what Tancho has: the calls are refused all the same.
    if !is_root() {
        spec.user = None;
    }
    site.local.ensure(&spec).await.unwrap();
    let lines = printed(&site, &spec).await;
    assert!(lines.len() > 30, "{lines:#?}");
    let passed = |line: &&String| line.contains("PASSED") && (is_root() || !line.starts_with("PASSED as"));
    assert_eq!(lines.iter().filter(passed).count(), 0, "{lines:#?}");
}

#[tokio::test]
async fn a_program_that_would_give_privileges_gives_none() {
    let site = house(|_| {});
    let mut spec = site.spec(
        "climber",
        "cp /usr/bin/id $HOME/id; chmod 6755 $HOME/id; $HOME/id -u; echo end; exec sleep 1000",
    );
    (spec.dir, spec.user) = (site.root.join("app"), user(USER));
    site.start(&spec).await;
    printed(&site, &spec).await;
    // Made root's by somebody careless.
    let id = site.unit(&spec.unit).join("home/id");
    if is_root() {
        std::os::unix::fs::chown(&id, Some(0), Some(0)).unwrap();
        open_up(&id, 0o6755);
    }
    let request = ExecRequest {
        argv: vec![id.display().to_string(), "-u".into()],
        window: None,
    };
    let mut session = site.local.exec(&spec.unit, &request).await.unwrap();
    let mut said = String::new();
    session.output.read_to_string(&mut said).await.unwrap();
    assert_eq!(
        said.trim(),
        spec.user.unwrap_or(Uid::effective().as_raw()).to_string()
    );
}

#[tokio::test]
async fn a_fork_bomb_is_bounded() {
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
    let small = |settings: &mut LocalSettings| settings.bounds.processes = 40;
    let mut sites = vec![(house(small), 40)];
    if is_root() {
        // Where no cgroup counts, the kernel counts for the user.
        let without = house(|settings| {
            small(settings);
            settings.cgroup = Some("/nonexistent".into());
        });
        sites.push((without, 160));
    }
    for (site, most) in sites {
        let name = format!("bomb-{}", uuid::Uuid::new_v4().simple());
        let mut spec = python(&site, &name, program);
        // Nobody else's processes count.
        spec.user = user(20_100 + most);
        site.start(&spec).await;
        let has_pids = site.state(&spec.unit)["more_cgroups"]
            .to_string()
            .contains("pids");
        if !has("cgroup pids or root", has_pids || spec.user.is_some()) {
            continue;
        }
        let lines = printed(&site, &spec).await;
        let forks: u32 = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        assert!(
            lines[0].ends_with(" 11") && forks < most && forks > most / 2,
            "{lines:?}"
        );
        // Its end is no harder for that.
        site.local.remove(&spec.unit).await.unwrap();
        let left = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&name) && lives(&entry.file_name().to_string_lossy())
        });
        assert_eq!(left.count(), 0);
    }
}

#[tokio::test]
async fn open_files_are_bounded() {
    let site = house(|settings| settings.bounds.open_files = 100);
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
    let spec = python(&site, "opener", program);
    site.start(&spec).await;
    let lines = printed(&site, &spec).await;
    let files: u32 = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    assert!(
        lines[0].ends_with(" 24") && (90..100).contains(&files),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_unit_over_its_memory_limit_starts_again_ever_more_slowly() {
    let site = house(|_| {});
    let mut spec = python(&site, "hungry", "x = bytearray(300 << 20); print(len(x))");
    spec.memory_bytes = 64 << 20;
    site.local.ensure(&spec).await.unwrap();
    let report = until(&*site.local, &spec.unit, "started again twice", |r| {
        r.restarts >= 2
    })
    .await;
    let (lines, _) = site
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
    if has("cgroup", site.state(&spec.unit)["cgroup"].is_string()) {
        assert!(
            lines
                .iter()
                .any(|l| l.message.contains("killed: over its memory limit of 64M")),
            "{lines:#?}"
        );
    }
    site.local.remove(&spec.unit).await.unwrap();
}

#[tokio::test]
async fn one_file_cannot_be_larger_than_the_scratch_folder() {
    let site = house(|settings| settings.bounds.scratch_bytes = 4 << 20);
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
    let spec = python(&site, "large", program);
    site.start(&spec).await;
    let lines = printed(&site, &spec).await;
    assert_eq!(lines[0], format!("wrote {} 27", 4 << 20), "{lines:?}");
}

#[tokio::test]
async fn a_unit_that_fills_its_scratch_folder_is_ended_and_begins_with_an_empty_one() {
    let site = house(|settings| settings.bounds.scratch_bytes = 4 << 20);
    let plain = r#"
import os, signal
home = os.environ["HOME"]
print("found", len(os.listdir(home)), flush=True)
for n in range(10):
    with open(f"{home}/{n}", "wb") as file:
        file.write(b"x" * (1 << 20))
signal.pause()
"#;
    // Deleted and still open.
    let sly = plain
        .replace(
            "with open",
            "files = globals().setdefault('files', []); files.append(open",
        )
        .replace(" as file:", "); os.unlink(f\"{home}/{n}\")")
        .replace("        file.write", "    files[-1].write")
        .replace("(1 << 20))\nsignal", "(1 << 20)); files[-1].flush()\nsignal");
    for (name, program) in [("filler", plain), ("sly", &sly)] {
        let spec = python(&site, name, program);
        site.start(&spec).await;
        let report = until(&*site.local, &spec.unit, "ended", |r| r.state == UnitState::Error).await;
        assert_eq!(
            report.reason.as_deref(),
            Some("killed: its scratch files were more than 4M, and are removed"),
            "{name}"
        );
        until(&*site.local, &spec.unit, "started again", |r| {
            r.state == UnitState::Started && r.restarts > 0
        })
        .await;
        let (lines, _) = site
            .local
            .read_log(&spec.unit, LogPosition::START, 100)
            .await
            .unwrap();
        assert!(
            !lines.iter().any(|l| l.message.starts_with("found 1")),
            "{lines:#?}"
        );
        site.local.remove(&spec.unit).await.unwrap();
    }
}

#[tokio::test]
async fn a_units_share_of_the_processor_is_that_of_its_plan() {
    let site = house(|_| {});
    let mut spec = site.spec("share", "echo end; exec sleep 1000");
    (spec.dir, spec.user, spec.cpu_milli) = (site.root.join("app"), user(USER), 500);
    site.start(&spec).await;
    printed(&site, &spec).await;
    let state = site.state(&spec.unit);
    let groups = state["more_cgroups"].as_array().unwrap();
    let cgroups = groups
        .iter()
        .chain([&state["cgroup"]])
        .filter_map(|path| path.as_str());
    let cgroups: Vec<&str> = cgroups.collect();
    has("cgroup", !cgroups.is_empty());
    for group in cgroups.into_iter().map(Path::new) {
        for (file, value) in [("cpu.shares", "512"), ("cpu.weight", "50"), ("pids.max", "1024")] {
            if let Ok(found) = fs::read_to_string(group.join(file)) {
                assert_eq!(found.trim(), value, "{file}");
            }
        }
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(
            members.lines().any(|pid| pid == site.pid(&spec.unit)),
            "{group:?}: {members}"
        );
    }
    site.local.remove(&spec.unit).await.unwrap();
    for group in groups.iter().filter_map(|path| path.as_str()) {
        assert!(!Path::new(group).exists(), "{group}");
    }
}

/// A whole answer of the unit's own address.
pub(super) async fn ask(address: std::net::SocketAddr) -> String {
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
async fn honest_python_and_node_programs_notice_nothing() {
    let site = house(|_| {});
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
    let spec = python(&site, "honest", python_program);
    let report = site.start(&spec).await;
    let answer = ask(report.address.unwrap()).await;
    assert!(
        answer.contains("\"pool\": true") && !answer.contains("false"),
        "{answer}"
    );

    if !has("node", Path::new("/usr/bin/node").exists()) {
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
    fs::write(site.root.join("app/honest.js"), node_program).unwrap();
    open_up(&site.root.join("app/honest.js"), 0o644);
    let mut spec = site.spec("node", "exec /usr/bin/node honest.js");
    (spec.dir, spec.user) = (site.root.join("app"), user(USER));
    let report = site.start(&spec).await;
    let answer = ask(report.address.unwrap()).await;
    assert!(answer.contains("[7,true,true,true,36]"), "{answer}");
}

/// Runs on a thread whose kernel seems to lack Landlock, as do all that it starts.
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

#[tokio::test]
async fn a_unit_listens_on_its_own_port_and_on_those_that_the_system_picks() {
    if !kernel_has("Landlock") || !has("Landlock of Linux 6.7", kernel_since(6, 7)) {
        return;
    }
    let program = r#"
import os, signal, socket
def listen(family, host, port):
    with socket.socket(family) as door:
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((host, port))
            door.listen()
            return "open " + str(door.getsockname()[1])
        except OSError as error:
            return "refused " + str(error.errno)
own = int(os.environ["PORT"])
print("own", listen(socket.AF_INET, "127.0.0.1", own))
print("any", listen(socket.AF_INET, "127.0.0.1", 0))
for port in [own + 1, 8888, 40000]:
    print("other", listen(socket.AF_INET, "127.0.0.1", port))
    print("other", listen(socket.AF_INET6, "::1", port))
print("end", flush=True)
signal.pause()
"#;
    let site = house(|_| {});
    let spec = python(&site, "listener", program);
    let report = site.start(&spec).await;
    let port = report.address.unwrap().port();
    assert!(
        (20_000..26_000).contains(&port),
        "not one that somebody gets by chance: {port}"
    );
    let lines = printed(&site, &spec).await;
    assert_eq!(lines[0], format!("own open {port}"));
    assert!(lines[1].starts_with("any open "), "{lines:?}");
    let others: Vec<_> = lines.iter().filter(|line| line.starts_with("other")).collect();
    assert!(
        others.len() == 6 && others.iter().all(|line| *line == "other refused 13"),
        "{lines:?}"
    );
}

#[test]
fn a_kernel_without_landlock_is_told_and_stops_no_unit() {
    if !kernel_has("seccomp") {
        return;
    }
    let asked = Confinement {
        landlock: true,
        ..Confinement::default()
    };
    let lines = without_landlock(move |runtime| {
        assert_eq!(asked.missing(), ["Landlock"]);
        runtime.block_on(async {
            let site = house(|_| {});
            let (_, files) = treasures(&site).await;
            let mut spec = site.spec(
                "plain",
                &format!("cat {}; echo; echo end; exec sleep 1000", files[0].display()),
            );
            (spec.dir, spec.user) = (site.root.join("app"), user(USER));
            site.start(&spec).await;
            let lines = printed(&site, &spec).await;
            let _ = fs::remove_file(&files[2]);
            lines
        })
    });
    assert_eq!(lines[0], "secret", "it ran without: {lines:?}");
}
