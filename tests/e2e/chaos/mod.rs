//! Chaos: several users work on two replicas, while replicas, the service, units, shims and Postgres are
//! killed, stopped and hung at random.
//!
//! Each user works on resources of its own, one operation after the other, and keeps a model of the
//! responses. A confirmed operation is in the model, a refused or failed one is not; without a response, the
//! operation's event tells how it ended (no event: it never began). At the end the state of the system, that
//! is the API, the apps behind both routers, the processes and the data of the service, must match the
//! models: nothing lost, nothing duplicated, nothing stuck.
//!
//! `script/chaos` runs it for longer. `TANCHO_CHAOS_SECONDS` sets how long, `TANCHO_CHAOS_SEED` repeats the
//! operations and the kills of a run, as far as timing can be repeated.

mod check;
mod model;
mod monkey;
mod user;

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use proptest::test_runner::{RngAlgorithm, TestRng};
use reqwest::Method;
use tokio_util::sync::CancellationToken;

use self::monkey::ChaosMonkey;
use self::user::ChaosUser;
use crate::cluster::PostgresCluster;
use crate::fleet::{NginxBalancer, TanchoReplica, reserve_port};
use crate::services::SlowService;
use crate::test_instance::{TestInstance, seconds};

/// The default duration of the chaos.
const SECONDS: u64 = 60;
const USERS: u64 = 5;

fn number(name: &str) -> Option<u64> {
    let set = tancho::config::tancho_environment().find_map(|(k, v)| (k == name).then_some(v));
    set.map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Returns the time of day in seconds, as in the log of the service.
fn clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{:.2}", now.as_secs_f64())
}

/// Returns a random generator for a seed, a different one for each user.
fn seeded_rng(seed: u64, who: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&who.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// Everything that can fail, and the nginx that all users call.
struct ChaosFixture {
    base: TestInstance,
    cluster: PostgresCluster,
    replicas: Vec<TanchoReplica>,
    nginx: NginxBalancer,
    slow: Option<SlowService>,
    slow_port: u16,
}

impl ChaosFixture {
    async fn start() -> Self {
        let folder = TestInstance::new_empty();
        let cluster = PostgresCluster::start(PathBuf::from(format!("{}-pg", folder.root.display())));
        let key = format!("1:{}", "5e".repeat(32));
        let mut replicas: Vec<TanchoReplica> = (0..2)
            .map(|_| TanchoReplica::new(&cluster.url("postgres"), &key))
            .collect();
        for one in &mut replicas {
            one.tancho.set("TANCHO_API_REQUEST_TIMEOUT_SECONDS", "10");
            // Calls that a dead replica was making are repeated by others after that.
            one.tancho.set("TANCHO_SERVICES_TIMEOUT_SECONDS", "10");
            one.serve();
        }
        let apis: Vec<u16> = replicas.iter().map(|one| one.api).collect();
        let routers: Vec<u16> = replicas.iter().map(|one| one.router).collect();
        let nginx = NginxBalancer::start(&folder.root, &apis, &routers, "off");
        replicas[0].tancho.login().await;
        replicas[0].tancho.team().await;
        let slow_port = reserve_port();
        let slow = SlowService::start_with_file(&folder.root.join("service.json"), slow_port);
        slow.register(&replicas[0].tancho).await;
        let token = replicas[0].tancho.token.clone();
        replicas[1].tancho.token = token;
        Self {
            base: folder,
            cluster,
            replicas,
            nginx,
            slow: Some(slow),
            slow_port,
        }
    }

    /// Starts the service again with its data, if it is not running.
    fn start_service(&mut self) {
        self.slow = None;
        self.slow = Some(SlowService::start_with_file(
            &self.base.root.join("service.json"),
            self.slow_port,
        ));
    }

    /// Grants a user's team access to the service.
    async fn grant_service(&self, team: &str) {
        let tancho = &self.replicas[0].tancho;
        let answer = tancho.request_as_admin(Method::PUT, &format!("/1.0/services/store/team/{team}"));
        assert_eq!(answer.send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_matches_the_responses_after_chaos() {
    let length = seconds(number("TANCHO_CHAOS_SECONDS").unwrap_or(SECONDS));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("TANCHO_CHAOS_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("chaos of {length:?}, seed {seed}");
    let mut fixture = ChaosFixture::start().await;
    let stop = CancellationToken::new();
    let mut working = Vec::new();
    for who in 0..USERS {
        let user = ChaosUser::sign_up(&fixture.nginx.api, who, seeded_rng(seed, who)).await;
        fixture.grant_service(&user.team).await;
        working.push(user.run_operations(stop.clone()));
    }
    let began = Instant::now();
    let mut monkey = ChaosMonkey::new(seeded_rng(seed, USERS), began);
    // In a thread of its own, because it waits for processes.
    let calamities = tokio::task::spawn_blocking({
        let (until, stop) = (began + length, stop.clone());
        move || {
            // Also when it panics, so that the users stop.
            let _stop = stop.drop_guard();
            while Instant::now() < until {
                monkey.inject_fault(&mut fixture);
            }
            (fixture, monkey)
        }
    });
    let (calamities, users) = tokio::join!(calamities, join_all(working));
    let (fixture, monkey) = calamities.unwrap();
    println!("{}", monkey.report());
    let operations: usize = users.iter().map(|user| user.tally.all()).sum();
    for user in &users {
        println!("{}", user.report());
    }
    let quiet = Instant::now();
    let wrong: Vec<String> = users.iter().flat_map(|user| user.wrong.clone()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    check::assert_nothing_stuck(&fixture).await;
    for user in &users {
        check::assert_matches_model(&fixture, user).await;
    }
    check::assert_no_duplicates(&fixture, &users).await;
    println!(
        "{operations} operations; settled and checked {:.1} s after the end: 0 lost, 0 duplicated, 0 stuck",
        quiet.elapsed().as_secs_f64()
    );
    let done: usize = users.iter().map(|user| user.tally.done).sum();
    // A check of nothing would prove nothing.
    assert!(
        done >= usize::try_from(length.as_secs() / 10).unwrap(),
        "{done} done"
    );
}
