//! The roles split over hosts: one process answers the API, others work, another routes. Each has a data folder of its
//! own, and all they share is the database.

use std::path::PathBuf;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::fleet::TanchoReplica;
use crate::forge::{self, ForgeRemote};
use crate::git_client::{GitClient, remote_lines};
use crate::test_instance::{
    EMAIL, PASSWORD, TestInstance, get_through_router, list_names, seconds, wait_for,
};

/// One process for each role, and as many workers as asked for. Fields go in this order.
struct SplitDeployment {
    api: TanchoReplica,
    router: TanchoReplica,
    workers: Vec<TanchoReplica>,
    cluster: PostgresCluster,
    _folder: TestInstance,
}

impl SplitDeployment {
    /// All started but the workers after the first; a team, and an app `shop`.
    async fn start(workers: usize) -> Self {
        let folder = TestInstance::new_empty();
        let cluster = PostgresCluster::start(PathBuf::from(format!("{}-pg", folder.root.display())));
        let key = format!("1:{}", "5e".repeat(32));
        let with_role = |role: &str| {
            let mut replica = TanchoReplica::new(&cluster.url("postgres"), &key);
            replica.tancho.set("TANCHO_ROLES", role);
            replica
        };
        let mut split = Self {
            api: with_role("api"),
            router: with_role("router"),
            workers: (0..workers).map(|_| with_role("worker")).collect(),
            cluster,
            _folder: folder,
        };
        split.api.serve();
        split.router.serve();
        split.workers[0].serve();
        split.api.tancho.login().await;
        split.api.tancho.team().await;
        split.api.tancho.create_app("shop").await;
        split
    }

    fn api(&self) -> &TestInstance {
        &self.api.tancho
    }

    async fn visit(&self, app: &str) -> (u16, String) {
        get_through_router(&self.api().http, &self.router.tancho.running().router, app, "/").await
    }

    /// A number from the database.
    async fn count(&self, sql: &str) -> i64 {
        self.cluster.number("postgres", sql).await
    }

    /// Begins the removal of an app, and waits for its end; the event.
    async fn remove(&self, app: &str) -> Value {
        let request = self
            .api()
            .request_as_admin(Method::DELETE, &format!("/1.0/apps/{app}"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
        let text = answer.text().await.unwrap();
        assert!(!text.contains("\"Error\""), "{text}");
        self.api().wait_for_event_end(&event, seconds(30)).await
    }

    /// Waits until no host and no table has anything of an app any more.
    async fn wait_until_nothing_is_left(&self) {
        let hosts = || self.workers.iter().chain([&self.api, &self.router]);
        let mut last = Vec::new();
        wait_for("no file of a removed app", seconds(30), async || {
            let mut left = Vec::new();
            for host in hosts() {
                for folder in ["versions", "cache", "uploads"] {
                    let names = list_names(&host.tancho.data.join(folder));
                    left.extend(names.iter().map(|name| format!("{folder}/{name}")));
                }
            }
            for table in [
                "uploaded_archive",
                "uploaded_archive_chunk",
                "version_holder",
                "unit",
            ] {
                let rows = self.count(&format!("select count(*) from {table}")).await;
                if rows > 0 {
                    left.push(format!("{rows} rows of {table}"));
                }
            }
            if left != last {
                println!("still there: {left:?}");
                last.clone_from(&left);
            }
            left.is_empty().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_is_deployed_pushed_rolled_back_and_removed_with_one_role_a_host() {
    let split = SplitDeployment::start(1).await;
    let api = split.api();
    api.deploy("shop", &AppSource::web("one").pack()).await;
    assert_eq!(split.visit("shop").await, (200, "one -".to_owned()));
    api.set_env("shop", "GREETING", "hello").await;
    assert_eq!(split.visit("shop").await, (200, "one hello".to_owned()));

    // A build that fails leaves what runs, and nothing of itself on any host.
    let broken = AppSource::web("broken").hooks(&["exit 7"]).pack();
    let text = api.begin_deploy("shop", &broken).await.text().await.unwrap();
    assert!(!text.ends_with("\nOK\n"), "{text}");
    assert_eq!(split.visit("shop").await, (200, "one hello".to_owned()));

    // A push, whose repository lies with the API.
    let desk = GitClient::new(api);
    let work = desk.init_copy_of_app(api, "work", "shop");
    work.commit(&AppSource::web("two").hooks(&["echo built elsewhere"]), "Two");
    let said = work.push(&["main"]).expect_success();
    assert!(remote_lines(&said).contains("built elsewhere"), "{said}");
    assert_eq!(split.visit("shop").await, (200, "two hello".to_owned()));
    let form = [("image", "v1"), ("origin", "rollback")];
    api.change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(split.visit("shop").await, (200, "one -".to_owned()));
    api.change(
        Method::PUT,
        "/1.0/apps/shop/units",
        &[("units", "1"), ("process", "web")],
    )
    .await;

    let event = split.remove("shop").await;
    assert_eq!(event["Error"], "", "{event}");
    split.wait_until_nothing_is_left().await;
    wait_for("the repository is gone", seconds(90), async || {
        let left = list_names(&api.data.join("repositories"));
        left.iter().all(|name| !name.ends_with(".git")).then_some(())
    })
    .await;
    // The name is free again.
    api.create_app("shop").await;
    api.deploy("shop", &AppSource::web("again").pack()).await;
    assert_eq!(split.visit("shop").await, (200, "again -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_of_a_forge_is_deployed_when_the_repository_lies_on_a_host_without_a_worker() {
    let split = SplitDeployment::start(1).await;
    let api = split.api();
    api.create_app("mirror").await;
    let origin = ForgeRemote::new(api, "mirror");
    let commit = origin.push(&AppSource::web("one"), "The first");
    let url = format!("{}/git/mirror.git", api.running().api);
    let wish = json!({ "url": url, "branch": "live", "user": EMAIL, "password": PASSWORD });
    let set = forge::follow(api, &wish).await.error_for_status().unwrap();
    let set: Value = set.json().await.unwrap();
    let body = forge::push("live", &commit);
    let signed = forge::signature(set["secret"].as_str().unwrap(), &body);
    let (status, said) = forge::deliver(api, "shop", "id-1", "push", &body, &signed).await;
    assert_eq!(status, 200, "{said}");
    wait_for("the delivery is deployed", seconds(60), async || {
        (split.visit("shop").await.1 == "one -").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploy_survives_the_loss_of_its_api_and_a_kill_of_its_worker() {
    let mut split = SplitDeployment::start(1).await;
    // Nobody takes it while the worker is away; the host that has received it goes before it comes back.
    split.workers[0].tancho.kill();
    let source = AppSource::web("one").hooks(&["echo in the build; sleep 3"]);
    let sent = tokio::spawn(split.api().deploy_request("shop", "file", &source.pack()).send());
    wait_for("the deploy has begun", seconds(30), async || {
        let begun = "select count(*) from saga where kind = 'app.deploy' and host is null";
        (split.count(begun).await == 1).then_some(())
    })
    .await;
    let events = split.api().read_json("/1.1/events?kindname=app.deploy").await;
    let event = events[0]["UniqueID"].as_str().unwrap().to_owned();
    sent.abort();
    assert_eq!(
        list_names(&split.api().data.join("uploads")),
        Vec::<String>::new()
    );
    split.api.tancho.kill();
    split.workers[0].serve();
    wait_for("it is built", seconds(60), async || {
        let built = "select count(*) from event_line where message like '%in the build%'";
        (split.count(built).await > 0).then_some(())
    })
    .await;
    split.workers[0].tancho.kill();
    split.workers[0].serve();
    split.api.serve();
    let event = split.api().wait_for_event_end(&event, seconds(90)).await;
    assert_eq!(event["Error"], "", "{event}");
    assert_eq!(split.visit("shop").await, (200, "one -".to_owned()));
    split.remove("shop").await;
    split.wait_until_nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removal_of_an_app_ends_without_every_host_and_each_host_removes_its_files() {
    let mut split = SplitDeployment::start(2).await;
    split.api().deploy("shop", &AppSource::web("one").pack()).await;
    // The first worker is stopped, so the second builds; then the second is, so the first removes.
    split.workers[1].serve();
    split.workers[0].tancho.running().signal(Signal::SIGSTOP);
    split.api().deploy("shop", &AppSource::web("two").pack()).await;
    split.workers[0].tancho.running().signal(Signal::SIGCONT);
    for worker in &split.workers {
        assert_eq!(list_names(&worker.tancho.data.join("versions")).len(), 1);
    }
    wait_for(
        "the units of the first version are gone",
        seconds(60),
        async || (split.count("select count(*) from unit where version = 1").await == 0).then_some(()),
    )
    .await;
    assert_eq!(split.visit("shop").await, (200, "two -".to_owned()));
    split.workers[0].tancho.running().signal(Signal::SIGTERM);
    let ended = split.workers[0]
        .tancho
        .program
        .as_mut()
        .unwrap()
        .wait(seconds(60));
    assert_eq!(ended, Some(0));
    let event = split.remove("shop").await;
    assert_eq!(event["Error"], "", "{event}");
    assert_eq!(
        list_names(&split.workers[0].tancho.data.join("versions")).len(),
        1
    );
    split.workers[0].serve();
    split.wait_until_nothing_is_left().await;
}
