use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Instant;

use nix::unistd::{Pid, getsid};
use sqlx::{ConnectOptions, Connection};

use super::*;

/// A data folder whose server and files are gone with the guard, however the test ends.
struct House {
    root: PathBuf,
    data: PathBuf,
}

impl House {
    fn new(name: &str) -> Self {
        let root = Path::new("/tmp").join(format!("tancho-local-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let data = root.join(name);
        Self { root, data }
    }

    fn open(&self) -> DataDir {
        DataDir::open(&self.data).unwrap()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let folder = self.data.join("postgres");
        let deadline = Instant::now() + Duration::from_secs(10);
        while process::is_busy(&folder) && Instant::now() < deadline {
            if let Some(postmaster) = Postmaster::find(&folder) {
                postmaster.signal(Signal::SIGQUIT);
            }
            std::thread::sleep(PAUSE);
        }
        forget(&folder);
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn forget(folder: &Path) {
    if let Ok(far) = fs::read_link(folder.with_file_name("postgres-run")) {
        let _ = fs::remove_dir_all(far);
    }
}

async fn started(dir: &DataDir) -> LocalPostgres {
    LocalPostgres::start(dir).await.unwrap()
}

async fn execute(postgres: &LocalPostgres, sql: &'static str) {
    let mut connection = postgres.connect_options().connect().await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Pipes and sockets that a process holds: number of the descriptor and what it is.
fn channels(pid: u32) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = entries.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().into_owned();
        Some((number, fs::read_link(entry.path()).ok()?))
    });
    links
        .filter(|(_, link)| link.to_string_lossy().contains(":["))
        .collect()
}

/// Whether we opened it ourselves: what whoever runs the tests passed on to us lacks the flag.
fn is_close_on_exec(number: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap_or("0");
    i64::from_str_radix(flags.trim(), 8).unwrap_or(0) & 0o2_000_000 != 0
}

#[tokio::test]
async fn a_server_outlives_its_owner_and_is_taken_over() {
    let house = House::new("data");
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = house.open();
    let first = started(&dir).await.pid();
    assert_eq!(
        getsid(Some(Pid::from_raw(first))).unwrap().as_raw(),
        first,
        "a session of its own"
    );
    let ours = channels(std::process::id())
        .into_iter()
        .filter(|(number, _)| is_close_on_exec(number));
    let ours: Vec<_> = ours.map(|(_, link)| link).collect();
    let theirs = channels(u32::try_from(first).unwrap()).into_iter();
    let shared: Vec<_> = theirs.filter(|(_, link)| ours.contains(link)).collect();
    assert!(!ours.is_empty() && shared.is_empty(), "inherited: {shared:?}");
    drop(dir);

    let looker = DataDir::peek(&house.data).unwrap();
    assert!(
        LocalPostgres::start(&looker).await.is_err(),
        "only the holder of the folder may start"
    );
    let dir = house.open();
    let second = started(&dir).await;
    assert_eq!(second.pid(), first);
    assert_eq!(
        LocalPostgres::connect_running(&looker).await.unwrap().pid(),
        first
    );
    execute(&second, "create table kept (n int)").await;

    second.stop(Duration::from_secs(10)).await.unwrap();
    assert!(!process::is_busy(&dir.postgres()), "stop leaves no process");
    assert!(second.health().await.is_err());
    assert!(LocalPostgres::connect_running(&looker).await.is_err());
    second.stop(Duration::from_secs(1)).await.unwrap();

    // The pid file of an earlier boot may name somebody else by now.
    fs::write(
        dir.postgres().join("postmaster.pid"),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    let third = started(&dir).await;
    assert_ne!(third.pid(), first);
    execute(&third, "insert into kept values (1)").await;
}

#[tokio::test]
async fn a_killed_server_recovers_and_a_broken_one_says_why() {
    let house = House::new("data");
    let dir = house.open();
    let before = started(&dir).await;
    execute(&before, "create table kept as select 7 as n").await;
    Postmaster::find(&dir.postgres()).unwrap().signal(Signal::SIGKILL);
    let after = started(&dir).await;
    assert_ne!(after.pid(), before.pid());
    execute(&before, "insert into kept values (8)").await;

    after.stop(Duration::from_secs(10)).await.unwrap();
    fs::remove_file(dir.postgres().join("global/pg_control")).unwrap();
    let words = LocalPostgres::start(&dir).await.unwrap_err().words().to_owned();
    assert!(words.contains("pg_control"), "{words}");
}

#[tokio::test]
async fn an_interrupted_initdb_is_done_again_by_one_of_two_in_a_folder_of_any_name() {
    // Too long for a socket, and with all that a settings file might trip over.
    let house = House::new(&format!("it's \"a\" $(name) #{}", "x".repeat(90)));
    let dir = house.open();
    {
        let mut start = std::pin::pin!(LocalPostgres::start(&dir));
        let is_under_way = || {
            let mut entries = fs::read_dir(dir.path()).unwrap().flatten();
            entries.any(|entry| entry.path().join("PG_VERSION").exists())
        };
        while !is_under_way() {
            let step = tokio::time::timeout(Duration::from_millis(1), &mut start).await;
            assert!(step.is_err(), "finished before it could be interrupted: {step:?}");
        }
    }
    assert!(!dir.postgres().exists());
    let (postgres, other) = tokio::join!(started(&dir), started(&dir));
    assert_eq!(postgres.pid(), other.pid());
    let remains = fs::read_dir(dir.path()).unwrap().flatten();
    assert!(
        remains
            .into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().contains("new"))
    );

    let far = fs::read_link(dir.path().join("postgres-run")).unwrap();
    assert_eq!(fs::metadata(&far).unwrap().permissions().mode() & 0o777, 0o700);
    postgres.stop(Duration::from_secs(10)).await.unwrap();
    assert!(!far.exists(), "nothing is left in /tmp");
}

#[tokio::test]
async fn a_folder_that_does_not_fit_is_named_with_what_to_do() {
    let house = House::new("data");
    let dir = house.open();
    let refused = async || LocalPostgres::start(&dir).await.unwrap_err().words().to_owned();
    let owner = if dir.is_root() { Some(65534) } else { None };

    fs::create_dir(dir.postgres()).unwrap();
    chown(dir.postgres(), owner, owner).unwrap();
    assert!(refused().await.contains("move it away"));
    fs::write(dir.postgres().join("PG_VERSION"), "9\n").unwrap();
    let words = refused().await;
    assert!(
        words.contains("made by Postgres 9") && words.contains("pg_upgrade"),
        "{words}"
    );
    if dir.is_root() {
        chown(dir.postgres(), Some(0), Some(0)).unwrap();
        assert!(refused().await.contains("chown"));
    }
}
