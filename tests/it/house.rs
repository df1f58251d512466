//! A house for one test: a database of its own, a server on ports of its own, people to act.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tancho::config::Settings;
use tancho::core::Provisioners;
use tancho::datadir::{DataDir, load_or_create_keys};
use tancho::kernel::names::Email;
use tancho::kernel::secret::Secret;
use tancho::provisioners::Provisioner;
use tancho::provisioners::fake::Fake;
use tancho::server::{self, Running, Wanted};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

/// The password of everybody in tests.
pub(crate) const PASSWORD: &str = "secret123";

/// Somebody who has logged in.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) email: String,
    pub(crate) token: String,
}

/// A running server with a database of its own.
pub struct House {
    pub running: Running,
    _folder: Folder,
    pub url: String,
    pub http: reqwest::Client,
    /// Where its units "run".
    pub fake: Fake,
}

static TEMPLATE: OnceCell<(PgConnectOptions, String)> = OnceCell::const_new();
static COUNT: AtomicU32 = AtomicU32::new(0);

async fn template() -> &'static (PgConnectOptions, String) {
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
            tancho::db::migrate(&db).await.unwrap();
            db.close().await;
            (options, name)
        })
        .await
}

async fn new_database() -> PgConnectOptions {
    let (options, template) = template().await;
    let name = format!("{template}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut admin = options.connect().await.unwrap();
    let create = format!("create database {name} template {template} strategy file_copy");
    admin.execute(sqlx::AssertSqlSafe(create)).await.unwrap();
    options.clone().database(&name)
}

/// A data folder that goes with its house.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        Self(std::env::temp_dir().join(format!("tancho-it-{}", uuid::Uuid::new_v4().simple())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl House {
    /// A house with the default settings.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A house with settings of its own.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::on(new_database().await, change).await
    }

    /// Another server on the database of this one, on a machine of its own.
    pub(crate) async fn beside(&self, change: impl FnOnce(&mut Settings)) -> Self {
        let options = self.running.core.db.connect_options();
        Self::on(PgConnectOptions::clone(&options), change).await
    }

    async fn on(database: PgConnectOptions, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::defaults();
        settings.auth.hash_memory_kib = 64;
        settings.database.max_connections = 5;
        change(&mut settings);
        let db = tancho::db::open(database, &settings.database).await.unwrap();
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let folder = Folder::new();
        let fake = Fake::default();
        let provisioner = Arc::new(fake.clone()) as Arc<dyn Provisioner>;
        let dirs = DataDir::open(&folder.0).unwrap();
        let wanted = Wanted {
            keys: load_or_create_keys(&settings.secrets, &dirs).unwrap(),
            settings,
            db,
            dirs,
            platforms_dir: folder.0.join("platforms"),
            pass_env: Vec::new(),
            host: "test".into(),
            provisioners: Provisioners::new(BTreeMap::from([("local".to_owned(), provisioner)])),
            api,
            ssh: None,
            router: None,
            router_addr: "127.0.0.1:8888".parse().unwrap(),
        };
        let running = server::start(wanted).await.unwrap();
        let url = format!("http://{}", running.api_addr);
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

    /// A request to a path of the API.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// A request of a person.
    pub(crate) fn by(&self, person: &Person, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path)
            .header("authorization", format!("bearer {}", person.token))
    }

    /// An administrator, logged in.
    pub(crate) async fn admin(&self) -> Person {
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

    /// A new user `<name>@example.com`, registered and logged in.
    pub(crate) async fn person(&self, name: &str) -> Person {
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

    /// Another session of a user.
    pub(crate) async fn login(&self, email: &str) -> Person {
        let answer = self
            .request(Method::POST, &format!("/1.0/users/{email}/tokens"))
            .form(&[("password", PASSWORD)])
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
        let body: Value = answer.json().await.unwrap();
        Person {
            email: email.to_owned(),
            token: body["token"].as_str().unwrap().to_owned(),
        }
    }

    /// A new team of a person.
    pub(crate) async fn team(&self, person: &Person, name: &str) {
        let answer = self
            .by(person, Method::POST, "/1.0/teams")
            .json(&serde_json::json!({ "name": name }))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Sends JSON (or nothing) as a person; answers the status and the text.
    pub(crate) async fn ask(
        &self,
        person: &Person,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, String) {
        let request = self.by(person, method, path);
        let request = match body {
            Some(body) => request.body(body.to_string()),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Reads JSON as a person; anything but 200 fails the test.
    pub(crate) async fn read(&self, person: &Person, path: &str) -> Value {
        let (status, text) = self.ask(person, Method::GET, path, None).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }
}
