//! Other ways to a port than binding its number: other protocols, other families, implicit ports.

use super::isolation::*;
use super::*;

#[tokio::test]
async fn unit_listens_on_its_own_port_and_on_ephemeral_ports_only() {
    if !kernel_has("Landlock") || !require_feature("Landlock of Linux 6.7", kernel_since(6, 7)) {
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
    let fixture = isolated_fixture(|_| {});
    let spec = python(&fixture, "listener", program);
    let report = fixture.start(&spec).await;
    let port = report.address.unwrap().port();
    assert!(
        (20_000..26_000).contains(&port),
        "not one that somebody gets by chance: {port}"
    );
    let lines = unit_output(&fixture, &spec).await;
    assert_eq!(lines[0], format!("own open {port}"));
    assert!(lines[1].starts_with("any open "), "{lines:?}");
    let others: Vec<_> = lines.iter().filter(|line| line.starts_with("other")).collect();
    assert!(
        others.len() == 6 && others.iter().all(|line| *line == "other refused 13"),
        "{lines:?}"
    );
}

#[tokio::test]
async fn unit_opens_tcp_and_udp_sockets_only() {
    if !kernel_has("seccomp") {
        return;
    }
    let program = r#"
import errno, os, signal, socket
def attempt(what, act):
    try:
        act()
        print("PASSED", what, flush=True)
    except OSError as error:
        print("refused", what, errno.errorcode[error.errno], flush=True)
def bind(family, host, kind, protocol, port):
    with socket.socket(family, kind, protocol) as one:
        one.bind((host, port))
other = int(os.environ["PORT"]) + 1
for family, host in [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]:
    # MPTCP, SCTP by its number and as what the type stands for, DCCP, SMC, UDP-Lite, ping, raw.
    for kind, protocol in [(1, 262), (1, 132), (5, 0), (5, 132), (6, 33), (6, 0), (1, 256), (2, 136), (2, 1), (3, 1), (3, 255), (4, 0), (10, 3)]:
        attempt(f"{kind} {protocol}", lambda: bind(family, host, kind, protocol, other))
    attempt("1 262 with flags", lambda: bind(family, host, 1 | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 262, other))
for family in [30, 43, 21, 17, 40, 41, 42, 44]:
    attempt(f"family {family}", lambda: socket.socket(family, 1, 0))
attempt("pair", lambda: socket.socketpair(30, 1, 0))
def on_top():
    with socket.socket() as one:
        one.setsockopt(socket.IPPROTO_TCP, 31, b"smc")
attempt("on top", on_top)
for family in [socket.AF_INET, socket.AF_INET6]:
    for kind, protocol in [(1, 0), (1, 6), (2, 0), (2, 17), (1 | socket.SOCK_NONBLOCK, 6)]:
        socket.socket(family, kind, protocol).close()
with socket.socket() as one:
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
socket.socketpair(); socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); socket.socket(16, socket.SOCK_RAW, 0)
print("end", flush=True)
signal.pause()
"#;
    let fixture = isolated_fixture(|_| {});
    let spec = python(&fixture, "protocols", program);
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    let passed: Vec<_> = lines.iter().filter(|line| line.starts_with("PASSED")).collect();
    assert!(passed.is_empty(), "{lines:#?}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("refused")).count(),
        38,
        "{lines:#?}"
    );
    // Refused by the sandbox and not because a module is missing: programs handle this error by using TCP
    // instead.
    let mptcp = lines.iter().filter(|line| line.starts_with("refused 1 262"));
    assert!(
        mptcp.clone().count() == 4 && mptcp.into_iter().all(|line| line.ends_with(" EPROTONOSUPPORT")),
        "{lines:#?}"
    );
}

#[tokio::test]
async fn implicitly_bound_port_is_never_a_unit_port() {
    let program = r#"
import signal, socket
for _ in range(300):
    one = socket.socket()
    one.listen()
    print("port", one.getsockname()[1])
print("end", flush=True)
signal.pause()
"#;
    let fixture = isolated_fixture(|_| {});
    let spec = python(&fixture, "autobind", program);
    let report = fixture.start(&spec).await;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let range: Vec<u16> = range
        .split_whitespace()
        .map(|port| port.parse().unwrap())
        .collect();
    let own = report.address.unwrap().port();
    assert!(
        !(range[0]..=range[1]).contains(&own),
        "{own} may be got by chance: {range:?}"
    );
    let lines = unit_output(&fixture, &spec).await;
    let ports = lines.iter().filter_map(|line| line.strip_prefix("port "));
    let ports: Vec<u16> = ports.map(|port| port.parse().unwrap()).collect();
    assert!(
        ports.len() == 300 && ports.iter().all(|port| (range[0]..=range[1]).contains(port)),
        "{ports:?}"
    );
}

#[tokio::test]
async fn unit_with_shared_uid_cannot_change_limits_of_others() {
    if !kernel_has("seccomp") {
        return;
    }
    let program = r#"
import errno, os, resource, signal
other = int(os.environ["OTHER"])
for pid in [other, os.getppid()]:
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
        print("PASSED", flush=True)
    except OSError as error:
        print("refused", error.errno, flush=True)
resource.prlimit(0, resource.RLIMIT_NOFILE, (50, 50))
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
print("end", flush=True)
signal.pause()
"#;
    let fixture = isolated_fixture(|settings| settings.limits.confinement.shared_user = true);
    let mut victim = fixture.spec("victim", "exec sleep 1000");
    fixture.place(&mut victim, fixture.root.join("app"), own_uid(USER));
    fixture.start(&victim).await;
    let mut spec = python(&fixture, "limiter", program);
    set_env(&mut spec, "OTHER", &fixture.pid(&victim.unit));
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    assert_eq!(lines[..2], ["refused 1", "refused 1"], "{lines:?}");
}
