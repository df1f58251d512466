//! A server for one test: with its own database, ports and users.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tancho::config::Settings;
use tancho::datadir::{DataDir, load_or_create_keys};
use tancho::kernel::drain_plan::Predecessor;
use tancho::kernel::names::Email;
use tancho::kernel::secret::Secret;
use tancho::provisioners::fake::FakeUnitRunner;
use tancho::provisioners::registry::{PROVISIONERS, RunnerParts};
use tancho::provisioners::{ProvisionerRegistry, Runner};
use tancho::server::{self, RunningServer, ServerParts};
use tancho::versions;
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The password of all users in tests.
pub(crate) const PASSWORD: &str = "secret123";

/// A logged-in user.
#[derive(Clone, Debug)]
pub(crate) struct TestUser {
    pub(crate) email: String,
    pub(crate) token: String,
}

/// A running server with its own database.
pub struct TestServer {
    pub running: RunningServer,
    _folder: TempDataFolder,
    pub url: String,
    pub http: reqwest::Client,
    /// The runner of its units, unless they are processes of this machine.
    pub fake: FakeUnitRunner,
}

static TEMPLATE: OnceCell<(PgConnectOptions, String)> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

async fn template_database() -> &'static (PgConnectOptions, String) {
    TEMPLATE
        .get_or_init(|| async {
            let _ = rustls::crypto::ring::default_provider().install_default();
            let url = std::env::vars()
                .find_map(|(k, v)| (k == "TANCHO_TEST_DATABASE_URL").then_some(v))
                .expect("TANCHO_TEST_DATABASE_URL names a Postgres for tests; script/test starts one");
            let options: PgConnectOptions = url.parse().unwrap();
            let name = format!("tancho_template_{}", std::process::id());
            let mut admin = options.connect().await.unwrap();
            admin
                .execute(sqlx::AssertSqlSafe(format!("create database {name}")))
                .await
                .unwrap();
            let db = sqlx::PgPool::connect_with(options.clone().database(&name))
                .await
                .unwrap();
            tancho::db::run_migrations(&db).await.unwrap();
            db.close().await;
            (options, name)
        })
        .await
}

async fn new_database() -> PgConnectOptions {
    let (options, template) = template_database().await;
    let name = format!("{template}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut admin = options.connect().await.unwrap();
    let create = format!("create database {name} template {template} strategy file_copy");
    admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    options.clone().database(&name)
}

/// A data folder that is removed with its server.
#[derive(Debug)]
struct TempDataFolder(PathBuf);

impl TempDataFolder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tancho-it-{}", uuid::Uuid::new_v4().simple())))
    }
}

impl Drop for TempDataFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// On what the units of a server run.
enum TestRunners {
    /// Processes of this machine.
    Local,
    /// A fake instead of them, and these beside it.
    Fake(Vec<(&'static str, Runner)>),
}

/// The id of the host of every server.
const HOST: &str = "test";

/// Opens the provisioners that the program has.
fn open_provisioners(settings: &Settings, dirs: &DataDir) -> ProvisionerRegistry {
    let parts = RunnerParts {
        settings,
        data_dir: dirs,
        host: HOST,
        exe: env!("CARGO_BIN_EXE_tancho").into(),
        version_dir: Arc::new(versions::version_dir_rule(dirs)),
        app_uid: Arc::new(versions::app_uid_rule(dirs, settings)),
        tasks: &TaskTracker::new(),
        stop: CancellationToken::new(),
    };
    ProvisionerRegistry::open(PROVISIONERS, &parts).unwrap()
}

impl TestServer {
    /// Starts a server with the default settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with changed settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_on(new_database().await, change).await
    }

    /// Starts a server whose units are processes of this machine. End it with `stop_with_units`.
    pub(crate) async fn start_with_local_units() -> Self {
        Self::start_with_units(new_database().await, |_| {}, TestRunners::Local).await
    }

    /// Starts a server that has more provisioners.
    pub(crate) async fn start_with_runner(name: &'static str, runner: Runner) -> Self {
        let runners = TestRunners::Fake(vec![(name, runner)]);
        Self::start_with_units(new_database().await, |_| {}, runners).await
    }

    /// Stops the server and its units.
    pub(crate) async fn stop_with_units(self) {
        let provisioners = self.running.core.provisioners.clone();
        self.running.drain_and_stop().await;
        provisioners.stop_all_units(Duration::from_secs(1)).await.unwrap();
    }

    /// Starts a server on a database that `prepare` fills as an older version would have left it.
    pub(crate) async fn start_upgraded(prepare: impl AsyncFnOnce(&sqlx::PgPool)) -> Self {
        let (options, template) = template_database().await;
        let name = format!("{template}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut admin = options.connect().await.unwrap();
        let create = format!("create database {name}");
        admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
        let options = options.clone().database(&name);
        let db = sqlx::PgPool::connect_with(options.clone()).await.unwrap();
        prepare(&db).await;
        tancho::db::run_migrations(&db).await.unwrap();
        db.close().await;
        Self::start_on(options, |_| {}).await
    }

    /// Starts another server on the same database, as on another machine.
    pub(crate) async fn start_replica(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let options = self.running.core.db.connect_options();
        let key_file = self.running.core.data_dir.key_file_path();
        let change = |settings: &mut Settings| {
            if key_file.exists() {
                settings.secrets.key_file = key_file;
            }
            change(settings);
        };
        Self::start_on(PgConnectOptions::clone(&options), change).await
    }

    async fn start_on(database: PgConnectOptions, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with_units(database, change, TestRunners::Fake(Vec::new())).await
    }

    async fn start_with_units(
        database: PgConnectOptions,
        change: impl FnOnce(&mut Settings),
        runners: TestRunners,
    ) -> Self {
        let mut settings = Settings::defaults();
        settings.auth.hash_memory_kib = 64;
        settings.database.max_connections = 5;
        change(&mut settings);
        let db = tancho::db::open_pool(database, &settings.database).await.unwrap();
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api_https = match settings.api.https_listen {
            Some(address) => Some(TcpListener::bind(address).await.unwrap()),
            None => None,
        };
        let folder = TempDataFolder::new();
        let fake = FakeUnitRunner::default();
        let dirs = DataDir::open(&folder.0).unwrap();
        let provisioners = match runners {
            TestRunners::Local => open_provisioners(&settings, &dirs),
            TestRunners::Fake(more) => {
                let fake = ("local", Runner::Units(Arc::new(fake.clone())));
                ProvisionerRegistry::from_runners([fake].into_iter().chain(more))
            }
        };
        // The program that starts git lies beside the platforms.
        std::fs::create_dir(folder.0.join("bin")).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_tancho"), folder.0.join("bin/tancho")).unwrap();
        let wanted = ServerParts {
            keys: load_or_create_keys(&settings.secrets, &dirs).unwrap(),
            settings,
            db,
            data_dir: dirs,
            platforms_dir: folder.0.join("platforms"),
            pass_env: Vec::new(),
            host: HOST.into(),
            provisioners,
            api_addr: api.local_addr().unwrap(),
            api: Some(api),
            api_https,
            ssh: None,
            router: None,
            router_https: None,
            router_addr: "127.0.0.1:8888".parse().unwrap(),
            predecessor: Predecessor::Exited,
        };
        let running = server::start_server(wanted).await.unwrap();
        let url = format!("http://{}", running.api_addr.unwrap());
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            running,
            _folder: folder,
            url,
            http,
            fake,
        }
    }

    /// Waits until a query that matches this SQL pattern waits for a lock.
    pub(crate) async fn wait_for_blocked_query(&self, pattern: &str) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        let waiting = "select exists (select from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock' and query like $1)";
        loop {
            let query = sqlx::query_scalar(waiting).bind(pattern);
            if query.fetch_one(&self.running.core.db).await.unwrap() {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "no query like {pattern} waits for a lock"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Builds a request to a path of the API.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Builds a request of a user.
    pub(crate) fn request_as(&self, user: &TestUser, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path)
            .header("authorization", format!("bearer {}", user.token))
    }

    /// Logs in as an administrator.
    pub(crate) async fn login_admin(&self) -> TestUser {
        let email = Email::parse("root@example.com").unwrap();
        tancho::users::create_admin(
            &self.running.core.db,
            &self.running.core.settings.auth,
            &email,
            &Secret::new(PASSWORD),
        )
        .await
        .unwrap();
        self.login(email.as_str()).await
    }

    /// Creates a user `<name>@example.com` and logs in.
    pub(crate) async fn create_user(&self, name: &str) -> TestUser {
        let email = format!("{name}@example.com");
        let answer = self
            .request(Method::POST, "/1.0/users")
            .form(&[("email", email.as_str()), ("password", PASSWORD)])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        self.login(&email).await
    }

    /// Logs a user in once more.
    pub(crate) async fn login(&self, email: &str) -> TestUser {
        let answer = self
            .request(Method::POST, &format!("/1.0/users/{email}/tokens"))
            .form(&[("password", PASSWORD)])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        let body: Value = answer.json().await.unwrap();
        TestUser {
            email: email.to_owned(),
            token: body["token"].as_str().unwrap().to_owned(),
        }
    }

    /// Creates a team as a user.
    pub(crate) async fn create_team(&self, user: &TestUser, name: &str) {
        let answer = self
            .request_as(user, Method::POST, "/1.0/teams")
            .json(&serde_json::json!({ "name": name }))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Sends JSON (or nothing) as a user; returns the status and the body.
    pub(crate) async fn send_json(
        &self,
        user: &TestUser,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, String) {
        let request = self.request_as(user, method, path);
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Reads JSON as a user; any status but 200 fails the test.
    pub(crate) async fn read_json(&self, user: &TestUser, path: &str) -> Value {
        let (status, text) = self.send_json(user, Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}
