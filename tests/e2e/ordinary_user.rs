//! Tancho started by an ordinary user, whose apps then run as the same user.

use nix::sys::signal::Signal;

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, seconds};

/// Attempts the attacks of a hostile app: to log in to Tancho's Postgres as each role, and to read the files
/// beside it. Returns a line for each attempt, `DONE` where it succeeded.
const ATTACK: &str = r#"
import glob, os, socket, struct, subprocess
data = "DATA"
said = []
def attempt(what, act):
    try:
        result = act()
    except Exception as error:
        result = None
        said.append(f"refused {what}: {type(error).__name__}")
    if result:
        said.append(f"DONE {what}: {result}")
    elif result is not None:
        said.append(f"refused {what}")
def log_in(role, database):
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(10)
        server.connect(data + "/postgres-run/.s.PGSQL.5432")
        parameters = b"".join(word.encode() + b"\0" for word in ["user", role, "database", database]) + b"\0"
        server.sendall(struct.pack("!ii", len(parameters) + 8, 196608) + parameters)
        kind, _, code = struct.unpack("!cii", server.recv(9))
        said.append(f"reached {kind.decode()} {code if kind == b'R' else '-'}")
        # 0: let in without a password.
        return kind == b"R" and code == 0
def ask(role, query):
    programs = glob.glob("/usr/lib/postgresql/*/bin/psql") + ["psql"]
    environment = dict(os.environ, PGPASSFILE=data + "/postgres.pgpass", PGCONNECT_TIMEOUT="10")
    line = [programs[0], "-w", "-h", data + "/postgres-run", "-U", role, "tancho", "-Atc", query]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""
for role in ["tancho", "tancho_superuser", "postgres"]:
    for database in ["tancho", "postgres", "template1"]:
        attempt(f"log in as {role} to {database}", lambda: log_in(role, database))
    for query in ["select 1", "copy (select 1) to program 'cat'", "select pg_read_file('postgresql.conf')"]:
        attempt(f"{query} as {role}", lambda: ask(role, query))
files = ["seal.keys", "postgres.pgpass", "postgres.hba", "postgres/PG_VERSION", "postgres/postmaster.pid", "lock", "handover.token"]
for name in files:
    attempt("read " + name, lambda: open(data + "/" + name).read())
for entry in glob.glob("/proc/[0-9]*"):
    def steal():
        name = open(entry + "/comm").read().strip()
        if name not in ("postgres", "tancho") or int(entry[6:]) in (os.getpid(), os.getppid()):
            return ""
        return len(open(entry + "/environ", "rb").read(1)) + len(os.listdir(entry + "/fd"))
    attempt("look into a process of Tancho", steal)
body = "\n".join(said).encode()
head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])), backlog=16)
while True:
    caller, _ = server.accept()
    caller.settimeout(2)
    try:
        caller.recv(65536)
        caller.sendall(head + body)
    except OSError:
        pass
    caller.close()
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_sharing_the_server_user_cannot_read_the_embedded_postgres() {
    let mut tancho = TestInstance::of_ordinary_user();
    tancho.serve();
    tancho.login().await;
    tancho.team().await;
    tancho.create_app("thief").await;
    let attack = ATTACK.replace("DATA", &tancho.data.display().to_string());
    let source = AppSource::default()
        .with("Procfile", "web: /usr/bin/python3 app.py\n")
        .with("app.py", &attack);
    tancho.deploy("thief", &source.pack()).await;
    let (status, said) = tancho.get_app("thief", "/").await;
    assert_eq!(status, 200, "{said}");
    assert!(
        said.contains("reached R 10"),
        "the socket exists, and requires a password: {said}"
    );
    let done: Vec<&str> = said.lines().filter(|line| line.starts_with("DONE")).collect();
    let has_landlock = !tancho.log().contains("Landlock");
    let through = |line: &&&str| has_landlock || !(line.contains("read ") || line.contains("look into"));
    let done: Vec<_> = done.iter().filter(through).collect();
    assert!(done.is_empty(), "{done:#?}");

    // Tancho itself keeps working with it, also after a kill of both.
    tancho.kill();
    let postmaster = std::fs::read_to_string(tancho.data.join("postgres/postmaster.pid")).unwrap();
    let pid = postmaster.lines().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    tancho.serve();
    tancho.login().await;
    tancho.set_env("thief", "GREETING", "hello").await;
    crate::test_instance::wait_for("the app answers again", seconds(60), async || {
        (tancho.get_app("thief", "/").await.0 == 200).then_some(())
    })
    .await;
}
