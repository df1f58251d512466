//! Shared memory with names: private to one app, bounded, and gone with its units.

use super::isolation::*;
use super::*;

/// Returns whether units have namespaces here.
async fn has_namespaces(fixture: &LocalFixture) -> bool {
    let mut spec = fixture.spec("probe", "readlink /proc/self/ns/ipc; echo end; exec sleep 1000");
    fixture.place(&mut spec, fixture.root.join("app"), own_uid(USER));
    fixture.start(&spec).await;
    let lines = unit_output(fixture, &spec).await;
    let ours = fs::read_link("/proc/self/ns/ipc").unwrap();
    require_feature("namespaces", lines[0] != ours.to_string_lossy())
}

/// Tries to create and to find shared memory under names that all units of the test use.
const SHARER: &str = r#"
import ctypes, errno, os, signal, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
name, key = os.environ["NAME"], int(os.environ["KEY"])
def say(what, act):
    try:
        print(what, act(), flush=True)
    except OSError as error:
        print(what, "refused", errno.errorcode[error.errno], flush=True)
def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return "found"
say("old file", lambda: open("/dev/shm/" + name).read())
say("old segment", lambda: checked(libc.shmget(key, 4096, 0)))
say("old semaphore", lambda: checked(libc.semget(key, 1, 0)))
say("old queue", lambda: checked(libc.msgget(key, 0)))
say("file", lambda: open("/dev/shm/" + name, "w").write("x"))
say("segment", lambda: checked(libc.shmget(key, 4096, 0o1666)))
say("semaphore", lambda: checked(libc.semget(key, 1, 0o1666)))
say("queue", lambda: checked(libc.msgget(key, 0o1666)))
def run():
    open("/dev/shm/program", "wb").write(open("/bin/true", "rb").read())
    os.chmod("/dev/shm/program", 0o755)
    return subprocess.run(["/dev/shm/program"]).returncode
say("program", run)
def fill():
    with open("/dev/shm/" + name + "-large", "wb") as file:
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    return "filled"
say("fill", fill)
print("end", flush=True)
signal.pause()
"#;

fn sharing_unit(fixture: &LocalFixture, unit: &str, name: &str, uid: u32) -> UnitSpec {
    let mut spec = python(fixture, unit, SHARER);
    set_user(&mut spec, own_uid(uid));
    set_env(&mut spec, "NAME", name);
    // Unique to this test, because other tests run at the same time.
    let key = u32::from_str_radix(&name[name.len() - 7..], 16).unwrap();
    set_env(&mut spec, "KEY", &key.to_string());
    spec
}

fn unique_name() -> String {
    format!("tancho-test-{}", uuid::Uuid::new_v4().simple())
}

#[tokio::test]
async fn units_share_no_memory_and_leave_none_behind() {
    let fixture = isolated_fixture(|settings| settings.cgroup = Some("/nonexistent".into()));
    if !has_namespaces(&fixture).await {
        return;
    }
    let name = unique_name();
    // The last one is another unit of the first app.
    for (unit, uid) in [("one", USER), ("two", OTHER), ("three", USER)] {
        let spec = sharing_unit(&fixture, unit, &name, uid);
        fixture.start(&spec).await;
        let lines = unit_output(&fixture, &spec).await;
        let expected = [
            "old file refused ENOENT",
            "old segment refused ENOENT",
            "old semaphore refused ENOENT",
            "old queue refused ENOENT",
            "file 1",
            "segment found",
            "semaphore found",
            "queue found",
            "program refused EACCES",
            "fill refused ENOSPC",
        ];
        assert_eq!(lines[..expected.len()], expected, "{unit}");
        assert!(!Path::new("/dev/shm").join(&name).exists(), "the machine's own");
    }
    let segments = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let key = u32::from_str_radix(&name[name.len() - 7..], 16)
        .unwrap()
        .to_string();
    assert!(!segments.split_whitespace().any(|word| word == key), "{segments}");
}

#[tokio::test]
async fn without_namespaces_there_is_no_shared_memory() {
    if !kernel_has("Landlock") || !kernel_has("seccomp") {
        return;
    }
    let fixture = isolated_fixture(|settings| settings.limits.confinement.namespaces = false);
    let name = unique_name();
    let spec = sharing_unit(&fixture, "none", &name, USER);
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    let expected = [
        "old file refused ENOENT",
        "old segment refused EPERM",
        "old semaphore refused EPERM",
        "old queue refused EPERM",
        "file refused EACCES",
        "segment refused EPERM",
        "semaphore refused EPERM",
        "queue refused EPERM",
        "program refused EACCES",
        "fill refused EACCES",
    ];
    assert_eq!(lines[..expected.len()], expected);
}

#[tokio::test]
async fn programs_that_share_memory_between_their_processes_work() {
    let fixture = isolated_fixture(|_| {});
    if !has_namespaces(&fixture).await {
        return;
    }
    let program = r#"
import multiprocessing, multiprocessing.shared_memory, os
def fill(name, lock):
    with lock:
        memory = multiprocessing.shared_memory.SharedMemory(name)
        memory.buf[0] = 7
        memory.close()
if __name__ == "__main__":
    memory = multiprocessing.shared_memory.SharedMemory(create=True, size=1 << 20)
    child = multiprocessing.Process(target=fill, args=(memory.name, multiprocessing.Lock()))
    child.start(); child.join()
    print("child wrote", memory.buf[0], "of", os.getuid() == os.stat(os.environ["HOME"]).st_uid, flush=True)
    memory.close(); memory.unlink()
    print("end", flush=True)
    import signal
    signal.pause()
"#;
    let spec = python(&fixture, "workers", program);
    fixture.start(&spec).await;
    let lines = unit_output(&fixture, &spec).await;
    assert_eq!(lines[0], "child wrote 7 of True", "{lines:#?}");
}
