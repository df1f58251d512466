//! Volumes on a real database with the fake provisioner.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::{Settings, VolumePlan};
use tancho::kernel::names::PlanName;
use tancho::provisioners::{UnitRunner as _, UnitVolume};

use crate::recorded::test_service;
use crate::test_server::{TestServer, TestUser};

/// A server with the teams `red` (of ana) and `blue` (of bob), and the app `shop` of the first.
struct VolumeFixture {
    tancho: TestServer,
    root: TestUser,
    ana: TestUser,
    bob: TestUser,
}

impl VolumeFixture {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(|settings| {
            settings.apps.drain_timeout = Duration::from_millis(50);
            change(settings);
        })
        .await;
        let root = tancho.login_admin().await;
        let ana = tancho.create_user("ana").await;
        let bob = tancho.create_user("bob").await;
        tancho.create_team(&ana, "red").await;
        tancho.create_team(&bob, "blue").await;
        let fixture = Self {
            tancho,
            root,
            ana,
            bob,
        };
        fixture.create_app("shop").await;
        fixture
    }

    async fn create_app(&self, name: &str) {
        let app = json!({ "name": name, "platform": "procfile", "teamOwner": "red" });
        let (status, text) = self.send(&self.ana, "POST /1.0/apps", app).await;
        assert_eq!(status, 201, "{text}");
    }

    async fn send(&self, user: &TestUser, line: &str, body: Value) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        self.tancho.send_json(user, method, path, Some(body)).await
    }

    /// Sends a request of ana's that must succeed.
    async fn ok(&self, line: &str, body: Value) -> String {
        let (status, text) = self.send(&self.ana, line, body).await;
        assert!(
            status < 300 && !text.contains("\"Error\""),
            "{line}: {status} {text}"
        );
        text
    }

    async fn create(&self, name: &str) {
        self.ok(
            "POST /1.4/volumes",
            json!({ "Name": name, "Plan": { "Name": "default" } }),
        )
        .await;
    }

    async fn bind(&self, volume: &str, app: &str, path: &str) {
        let body = json!({ "App": app, "MountPoint": path });
        self.ok(&format!("POST /1.4/volumes/{volume}/bind"), body).await;
    }

    async fn unbind(&self, volume: &str, app: &str, path: &str, no_restart: bool) {
        let line = format!(
            "DELETE /1.4/volumes/{volume}/bind?App={app}&MountPoint={path}&NoRestart={}",
            if no_restart { "true" } else { "" }
        );
        self.ok(&line, json!({})).await;
    }

    async fn info(&self, volume: &str) -> Value {
        let path = format!("/1.4/volumes/{volume}");
        self.tancho.read_json(&self.ana, &path).await
    }

    /// Prepares for deploys, which give each app one unit.
    async fn run_units(&self) {
        test_service::install_platforms(&self.tancho);
        test_service::listen_for_all_units(&self.tancho).await;
    }

    async fn deploy(&self, app: &str) {
        let answer = self
            .tancho
            .request_as(&self.ana, Method::POST, &format!("/1.0/apps/{app}/deploy"))
            .header("content-type", "application/gzip")
            .body(test_service::archive("web: echo hello;\n"))
            .send()
            .await
            .unwrap();
        let text = answer.text().await.unwrap();
        assert!(text.ends_with("\nOK\n"), "{text}");
    }

    /// The volumes of each unit that there is.
    async fn unit_volumes(&self) -> Vec<Vec<UnitVolume>> {
        let fake = &self.tancho.fake;
        let reports = fake.observe_units().await.unwrap();
        let specs = reports.iter().filter_map(|report| fake.unit_spec(&report.unit));
        specs.map(|spec| spec.volumes).collect()
    }

    /// Waits until there is one unit, with volumes at these paths.
    async fn wait_for_paths(&self, paths: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let units = self.unit_volumes().await;
            if let [volumes] = units.as_slice()
                && volumes
                    .iter()
                    .map(|volume| volume.path.as_str())
                    .eq(paths.iter().copied())
            {
                return;
            }
            assert!(Instant::now() < deadline, "not {paths:?}: {units:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn count(&self, sql: &'static str) -> i64 {
        let db = &self.tancho.running.core.db;
        sqlx::query_scalar(sql).fetch_one(db).await.unwrap()
    }
}

#[tokio::test]
async fn volume_is_created_described_changed_and_removed() {
    let fixture = VolumeFixture::start().await;
    let plans = fixture.tancho.read_json(&fixture.ana, "/1.4/volumeplans").await;
    assert_eq!(plans["local"][0]["Name"], "default");
    assert_eq!(plans["local"][0]["Opts"]["size"], "10G");
    assert!(
        plans.get("docker").is_none(),
        "this server has no engine: {plans}"
    );
    let form = "Binds=&Name=data&Opts.size=1G&Plan.Name=default&Plan.Opts=&Pool=local&Status=&TeamOwner=red";
    let answer = fixture
        .tancho
        .request_as(&fixture.ana, Method::POST, "/1.4/volumes")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let info = fixture.info("data").await;
    assert_eq!(
        info,
        json!({ "Name": "data", "Pool": "local", "Plan": { "Name": "default", "Opts": { "size": "10G" } },
            "TeamOwner": "red", "Status": "", "Binds": [], "Opts": { "size": "1G" } })
    );
    fixture.bind("data", "shop", "/data/").await;
    let info = fixture.info("data").await;
    assert_eq!(info["Status"], "bound");
    assert_eq!(
        info["Binds"],
        json!([{ "ID": { "App": "shop", "MountPoint": "/data", "Volume": "data" }, "ReadOnly": false }])
    );
    let app = fixture.tancho.read_json(&fixture.ana, "/1.0/apps/shop").await;
    assert_eq!(app["volumeBinds"], info["Binds"]);
    fixture
        .ok("POST /1.4/volumes/data", json!({ "Opts": { "size": "2G" } }))
        .await;
    let info = fixture.info("data").await;
    assert_eq!(
        (&info["Opts"]["size"], &info["TeamOwner"]),
        (&json!("2G"), &json!("red"))
    );
    let refused = fixture
        .send(&fixture.ana, "DELETE /1.4/volumes/data", json!({}))
        .await;
    assert_eq!(refused.0, 409, "{}", refused.1);
    assert!(refused.1.contains("bound to the app shop"), "{}", refused.1);
    fixture.unbind("data", "shop", "/data", false).await;
    fixture.ok("DELETE /1.4/volumes/data", json!({})).await;
    let gone = fixture
        .send(&fixture.ana, "GET /1.4/volumes/data", json!({}))
        .await;
    assert_eq!(gone.0, 404);
    // It never had data on a host.
    assert_eq!(fixture.count("select count(*) from removed_volume").await, 0);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn bad_input_is_refused_and_changes_nothing() {
    let fixture = VolumeFixture::start_with(|settings| {
        settings.volumes.max_per_team = 2;
        settings.volumes.plans.push(VolumePlan {
            provisioner: "local".into(),
            name: PlanName::parse("fixed").unwrap(),
            options: [("driver".to_owned(), "x".to_owned())].into(),
        });
    })
    .await;
    fixture.create("data").await;
    let with = |field: &str, value: Value| {
        let mut body = json!({ "Name": "other", "Plan": { "Name": "default" } });
        body[field] = value;
        body
    };
    for (body, status, says) in [
        (with("Name", json!("data")), 409, "already exists"),
        (with("Name", json!("../data")), 400, "volume name"),
        (with("Name", json!("")), 400, "missing"),
        (with("Plan", json!({})), 400, "plan"),
        (
            with("Plan", json!({ "Name": "nothing" })),
            400,
            "use one of default, fixed",
        ),
        (with("Pool", json!("nothing")), 400, "does not exist"),
        (with("TeamOwner", json!("nothing")), 400, "does not exist"),
        (with("TeamOwner", json!("blue")), 403, "permission"),
        (with("Opts", json!({ "size": "11G" })), 400, "between 1M and 10G"),
        (with("Opts", json!({ "size": "0" })), 400, "between"),
        (with("Opts", json!({ "size": "-1" })), 400, "not a size"),
        (with("Opts", json!({ "device": "/" })), 400, "only option is size"),
        (with("Opts", json!([1])), 400, "opts must be an object"),
    ] {
        let (found, text) = fixture
            .send(&fixture.ana, "POST /1.4/volumes", body.clone())
            .await;
        assert_eq!(found, status, "{body}: {text}");
        assert!(
            text.to_lowercase().contains(&says.to_lowercase()),
            "{body}: {text}"
        );
    }
    let driver = json!({ "Name": "other", "Plan": { "Name": "fixed" }, "Opts": { "driver": "y" } });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.4/volumes", driver).await;
    assert_eq!((status, text.contains("no options")), (400, true), "{text}");
    fixture.bind("data", "shop", "/data").await;
    for (path, status) in [
        ("", 400),
        ("/", 400),
        ("data", 400),
        ("/data/../etc", 400),
        ("/etc", 400),
        ("/proc/self", 400),
        ("/var", 400),
        ("/a:b", 400),
        ("/data", 409),
        ("/data/", 409),
        ("/data/inside", 409),
    ] {
        let body = json!({ "App": "shop", "MountPoint": path });
        let (found, text) = fixture
            .send(&fixture.ana, "POST /1.4/volumes/data/bind", body)
            .await;
        assert_eq!(found, status, "{path}: {text}");
    }
    for (line, status) in [
        ("DELETE /1.4/volumes/data/bind?App=shop&MountPoint=/other", 404),
        ("DELETE /1.4/volumes/data/bind?App=nothing&MountPoint=/data", 404),
        ("DELETE /1.4/volumes/nothing/bind?App=shop&MountPoint=/data", 404),
        ("DELETE /1.4/volumes/data/bind?App=shop", 400),
    ] {
        let (found, text) = fixture.send(&fixture.ana, line, json!({})).await;
        assert_eq!(found, status, "{line}: {text}");
    }
    fixture.create("second").await;
    let (status, text) = fixture
        .send(&fixture.ana, "POST /1.4/volumes", with("Name", json!("third")))
        .await;
    assert_eq!(
        (status, text.contains("which is the limit")),
        (403, true),
        "{text}"
    );
    assert_eq!(fixture.count("select count(*) from volume_bind").await, 1);
    let (status, text) = fixture
        .send(&fixture.root, "DELETE /1.0/teams/red", json!({}))
        .await;
    assert_eq!(status, 403, "{text}");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn volumes_of_other_teams_are_out_of_reach() {
    let fixture = VolumeFixture::start().await;
    fixture.create("data").await;
    let app = json!({ "name": "theirs", "platform": "procfile", "teamOwner": "blue" });
    let (status, _) = fixture.send(&fixture.bob, "POST /1.0/apps", app).await;
    assert_eq!(status, 201);
    let bind = |app: &str| json!({ "App": app, "MountPoint": "/data" });
    for (line, body) in [
        ("GET /1.4/volumes/data", json!({})),
        ("POST /1.4/volumes/data", json!({ "Opts": { "size": "1G" } })),
        ("DELETE /1.4/volumes/data", json!({})),
        ("POST /1.4/volumes/data/bind", bind("theirs")),
        ("POST /1.4/volumes/data/bind", bind("shop")),
        (
            "DELETE /1.4/volumes/data/bind?App=theirs&MountPoint=/data",
            json!({}),
        ),
    ] {
        let (status, text) = fixture.send(&fixture.bob, line, body).await;
        assert_eq!(status, 403, "{line}: {text}");
    }
    // Nor may ana bind her volume to an app of another team, or give it to that team.
    let (status, _) = fixture
        .send(&fixture.ana, "POST /1.4/volumes/data/bind", bind("theirs"))
        .await;
    assert_eq!(status, 403);
    let give = json!({ "TeamOwner": "blue" });
    let (status, _) = fixture.send(&fixture.ana, "POST /1.4/volumes/data", give).await;
    assert_eq!(status, 403);
    let seen = fixture.tancho.read_json(&fixture.bob, "/1.4/volumes").await;
    assert_eq!(seen, json!([]));
    for (query, found) in [
        ("", 1),
        ("?name=at", 1),
        ("?name=x", 0),
        ("?plan=default&pool=local&teamOwner=red", 1),
        ("?teamOwner=blue", 0),
    ] {
        let path = format!("/1.4/volumes{query}");
        let seen = fixture.tancho.read_json(&fixture.ana, &path).await;
        assert_eq!(seen.as_array().unwrap().len(), found, "{query}");
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn units_have_the_volumes_of_their_release() {
    let fixture = VolumeFixture::start().await;
    fixture.run_units().await;
    fixture.create("data").await;
    fixture.create("more").await;
    fixture.bind("data", "shop", "/data").await;
    fixture.deploy("shop").await;
    fixture.wait_for_paths(&["/data"]).await;
    let volumes = fixture.unit_volumes().await.remove(0);
    assert_eq!(
        (volumes[0].name.as_str(), volumes[0].is_read_only),
        ("data", false)
    );
    assert_eq!(volumes[0].max_bytes, 10 << 30);
    // A bind without a restart changes no unit, until the app is restarted.
    let body = json!({ "App": "shop", "MountPoint": "/more", "ReadOnly": true, "NoRestart": true });
    fixture.ok("POST /1.4/volumes/more/bind", body).await;
    fixture.wait_for_paths(&["/data"]).await;
    fixture.ok("POST /1.0/apps/shop/restart", json!({})).await;
    fixture.wait_for_paths(&["/data", "/more"]).await;
    assert!(fixture.unit_volumes().await.remove(0)[1].is_read_only);
    // Nor is a volume removed that a unit still has.
    fixture.unbind("data", "shop", "/data", true).await;
    let (status, text) = fixture
        .send(&fixture.ana, "DELETE /1.4/volumes/data", json!({}))
        .await;
    assert_eq!(
        (status, text.contains("try again when they have stopped")),
        (409, true),
        "{text}"
    );
    fixture.unbind("more", "shop", "/more", false).await;
    fixture.wait_for_paths(&[]).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // The unit of the release before is removed a moment later.
        let (status, text) = fixture
            .send(&fixture.ana, "DELETE /1.4/volumes/data", json!({}))
            .await;
        if status == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn data_outlives_the_app_and_is_removed_with_the_volume() {
    let fixture = VolumeFixture::start().await;
    fixture.run_units().await;
    fixture.create("data").await;
    fixture.bind("data", "shop", "/data").await;
    fixture.deploy("shop").await;
    fixture.ok("DELETE /1.0/apps/shop", json!({})).await;
    let info = fixture.info("data").await;
    assert_eq!((&info["Status"], &info["Binds"]), (&json!(""), &json!([])));
    assert_eq!(
        fixture
            .count("select count(*) from volume where host = 'test'")
            .await,
        1
    );
    // Its pool stays as long as its data is there.
    let moved = json!({ "Pool": "second" });
    let pool = json!({ "name": "second", "public": true });
    let (status, text) = fixture.send(&fixture.root, "POST /1.0/pools", pool).await;
    assert_eq!(status, 201, "{text}");
    let (status, text) = fixture
        .send(&fixture.ana, "POST /1.4/volumes/data", moved.clone())
        .await;
    assert_eq!(
        (status, text.contains("is used in the pool")),
        (409, true),
        "{text}"
    );
    fixture.create("unused").await;
    fixture.ok("POST /1.4/volumes/unused", moved).await;
    let (status, text) = fixture
        .send(&fixture.root, "DELETE /1.0/pools/second", json!({}))
        .await;
    assert_eq!((status, text.contains("has volumes")), (403, true), "{text}");
    fixture.create_app("blog").await;
    let elsewhere = json!({ "App": "blog", "MountPoint": "/data" });
    let (status, text) = fixture
        .send(&fixture.ana, "POST /1.4/volumes/unused/bind", elsewhere)
        .await;
    assert_eq!((status, text.contains("same pool")), (400, true), "{text}");
    fixture.ok("DELETE /1.4/volumes/data", json!({})).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.count("select count(*) from removed_volume").await > 0 {
        assert!(Instant::now() < deadline, "the host removes nothing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn volume_that_is_bound_and_removed_at_once_is_either() {
    let fixture = VolumeFixture::start().await;
    for round in 0..8 {
        let name = format!("data-{round}");
        fixture.create(&name).await;
        let bind = json!({ "App": "shop", "MountPoint": format!("/{name}") });
        let (line, gone) = (
            format!("POST /1.4/volumes/{name}/bind"),
            format!("DELETE /1.4/volumes/{name}"),
        );
        let (bound, removed) = tokio::join!(
            fixture.send(&fixture.ana, &line, bind),
            fixture.send(&fixture.ana, &gone, json!({})),
        );
        let left = fixture
            .send(&fixture.ana, &format!("GET /1.4/volumes/{name}"), json!({}))
            .await;
        let was_locked = |(status, text): &(u16, String)| *status == 500 && text.contains("event locked");
        match (bound.0, removed.0, left.0) {
            (200, 409, 200) | (404 | 409, 200, 404) => {}
            (200, 500, 200) if was_locked(&removed) => {}
            (500, 200, 404) if was_locked(&bound) => {}
            other => panic!("{other:?}: {} / {}", bound.1, removed.1),
        }
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn runs_of_a_job_have_its_volumes() {
    let fixture = VolumeFixture::start().await;
    fixture.create("data").await;
    let job =
        json!({ "name": "nightly", "manual": true, "teamOwner": "red", "metadata": {}, "container": {} });
    fixture.ok("POST /1.13/jobs", job).await;
    let bind = json!({ "Job": "nightly", "MountPoint": "/data" });
    fixture.ok("POST /1.4/volumes/data/bind", bind).await;
    let info = fixture.info("data").await;
    assert_eq!(info["Binds"][0]["ID"]["App"], "nightly");
    let core = &fixture.tancho.running.core;
    let query = sqlx::query_scalar("select app_id from app where kind = 'job'");
    let job: tancho::kernel::ids::AppId = query.fetch_one(&core.db).await.unwrap();
    let mounts = tancho::volumes::list_app_mounts(core, job).await.unwrap();
    assert_eq!(mounts[0].path, "/data");
    // On another host it cannot start.
    sqlx::query("update volume set host = 'elsewhere'")
        .execute(&core.db)
        .await
        .unwrap();
    let refused = tancho::volumes::list_app_mounts(core, job).await.unwrap_err();
    assert!(refused.message().contains("another host"), "{refused}");
    fixture.tancho.running.drain_and_stop().await;
}
