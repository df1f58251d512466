//! A Postgres that is stopped, killed, full or hung: the API answers 503 with Retry-After, apps are not
//! affected, and confirmed changes are kept.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::load::SteadyLoad;
use crate::test_instance::{TestInstance, seconds, wait_for};

/// The time that Tancho may take for a response here.
const DEADLINE: u64 = 5;

/// The responses to a user who creates one team after the other.
#[derive(Default)]
struct WriterLog {
    made: Vec<String>,
    refused: usize,
    wrong: Vec<String>,
}

struct TeamWriter {
    told: Arc<Mutex<WriterLog>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl TeamWriter {
    fn start(tancho: &TestInstance) -> Self {
        let told = Arc::new(Mutex::new(WriterLog::default()));
        let stop = CancellationToken::new();
        let (http, token) = (tancho.http.clone(), tancho.token.clone());
        let url = format!("{}/1.0/teams", tancho.running().api);
        let task = tokio::spawn({
            let (told, stop) = (Arc::clone(&told), stop.clone());
            async move {
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                for number in 0.. {
                    tokio::select! {
                        _ = ticks.tick() => {}
                        () = stop.cancelled() => return,
                    }
                    let name = format!("team{number}");
                    let request = http.post(&url).json(&json!({ "name": name })).bearer_auth(&token);
                    let began = Instant::now();
                    let answer = request.send().await;
                    let took = began.elapsed();
                    let mut told = told.lock().unwrap();
                    match answer {
                        Ok(answer) if answer.status() == 201 => told.made.push(name),
                        Ok(answer)
                            if answer.status() == 503 && answer.headers().contains_key("retry-after") =>
                        {
                            told.refused += 1;
                            // A busy machine gets twice the time.
                            if took > seconds(2 * DEADLINE) {
                                told.wrong.push(format!("{name}: 503 after {took:?}"));
                            }
                        }
                        other => told.wrong.push(format!("{name}: {other:?}")),
                    }
                }
            }
        });
        Self { told, stop, task }
    }

    fn count_created(&self) -> usize {
        self.told.lock().unwrap().made.len()
    }

    fn count_refused(&self) -> usize {
        self.told.lock().unwrap().refused
    }

    /// Waits for a refusal that comes from now on.
    async fn wait_for_refusal(&self, what: &str) {
        let before = self.count_refused();
        wait_for(&format!("{what}: a refusal"), seconds(40), async || {
            (self.count_refused() > before).then_some(())
        })
        .await;
    }

    /// Waits until a few more teams are created.
    async fn wait_for_progress(&self, what: &str) {
        let before = self.count_created();
        wait_for(
            &format!("{what}: changes succeed again"),
            seconds(60),
            async || (self.count_created() > before + 3).then_some(()),
        )
        .await;
    }
}

/// Takes all connections of the server, including those of Tancho.
async fn take_all_connections(cluster: &PostgresCluster) -> Vec<PgConnection> {
    let url = cluster.url("postgres");
    let mut held = vec![PgConnection::connect(&url).await.unwrap()];
    let end = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'tancho'";
    let mut quiet = 0;
    // Tancho takes some again in between; a few rounds without any are enough.
    while quiet < 5 {
        let ended = sqlx::query(end).fetch_all(&mut held[0]).await.unwrap().len();
        quiet = if ended == 0 { quiet + 1 } else { 0 };
        while let Ok(one) = PgConnection::connect(&url).await {
            held.push(one);
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_failure_causes_503_without_losing_confirmed_changes() {
    let mut tancho = TestInstance::new_empty();
    let cluster = PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", tancho.root.display())));
    tancho.set("DATABASE_URL", &cluster.url("postgres"));
    tancho.set("TANCHO_API_REQUEST_TIMEOUT_SECONDS", &DEADLINE.to_string());
    tancho.set("TANCHO_DATABASE_ACQUIRE_TIMEOUT_SECONDS", "2");
    tancho.serve();
    tancho.login().await;
    tancho.team().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    let load = SteadyLoad::start(tancho.running().router.clone(), Some("shop.localhost"), 20);
    let writer = TeamWriter::start(&tancho);
    writer.wait_for_progress("at first").await;
    let health = async |path: &str| {
        let url = format!("{}{path}", tancho.running().api);
        let answer = tancho.http.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let works = (200, "WORKING".to_owned());
    assert_eq!(health("/healthcheck?check=all").await, works);

    cluster.stop_server("fast");
    writer.wait_for_refusal("stopped").await;
    assert_eq!(health("/healthcheck/").await, works);
    for path in ["/healthcheck?check=all", "/healthcheck/?check=all"] {
        let (status, text) = health(path).await;
        assert!(
            status == 503 && text.starts_with("database: ") && text.lines().count() == 1,
            "{text}"
        );
    }
    cluster.start_server();
    writer.wait_for_progress("started").await;

    cluster.stop_server("immediate");
    cluster.start_server();
    writer.wait_for_progress("restarted").await;

    cluster.kill();
    writer.wait_for_refusal("killed").await;
    cluster.start_server();
    writer.wait_for_progress("started after SIGKILL").await;

    let held = take_all_connections(&cluster).await;
    writer.wait_for_refusal("full").await;
    for one in held {
        one.close().await.unwrap();
    }
    writer.wait_for_progress("no more full").await;

    cluster.signal(Signal::SIGSTOP);
    writer.wait_for_refusal("hung").await;
    cluster.signal(Signal::SIGCONT);
    writer.wait_for_progress("no more hung").await;

    writer.stop.cancel();
    writer.task.await.unwrap();
    let told = std::mem::take(&mut *writer.told.lock().unwrap());
    println!("{} made, {} refused", told.made.len(), told.refused);
    assert!(told.wrong.is_empty(), "{:#?}", told.wrong);
    let mut db = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    let rows = sqlx::query_scalar::<_, String>("select name::text from team")
        .fetch_all(&mut db)
        .await
        .unwrap();
    let lost: Vec<_> = told.made.iter().filter(|name| !rows.contains(name)).collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(health("/healthcheck?check=all").await, works);
    load.end().await.assert_clean(100);
    // Durable work continues too.
    tancho.set_env("shop", "GREETING", "hello").await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 hello".to_owned()));
    drop(tancho);
    drop(cluster);
}
