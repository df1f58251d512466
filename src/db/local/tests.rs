use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::Instant;

use nix::unistd::{Pid, getsid};
use sqlx::{ConnectOptions, Connection};

use super::*;

/// A data folder; the guard stops its server and deletes its files, however the test ends.
struct TempDataDir {
    root: PathBuf,
    data: PathBuf,
}

impl TempDataDir {
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

impl Drop for TempDataDir {
    fn drop(&mut self) {
        let folder = self.data.join("postgres");
        let deadline = Instant::now() + Duration::from_secs(10);
        while process::is_busy(&folder) && Instant::now() < deadline {
            if let Some(postmaster) = Postmaster::find_running(&folder) {
                postmaster.send_signal(Signal::SIGQUIT);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        remove_socket_folder(&folder);
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn remove_socket_folder(folder: &Path) {
    if let Ok(far) = fs::read_link(folder.with_file_name("postgres-run")) {
        let _ = fs::remove_dir_all(far);
    }
}

const PATIENCE: Duration = Duration::from_secs(300);

async fn start_postgres(dir: &DataDir) -> LocalPostgres {
    LocalPostgres::start_or_take_over(dir, PATIENCE).await.unwrap()
}

async fn execute(postgres: &LocalPostgres, sql: &'static str) {
    let mut connection = postgres.connect_options().connect().await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

/// Lists the pipes and sockets of a process: descriptor number and target.
fn list_pipes_and_sockets(pid: u32) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let links = entries.filter_map(|entry| {
        let number = entry.file_name().to_string_lossy().into_owned();
        Some((number, fs::read_link(entry.path()).ok()?))
    });
    links
        .filter(|(_, link)| link.to_string_lossy().contains(":["))
        .collect()
}

/// True if this process opened it: descriptors inherited from the test runner lack the flag.
fn is_close_on_exec(number: &str) -> bool {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap_or("0");
    i64::from_str_radix(flags.trim(), 8).unwrap_or(0) & 0o2_000_000 != 0
}

#[tokio::test]
async fn server_outlives_its_owner_and_is_taken_over() {
    let fixture = TempDataDir::new("data");
    let _socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = fixture.open();
    let first = start_postgres(&dir).await.pid();
    assert_eq!(
        getsid(Some(Pid::from_raw(first))).unwrap().as_raw(),
        first,
        "a session of its own"
    );
    let ours = list_pipes_and_sockets(std::process::id())
        .into_iter()
        .filter(|(number, _)| is_close_on_exec(number));
    let ours: Vec<_> = ours.map(|(_, link)| link).collect();
    let theirs = list_pipes_and_sockets(u32::try_from(first).unwrap()).into_iter();
    let shared: Vec<_> = theirs.filter(|(_, link)| ours.contains(link)).collect();
    assert!(!ours.is_empty() && shared.is_empty(), "inherited: {shared:?}");
    drop(dir);

    let looker = DataDir::open_unlocked(&fixture.data).unwrap();
    assert!(
        LocalPostgres::start_or_take_over(&looker, PATIENCE)
            .await
            .is_err(),
        "only the holder of the lock may start it"
    );
    let dir = fixture.open();
    let second = start_postgres(&dir).await;
    assert_eq!(second.pid(), first);
    assert_eq!(
        LocalPostgres::connect_running(&looker).await.unwrap().pid(),
        first
    );
    execute(&second, "create table kept (n int)").await;

    second.shut_down(Duration::from_secs(10)).await.unwrap();
    assert!(!process::is_busy(&dir.postgres_dir()), "stop leaves no process");
    assert!(second.check_health().await.is_err());
    assert!(LocalPostgres::connect_running(&looker).await.is_err());
    second.shut_down(Duration::from_secs(1)).await.unwrap();

    // The pid file of an earlier boot may name another process by now.
    fs::write(
        dir.postgres_dir().join("postmaster.pid"),
        format!("{}\n", std::process::id()),
    )
    .unwrap();
    let third = start_postgres(&dir).await;
    assert_ne!(third.pid(), first);
    execute(&third, "insert into kept values (1)").await;
}

#[tokio::test]
async fn killed_server_recovers_and_broken_server_error_has_the_reason() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    let before = start_postgres(&dir).await;
    execute(&before, "create table kept as select 7 as n").await;
    Postmaster::find_running(&dir.postgres_dir())
        .unwrap()
        .send_signal(Signal::SIGKILL);
    let after = start_postgres(&dir).await;
    assert_ne!(after.pid(), before.pid());
    execute(&before, "insert into kept values (8)").await;

    after.shut_down(Duration::from_secs(10)).await.unwrap();
    fs::remove_file(dir.postgres_dir().join("global/pg_control")).unwrap();
    let words = LocalPostgres::start_or_take_over(&dir, PATIENCE)
        .await
        .unwrap_err()
        .message()
        .to_owned();
    assert!(words.contains("pg_control"), "{words}");
}

#[tokio::test]
async fn interrupted_initdb_is_repeated_once_in_a_folder_with_special_characters() {
    // Too long for a socket, and with characters that a settings file must quote.
    let fixture = TempDataDir::new(&format!("it's \"a\" $(name) #{}", "x".repeat(90)));
    let dir = fixture.open();
    {
        let mut start = std::pin::pin!(LocalPostgres::start_or_take_over(&dir, PATIENCE));
        let is_under_way = || {
            let mut entries = fs::read_dir(dir.path()).unwrap().flatten();
            entries.any(|entry| entry.path().join("PG_VERSION").exists())
        };
        while !is_under_way() {
            let step = tokio::time::timeout(Duration::from_millis(1), &mut start).await;
            assert!(step.is_err(), "finished before it could be interrupted: {step:?}");
        }
    }
    assert!(!dir.postgres_dir().exists());
    let (postgres, other) = tokio::join!(start_postgres(&dir), start_postgres(&dir));
    assert_eq!(postgres.pid(), other.pid());
    let remains = fs::read_dir(dir.path()).unwrap().flatten();
    assert!(
        remains
            .into_iter()
            .all(|entry| !entry.file_name().to_string_lossy().contains("new"))
    );

    let far = fs::read_link(dir.path().join("postgres-run")).unwrap();
    assert_eq!(fs::metadata(&far).unwrap().permissions().mode() & 0o777, 0o700);
    postgres.shut_down(Duration::from_secs(10)).await.unwrap();
    assert!(!far.exists(), "nothing is left in /tmp");
}

#[tokio::test]
async fn unusable_folder_is_refused_with_a_hint() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    let refused = async || {
        LocalPostgres::start_or_take_over(&dir, PATIENCE)
            .await
            .unwrap_err()
            .message()
            .to_owned()
    };
    let owner = if dir.runs_as_root() { Some(65534) } else { None };

    fs::create_dir(dir.postgres_dir()).unwrap();
    chown(dir.postgres_dir(), owner, owner).unwrap();
    assert!(refused().await.contains("move it away"));
    fs::write(dir.postgres_dir().join("PG_VERSION"), "9\n").unwrap();
    let words = refused().await;
    assert!(
        words.contains("created by Postgres 9") && words.contains("pg_upgrade"),
        "{words}"
    );
    if dir.runs_as_root() {
        chown(dir.postgres_dir(), Some(0), Some(0)).unwrap();
        assert!(refused().await.contains("chown"));
    }
}

/// Starts a server as earlier versions did: the role is a superuser, and clients on the socket need no
/// password.
async fn start_trusting_server(dir: &DataDir) {
    let folder = dir.postgres_dir();
    let account = OsAccount::for_folder(&folder, dir.runs_as_root()).unwrap();
    let programs = PostgresPrograms::find_programs(account, None, PATIENCE)
        .await
        .unwrap();
    folder::ensure_folder(dir, &programs, account).await.unwrap();
    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    if let Some(OsAccount { uid, gid }) = account {
        chown(&folder, Some(uid), Some(gid)).unwrap();
    }
    let arguments = [
        "--username=tancho",
        "--auth-local=trust",
        "--auth-host=reject",
        "--encoding=UTF8",
        "--locale=C",
    ];
    programs.run_program("initdb", &arguments, &folder, account).await;
    let socket = folder::prepare_socket_folder(dir, account).unwrap();
    let settings = format!(
        "listen_addresses = ''\nunix_socket_directories = '{}'\n",
        socket.display()
    );
    fs::write(folder.join("postgresql.conf"), "include '../postgres.conf'\n").unwrap();
    fs::write(dir.path().join("postgres.conf"), settings).unwrap();
    programs.start_server(&folder, account).await.unwrap();
    let trusted = connect_without_password(&socket).database("postgres");
    let deadline = Instant::now() + PATIENCE;
    let mut connection = loop {
        match trusted.connect().await {
            Ok(connection) => break connection,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    sqlx::query("create database tancho")
        .execute(&mut connection)
        .await
        .unwrap();
    let mut connection = trusted.database("tancho").connect().await.unwrap();
    sqlx::raw_sql(
        "create type mood as enum ('good');
         create domain name_of_app as text;
         create table kept (n bigserial primary key, how mood not null default 'good', who name_of_app);
         create table numbered (n int generated always as identity);
         create sequence alone;
         create view shown as select * from kept;
         create function one() returns int language sql security definer as 'select 1';
         insert into kept default values;",
    )
    .execute(&mut connection)
    .await
    .unwrap();
}

/// Connects as units of the same user would: by the socket, without a password.
fn connect_without_password(socket: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket)
        .port(PORT)
        .username(ROLE_NAME)
        .database(ROLE_NAME)
        .ssl_mode(PgSslMode::Disable)
}

/// Asserts that clients on the socket are rejected, and that Tancho's role can do nothing outside its
/// database.
async fn assert_closed(dir: &DataDir, postgres: &LocalPostgres) {
    let options = connect_without_password(&postgres.socket);
    for (role, database) in [
        (ROLE_NAME, ROLE_NAME),
        (ROLE_NAME, "postgres"),
        (ROLE_NAME, "template1"),
        (SUPERUSER, ROLE_NAME),
        (SUPERUSER, "postgres"),
        ("postgres", "postgres"),
        ("tancho_rename", ROLE_NAME),
    ] {
        let bare = options.clone().username(role).database(database);
        let wrong = bare.clone().password("tancho");
        for options in [bare, wrong] {
            assert!(options.connect().await.is_err(), "{role} got into {database}");
        }
    }
    // Neither the superuser with Tancho's password, nor another database.
    let ours = postgres.connect_options();
    assert!(ours.clone().username(SUPERUSER).connect().await.is_err());
    assert!(ours.clone().database("postgres").connect().await.is_err());

    let mut connection = ours.connect().await.unwrap();
    let secret = dir.path().join("postgres.pgpass");
    for attack in [
        "copy (select 1) to program 'cat'".to_owned(),
        "create temp table t (x text); copy t from program 'id'".to_owned(),
        format!("select pg_read_file('{}')", secret.display()),
        "select pg_ls_dir('/')".to_owned(),
        "select lo_import('/etc/passwd')".to_owned(),
        "create role other superuser".to_owned(),
        "alter role tancho superuser".to_owned(),
        "alter system set hba_file = '/tmp/x'".to_owned(),
        format!("set role {SUPERUSER}"),
        "load '/tmp/x.so'".to_owned(),
    ] {
        let done = sqlx::raw_sql(sqlx::AssertSqlSafe(attack.clone()))
            .execute(&mut connection)
            .await;
        let error = done.expect_err(&attack);
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{attack}: {error}");
    }
    let mode = fs::metadata(&secret).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "only its owner reads the password");
    let password = fs::read_to_string(&secret).unwrap();
    let password = password.trim().rsplit(':').next().unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for file in ["cmdline", "environ"] {
            let text = fs::read(entry.path().join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            assert!(
                !text.contains(password),
                "{:?}/{file} contains the password",
                entry.path()
            );
        }
    }
}

#[tokio::test]
async fn connection_without_the_password_is_refused() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    let postgres = start_postgres(&dir).await;
    assert_closed(&dir, &postgres).await;
    execute(&postgres, "create table mine (n int)").await;
    let logs = fs::read_dir(dir.postgres_dir().join("log")).unwrap().flatten();
    let password = fs::read_to_string(dir.path().join("postgres.pgpass")).unwrap();
    let password = password.trim().rsplit(':').next().unwrap();
    for path in logs
        .map(|log| log.path())
        .chain([dir.postgres_dir().join("start.log")])
    {
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(password), "{path:?} has the password");
    }
}

#[tokio::test]
async fn folder_of_an_earlier_version_requires_the_password_after_its_next_start() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    start_trusting_server(&dir).await;
    // The attack that the conversion prevents works before it.
    let socket = folder::find_socket_folder(&dir).unwrap();
    let mut attacker = connect_without_password(&socket).connect().await.unwrap();
    let attack = "create temp table t (x text); copy t from program 'id'";
    sqlx::raw_sql(attack).execute(&mut attacker).await.unwrap();

    let postgres = start_postgres(&dir).await;
    assert!(
        sqlx::raw_sql(attack).execute(&mut attacker).await.is_err(),
        "its connection is ended"
    );
    assert_closed(&dir, &postgres).await;
    let mut connection = postgres.connect_options().connect().await.unwrap();
    let kept: i64 = sqlx::query_scalar("select count(*) from kept where how = 'good' and one() = 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(kept, 1);
    // The role can alter its objects, as migrations do.
    sqlx::raw_sql(
        "alter table kept add column more int; alter type mood add value 'bad'; alter sequence alone restart;
         create or replace function one() returns int language sql as 'select 2'; drop view shown;
         alter table numbered rename to counted; insert into kept default values; drop domain name_of_app cascade;
         create schema extra; create table other (n int)",
    )
    .execute(&mut connection)
    .await
    .unwrap();
}

#[tokio::test]
async fn killed_setup_is_finished_by_the_next_start() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    start_trusting_server(&dir).await;
    // Killed after the password was written: nothing else shows that the role is not set up.
    password::create_password(&dir).unwrap();
    for milliseconds in [20_u64, 60, 100, 150, 200, 300] {
        let start = LocalPostgres::start_or_take_over(&dir, PATIENCE);
        let _ = tokio::time::timeout(Duration::from_millis(milliseconds), start).await;
    }
    let postgres = start_postgres(&dir).await;
    assert_closed(&dir, &postgres).await;
    execute(&postgres, "insert into kept default values").await;
    // A lost or replaced password file is repaired too.
    fs::remove_file(dir.path().join("postgres.pgpass")).unwrap();
    let postgres = start_postgres(&dir).await;
    password::create_password(&dir).unwrap();
    assert!(
        LocalPostgres::find_running(&dir)
            .unwrap()
            .unwrap()
            .check_health()
            .await
            .is_err()
    );
    drop(postgres);
    let postgres = start_postgres(&dir).await;
    assert_closed(&dir, &postgres).await;
    execute(&postgres, "insert into kept default values").await;
}

#[tokio::test]
async fn password_file_readable_by_others_is_rejected_with_instructions() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    start_postgres(&dir).await;
    let file = dir.path().join("postgres.pgpass");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let words = LocalPostgres::start_or_take_over(&dir, PATIENCE)
        .await
        .unwrap_err()
        .message()
        .to_owned();
    assert!(
        words.contains("postgres.pgpass") && words.contains("remove that file"),
        "{words}"
    );
    fs::remove_file(&file).unwrap();
    assert_closed(&dir, &start_postgres(&dir).await).await;
}

/// Sends a signal to the first server that appears on the folder; returns its pid.
fn signal_first_postmaster(folder: PathBuf, signal: Signal) -> std::thread::JoinHandle<i32> {
    std::thread::spawn(move || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(postmaster) = Postmaster::find_running(&folder) {
                postmaster.send_signal(signal);
                return postmaster.pid;
            }
            assert!(Instant::now() < deadline, "no server appears");
        }
    })
}

#[tokio::test]
async fn server_killed_while_starting_is_restarted() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    start_postgres(&dir)
        .await
        .shut_down(Duration::from_secs(60))
        .await
        .unwrap();
    let killer = signal_first_postmaster(dir.postgres_dir(), Signal::SIGKILL);
    let postgres = start_postgres(&dir).await;
    let killed = killer.join().unwrap();
    assert_ne!(postgres.pid(), killed);
    execute(&postgres, "create table kept (n int)").await;
}

#[tokio::test]
async fn slow_start_is_waited_for_until_the_start_timeout() {
    let fixture = TempDataDir::new("data");
    let dir = fixture.open();
    start_postgres(&dir)
        .await
        .shut_down(Duration::from_secs(60))
        .await
        .unwrap();
    let stopper = signal_first_postmaster(dir.postgres_dir(), Signal::SIGSTOP);
    let late = LocalPostgres::start_or_take_over(&dir, Duration::from_secs(2)).await;
    let pid = stopper.join().unwrap();
    let words = late.unwrap_err().message().to_owned();
    assert!(
        words.contains("after 2 seconds") && words.contains("still starting"),
        "{words}"
    );
    // The start resumes where it was.
    let start = start_postgres(&dir);
    let resume = async {
        tokio::task::yield_now().await;
        Postmaster::find_running(&dir.postgres_dir())
            .unwrap()
            .send_signal(Signal::SIGCONT);
    };
    let (postgres, ()) = tokio::join!(start, resume);
    assert_eq!(postgres.pid(), pid);
}
