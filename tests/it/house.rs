//! A house for one test: a database of its own, a server on ports of its own, people to act.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor};
use tancho::config::Settings;
use tancho::core::Provisioners;
use tancho::kernel::seal::Keyring;
use tancho::provisioners::Provisioner;
use tancho::provisioners::fake::Fake;
use tancho::server::{self, Running, Wanted};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;

/// A running server with a database of its own.
pub struct House {
    pub running: Running,
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

/// The fake in the place of the local provisioner.
pub fn provisioners(fake: &Fake) -> Provisioners {
    Arc::new([("local".to_owned(), Arc::new(fake.clone()) as Arc<dyn Provisioner>)].into())
}

impl House {
    /// A house with the default settings.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A house with settings of its own.
    pub async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings::defaults();
        settings.auth.hash_memory_kib = 64;
        settings.database.max_connections = 5;
        change(&mut settings);
        let db = tancho::db::open(new_database().await, &settings.database)
            .await
            .unwrap();
        let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Fake::new();
        let keys = Keyring::parse(Keyring::generate().expose()).unwrap();
        let wanted = Wanted {
            settings,
            db,
            keys,
            host: "test".into(),
            provisioners: provisioners(&fake),
            api,
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
            url,
            http,
            fake,
        }
    }

    /// A request to a path of the API.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }
}
