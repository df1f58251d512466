//! Chaos: several users at work on two replicas, while replicas, the service, units, shims and Postgres are killed,
//! stopped and hung at random.
//!
//! Each user works on things of its own, one wish after the other, and keeps a model of what the answers said. What
//! was answered as done is in the model, what was refused or failed is not; when no answer came, the wish's event
//! says how it ended (no event: it never began). At the end the world, that is the API, the apps behind both
//! routers, the processes and what the service holds, must be what the models say: nothing lost, nothing doubled,
//! nothing stuck.
//!
//! `script/chaos` runs it for longer. `TANCHO_CHAOS_SECONDS` says how long, `TANCHO_CHAOS_SEED` repeats the wishes and
//! the kills of a run, as far as time lets anything be repeated.

mod check;
mod monkey;
mod user;
mod world;

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use proptest::test_runner::{RngAlgorithm, TestRng};
use reqwest::Method;
use tokio_util::sync::CancellationToken;

use self::monkey::Monkey;
use self::user::User;
use crate::cluster::Cluster;
use crate::fleet::{Nginx, Replica, port};
use crate::house::{House, seconds};
use crate::services::Slow;

/// How long there is chaos without a wish for more.
const SECONDS: u64 = 60;
const USERS: u64 = 5;

fn number(name: &str) -> Option<u64> {
    let set = tancho::config::environment().find_map(|(k, v)| (k == name).then_some(v));
    set.map(|n| n.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// The time of day in seconds, as the service's log has it too.
fn clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    format!("{:.2}", now.as_secs_f64())
}

/// Numbers that a seed makes, others for each who asks.
fn dice(seed: u64, who: u64) -> TestRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..16].copy_from_slice(&who.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// Everything that can break, and the nginx that all users call.
struct Scene {
    folder: House,
    cluster: Cluster,
    replicas: Vec<Replica>,
    nginx: Nginx,
    slow: Option<Slow>,
    slow_port: u16,
}

impl Scene {
    async fn start() -> Self {
        let folder = House::empty();
        let cluster = Cluster::start(PathBuf::from(format!("{}-pg", folder.root.display())));
        let key = format!("1:{}", "5e".repeat(32));
        let mut replicas: Vec<Replica> = (0..2)
            .map(|_| Replica::new(&cluster.url("postgres"), &key))
            .collect();
        for one in &mut replicas {
            one.house.set("TANCHO_API_REQUEST_TIMEOUT_SECONDS", "10");
            // What a dead replica was telling the service is told again by others after that.
            one.house.set("TANCHO_SERVICES_TIMEOUT_SECONDS", "10");
            one.serve();
        }
        let apis: Vec<u16> = replicas.iter().map(|one| one.api).collect();
        let routers: Vec<u16> = replicas.iter().map(|one| one.router).collect();
        let nginx = Nginx::start(&folder.root, &apis, &routers, "off");
        replicas[0].house.login().await;
        replicas[0].house.team().await;
        let slow_port = port();
        let slow = Slow::kept(&folder.root.join("service.json"), slow_port);
        slow.register(&replicas[0].house).await;
        let token = replicas[0].house.token.clone();
        replicas[1].house.token = token;
        Self {
            folder,
            cluster,
            replicas,
            nginx,
            slow: Some(slow),
            slow_port,
        }
    }

    /// A service that is not there is made again, with what it held.
    fn start_service(&mut self) {
        self.slow = None;
        self.slow = Some(Slow::kept(&self.folder.root.join("service.json"), self.slow_port));
    }

    /// Lets a user's team use the service.
    async fn admit(&self, team: &str) {
        let house = &self.replicas[0].house;
        let answer = house.by(Method::PUT, &format!("/1.0/services/store/team/{team}"));
        assert_eq!(answer.send().await.unwrap().status(), 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_so_after_chaos() {
    let length = seconds(number("TANCHO_CHAOS_SECONDS").unwrap_or(SECONDS));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("TANCHO_CHAOS_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    println!("chaos of {length:?}, seed {seed}");
    let mut scene = Scene::start().await;
    let stop = CancellationToken::new();
    let mut working = Vec::new();
    for who in 0..USERS {
        let user = User::arrive(&scene.nginx.api, who, dice(seed, who)).await;
        scene.admit(&user.team).await;
        working.push(user.work(stop.clone()));
    }
    let began = Instant::now();
    let mut monkey = Monkey::new(dice(seed, USERS), began);
    // In a thread of its own, because it waits for processes.
    let calamities = tokio::task::spawn_blocking({
        let (until, stop) = (began + length, stop.clone());
        move || {
            // Also when it panics, so that the users' work ends.
            let _stop = stop.drop_guard();
            while Instant::now() < until {
                monkey.act(&mut scene);
            }
            (scene, monkey)
        }
    });
    let (calamities, users) = tokio::join!(calamities, join_all(working));
    let (scene, monkey) = calamities.unwrap();
    println!("{}", monkey.report());
    let wishes: usize = users.iter().map(|user| user.tally.all()).sum();
    for user in &users {
        println!("{}", user.report());
    }
    let quiet = Instant::now();
    let wrong: Vec<String> = users.iter().flat_map(|user| user.wrong.clone()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    check::nothing_is_stuck(&scene).await;
    for user in &users {
        check::is_as_told(&scene, user).await;
    }
    check::nothing_is_doubled(&scene, &users).await;
    println!(
        "{wishes} wishes; quiet and proven {:.1} s after the end: 0 lost, 0 doubled, 0 stuck",
        quiet.elapsed().as_secs_f64()
    );
    let done: usize = users.iter().map(|user| user.tally.done).sum();
    // A check of nothing would prove nothing.
    assert!(
        done >= usize::try_from(length.as_secs() / 10).unwrap(),
        "{done} done"
    );
}
