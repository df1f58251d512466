//! A Postgres that stops, dies, is full or hangs: who calls the API is told to come again, apps notice nothing, and
//! what was answered as done is done.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::apps::Source;
use crate::cluster::Cluster;
use crate::house::{House, seconds, until};
use crate::load::Load;

/// How long Tancho may take for an answer here.
const DEADLINE: u64 = 5;

/// What was answered to somebody who makes one team after the other.
#[derive(Default)]
struct Told {
    made: Vec<String>,
    refused: usize,
    wrong: Vec<String>,
}

struct Writer {
    told: Arc<Mutex<Told>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(house: &House) -> Self {
        let told = Arc::new(Mutex::new(Told::default()));
        let stop = CancellationToken::new();
        let (http, token) = (house.http.clone(), house.token.clone());
        let url = format!("{}/1.0/teams", house.running().api);
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
                            // A busy machine gets as much again.
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

    fn made(&self) -> usize {
        self.told.lock().unwrap().made.len()
    }

    fn refused(&self) -> usize {
        self.told.lock().unwrap().refused
    }

    /// Waits for a refusal that has come from now on.
    async fn is_refused(&self, what: &str) {
        let before = self.refused();
        until(&format!("{what}: a refusal"), seconds(40), async || {
            (self.refused() > before).then_some(())
        })
        .await;
    }

    /// Waits until a few more are made.
    async fn goes_on(&self, what: &str) {
        let before = self.made();
        until(&format!("{what}: it goes on"), seconds(60), async || {
            (self.made() > before + 3).then_some(())
        })
        .await;
    }
}

/// Takes every connection that the server has, those of Tancho too.
async fn take_all(cluster: &Cluster) -> Vec<PgConnection> {
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
async fn a_database_that_fails_costs_refusals_and_nothing_else() {
    let mut house = House::empty();
    let cluster = Cluster::start(std::path::PathBuf::from(format!("{}-pg", house.root.display())));
    house.set("DATABASE_URL", &cluster.url("postgres"));
    house.set("TANCHO_API_REQUEST_TIMEOUT_SECONDS", &DEADLINE.to_string());
    house.set("TANCHO_DATABASE_ACQUIRE_TIMEOUT_SECONDS", "2");
    house.serve();
    house.login().await;
    house.team().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    let load = Load::start(house.running().router.clone(), Some("shop.localhost"), 20);
    let writer = Writer::start(&house);
    writer.goes_on("at first").await;
    let health = async |path: &str| {
        let url = format!("{}{path}", house.running().api);
        let answer = house.http.get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let works = (200, "WORKING".to_owned());
    assert_eq!(health("/healthcheck?check=all").await, works);

    cluster.halt("fast");
    writer.is_refused("stopped").await;
    assert_eq!(health("/healthcheck/").await, works);
    for path in ["/healthcheck?check=all", "/healthcheck/?check=all"] {
        let (status, text) = health(path).await;
        assert!(
            status == 503 && text.starts_with("database: ") && text.lines().count() == 1,
            "{text}"
        );
    }
    cluster.go_on();
    writer.goes_on("started").await;

    cluster.halt("immediate");
    cluster.go_on();
    writer.goes_on("restarted").await;

    cluster.kill();
    writer.is_refused("killed").await;
    cluster.go_on();
    writer.goes_on("started after SIGKILL").await;

    let held = take_all(&cluster).await;
    writer.is_refused("full").await;
    for one in held {
        one.close().await.unwrap();
    }
    writer.goes_on("no more full").await;

    cluster.signal(Signal::SIGSTOP);
    writer.is_refused("hung").await;
    cluster.signal(Signal::SIGCONT);
    writer.goes_on("no more hung").await;

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
    // Durable work goes on too.
    house.set_env("shop", "GREETING", "hello").await;
    assert_eq!(house.visit("shop", "/").await, (200, "v1 hello".to_owned()));
    drop(house);
    drop(cluster);
}
