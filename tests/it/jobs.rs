//! Jobs on a real database with the fake provisioner.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use tancho::config::Settings;
use tancho::kernel::encryption::{AssociatedData, SealedColumn};
use tancho::kernel::ids::AppId;
use tancho::kernel::secret::Secret;
use tancho::provisioners::UnitId;

use crate::test_server::{TestServer, TestUser};

/// A command of the fake that ends at once, and one that goes on.
const ENDS: &str = "echo hello; exit 0";
const GOES_ON: &str = "echo hello; exec sleep 1000";

/// A server with the team `red`.
struct JobFixture {
    tancho: TestServer,
    root: TestUser,
}

impl JobFixture {
    async fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let tancho = TestServer::start_with(change).await;
        let root = tancho.login_admin().await;
        tancho.create_team(&root, "red").await;
        Self { tancho, root }
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> (u16, String) {
        self.tancho.send_json(&self.root, method, path, Some(body)).await
    }

    async fn create(&self, job: Value) -> Value {
        let (status, text) = self.send(Method::POST, "/1.13/jobs", job).await;
        assert_eq!(status, 201, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn sql(&self, sql: String) {
        let db = &self.tancho.running.core.db;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(db).await.unwrap();
    }

    /// Gives a job a version that runs this command.
    async fn deploy(&self, job: &str, command: &str) {
        let core = &self.tancho.running.core;
        let query = sqlx::query_scalar("select app_id from app where name = $1 and kind = 'job'");
        let id: uuid::Uuid = query.bind(job).fetch_one(&core.db).await.unwrap();
        let place = AssociatedData::new(SealedColumn::RELEASE_ENV, &[&AppId(id), &1]);
        let env = core.keys.encrypt(&place, &Secret::new("{}"));
        self.sql(format!(
            "insert into version (app_id, version, host, state) values ('{id}', 1, 'test', 'ready');
             insert into version_process (app_id, version, process, command) values ('{id}', 1, 'job', '{command}');
             insert into release (app_id, version, env, user_env) values ('{id}', 1, '\\x{}', '');
             update app set current_release = (select release_id from release where app_id = '{id}') where app_id = '{id}'",
            hex::encode(env),
        ))
        .await;
    }

    async fn info(&self, job: &str) -> Value {
        self.tancho
            .read_json(&self.root, &format!("/1.13/jobs/{job}"))
            .await
    }

    async fn trigger(&self, job: &str) -> (u16, String) {
        self.send(Method::POST, &format!("/1.13/jobs/{job}/trigger"), json!({}))
            .await
    }

    /// Waits until the description of a job satisfies a condition.
    async fn wait(&self, job: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let info = self.info(job).await;
            if done(&info) {
                return info;
            }
            assert!(Instant::now() < deadline, "timeout: {what}: {info:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn run_of(&self, job: &str, state: &str) -> Value {
        let info = self
            .wait(job, state, |info| info["runs"][0]["state"] == state)
            .await;
        info["runs"][0].clone()
    }
}

#[tokio::test]
async fn job_is_created_described_changed_and_removed() {
    let fixture = JobFixture::start(|_| {}).await;
    let made = fixture
        .create(json!({ "name": "nightly", "schedule": "CRON_TZ=Europe/Berlin 30 2 * * *", "metadata": {}, "container": {} }))
        .await;
    assert_eq!(made["jobName"], "nightly");
    assert_eq!(made["nextRuns"].as_array().unwrap().len(), 5);
    assert!(made["nextRuns"][0].as_str().unwrap().contains("T02:30:00+0"));
    for (body, status, says) in [
        (
            json!({ "name": "nightly", "manual": true }),
            409,
            "already exists",
        ),
        (json!({ "name": "Bad Name", "manual": true }), 400, "job name"),
        (json!({ "name": "other" }), 400, "schedule, or manual"),
        (
            json!({ "name": "other", "schedule": "at noon" }),
            400,
            "five fields",
        ),
        (
            json!({ "name": "other", "schedule": "0 0 30 2 *" }),
            400,
            "never occurs",
        ),
        (
            json!({ "name": "other", "schedule": "* * * * *", "manual": true }),
            400,
            "or is manual",
        ),
        (
            json!({ "name": "other", "schedule": "* * * * *", "timeZone": "Moon" }),
            400,
            "time zone",
        ),
        (
            json!({ "name": "other", "manual": true, "container": { "image": "busybox" } }),
            400,
            "no images",
        ),
        (
            json!({ "name": "other", "manual": true, "concurrencyPolicy": "maybe" }),
            400,
            "allow, forbid, replace",
        ),
        (
            json!({ "name": "other", "manual": true, "activeDeadlineSeconds": -1 }),
            400,
            "activeDeadlineSeconds",
        ),
    ] {
        let (got, text) = fixture.send(Method::POST, "/1.13/jobs", body.clone()).await;
        assert_eq!(got, status, "{body}: {text}");
        assert!(text.contains(says), "{body}: {text}");
    }
    // An app of the same name is something else.
    let app = json!({ "name": "nightly", "platform": "python" });
    let (status, text) = fixture.send(Method::POST, "/1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    // What nobody has chosen is not shown as chosen.
    assert_eq!(
        fixture.info("nightly").await["job"]["spec"].get("concurrencyPolicy"),
        None
    );
    let change = json!({ "name": "nightly", "description": "counts", "tags": ["blue"], "schedule": "0 3 * * *",
        "activeDeadlineSeconds": 60, "concurrencyPolicy": "Replace", "metadata": { "labels": [{ "name": "tier", "value": "gold" }] },
        "container": { "command": ["echo", "two words"] } });
    let (status, text) = fixture.send(Method::PUT, "/1.13/jobs/nightly", change).await;
    assert_eq!(status, 202, "{text}");
    let info = fixture.info("nightly").await;
    let (job, spec) = (&info["job"], &info["job"]["spec"]);
    assert_eq!(
        (&job["description"], &job["tags"]),
        (&json!("counts"), &json!(["blue"]))
    );
    assert_eq!(
        job["metadata"]["labels"],
        json!([{ "name": "tier", "value": "gold" }])
    );
    assert_eq!(
        (&spec["schedule"], &spec["concurrencyPolicy"]),
        (&json!("0 3 * * *"), &json!("Replace"))
    );
    assert_eq!(spec["container"]["command"], json!(["echo", "two words"]));
    let jobs = fixture.tancho.read_json(&fixture.root, "/1.13/jobs").await;
    assert_eq!(jobs.as_array().unwrap().len(), 1);
    let apps = fixture.tancho.read_json(&fixture.root, "/1.0/apps").await;
    assert_eq!(apps.as_array().unwrap().len(), 1, "{apps}");
    let (status, text) = fixture.trigger("nightly").await;
    assert!(
        status == 409 && text.contains("deploy it first"),
        "{status} {text}"
    );
    let (status, text) = fixture
        .send(Method::DELETE, "/1.13/jobs/nightly", json!({}))
        .await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = fixture.send(Method::GET, "/1.13/jobs/nightly", json!({})).await;
    assert_eq!((status, text.trim()), (404, "Job nightly not found."));
    let (status, _) = fixture.send(Method::GET, "/1.0/apps/nightly", json!({})).await;
    assert_eq!(status, 200);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn triggered_run_has_the_variables_its_log_and_its_exit_status() {
    let fixture = JobFixture::start(|_| {}).await;
    fixture.create(json!({ "name": "by-hand", "manual": true })).await;
    fixture.deploy("by-hand", GOES_ON).await;
    let env = json!({ "Envs": [{ "Name": "SECRET", "Value": "s3cret-value" }], "Private": true });
    let (status, text) = fixture.send(Method::POST, "/1.13/jobs/by-hand/env", env).await;
    assert!(status == 200 && text.contains("SECRET is set"), "{text}");
    assert_eq!(fixture.trigger("by-hand").await.0, 200);
    let run = fixture
        .wait("by-hand", "it runs", |info| {
            info["units"][0]["Status"] == "started"
        })
        .await["runs"][0]
        .clone();
    let unit = run["unit"].as_str().unwrap().to_owned();
    let spec = fixture
        .tancho
        .fake
        .unit_spec(&UnitId::parse(&unit).unwrap())
        .unwrap();
    let value = |name: &str| {
        let var = spec.env.iter().find(|(known, _)| known.as_str() == name);
        var.map(|(_, value)| value.expose_secret().to_owned())
    };
    assert_eq!(value("SECRET").as_deref(), Some("s3cret-value"));
    assert_eq!(value("TANCHO_RUN_ID").as_deref(), run["id"].as_str());
    assert!(value("TANCHO_SCHEDULED_AT").is_some());
    // It forbids a second one.
    let (status, text) = fixture.trigger("by-hand").await;
    assert!(status == 409 && text.contains("going on"), "{status} {text}");
    fixture.tancho.fake.set_state(
        &UnitId::parse(&unit).unwrap(),
        tancho::provisioners::UnitState::Stopped,
        Some("exited with status 3"),
    );
    let run = fixture.run_of("by-hand", "ended").await;
    assert_eq!(run["reason"], "exited with status 3");
    let (status, log) = fixture
        .send(Method::GET, "/1.13/jobs/by-hand/log?follow=false", json!({}))
        .await;
    assert_eq!(status, 200);
    let lines: Value = serde_json::from_str(&log).unwrap();
    assert_eq!(
        (&lines[0]["Message"], &lines[0]["Unit"]),
        (&json!("hello"), &json!(unit))
    );
    assert_eq!(
        (&lines[0]["Source"], &lines[0]["Type"]),
        (&json!("by-hand"), &json!("job"))
    );
    // Its unit is removed after its end is known.
    let unit = UnitId::parse(&unit).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while fixture.tancho.fake.unit_spec(&unit).is_some() {
        assert!(Instant::now() < deadline, "the unit {unit} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn failed_run_is_tried_again_as_often_as_the_job_allows() {
    let fixture = JobFixture::start(|_| {}).await;
    fixture
        .create(json!({ "name": "flaky", "manual": true, "backoffLimit": 1 }))
        .await;
    fixture.deploy("flaky", "echo no; exit 7").await;
    assert_eq!(fixture.trigger("flaky").await.0, 200);
    let waiting = |info: &Value| info["runs"][0]["attempt"] == 2;
    let info = fixture
        .wait("flaky", "the second attempt is planned", waiting)
        .await;
    let (run, first) = (info["runs"][0].clone(), info["runs"][0]["unit"].clone());
    assert_eq!(
        (&run["state"], &run["exitStatus"]),
        (&json!("planned"), &json!(7))
    );
    fixture
        .sql("update job_run set due_at = now(); select pg_notify('tancho_jobs', '')".into())
        .await;
    let run = fixture.run_of("flaky", "ended").await;
    assert_eq!((&run["attempt"], &run["exitStatus"]), (&json!(2), &json!(7)));
    assert_ne!(run["unit"], first);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn running_job_is_stopped_by_hand_by_its_limit_by_a_new_run_and_by_its_removal() {
    let fixture = JobFixture::start(|_| {}).await;
    fixture
        .create(json!({ "name": "long", "manual": true, "concurrencyPolicy": "replace" }))
        .await;
    fixture.deploy("long", GOES_ON).await;
    let started = async || {
        let info = fixture
            .wait("long", "it runs", |info| info["units"][0]["Status"] == "started")
            .await;
        info["units"][0]["ID"].as_str().unwrap().to_owned()
    };
    let reason_of = async |unit: &str| {
        let ended = |info: &Value| {
            let run = info["runs"]
                .as_array()
                .unwrap()
                .iter()
                .find(|run| run["unit"] == unit)
                .unwrap();
            run["state"] == "ended"
        };
        let info = fixture.wait("long", "it ends", ended).await;
        let run = info["runs"]
            .as_array()
            .unwrap()
            .iter()
            .find(|run| run["unit"] == unit)
            .unwrap();
        run["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(fixture.trigger("long").await.0, 200);
    let unit = started().await;
    let (status, _) = fixture
        .send(Method::DELETE, "/1.13/jobs/long/units/nobody", json!({}))
        .await;
    assert_eq!(status, 404);
    let (status, _) = fixture
        .send(
            Method::DELETE,
            &format!("/1.13/jobs/long/units/{unit}?"),
            json!({}),
        )
        .await;
    assert_eq!(status, 200);
    assert!(reason_of(&unit).await.contains("a user"));

    assert_eq!(fixture.trigger("long").await.0, 200);
    let unit = started().await;
    assert_eq!(fixture.trigger("long").await.0, 200);
    assert!(reason_of(&unit).await.contains("replaced"));

    let unit = started().await;
    let (status, _) = fixture
        .send(
            Method::PUT,
            "/1.13/jobs/long",
            json!({ "activeDeadlineSeconds": 60 }),
        )
        .await;
    assert_eq!(status, 202);
    fixture
        .sql("update job_run set started_at = now() - interval '61 seconds' where state = 'started'".into())
        .await;
    assert!(reason_of(&unit).await.contains("60 seconds"));

    assert_eq!(fixture.trigger("long").await.0, 200);
    let unit = started().await;
    let (status, text) = fixture.send(Method::DELETE, "/1.13/jobs/long", json!({})).await;
    assert_eq!(status, 200, "{text}");
    assert!(
        fixture
            .tancho
            .fake
            .unit_spec(&UnitId::parse(&unit).unwrap())
            .is_none()
    );
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn each_instant_starts_once_whatever_the_number_of_replicas() {
    let fixture = JobFixture::start(|_| {}).await;
    let replicas = [
        fixture.tancho.start_replica(|_| {}).await,
        fixture.tancho.start_replica(|_| {}).await,
    ];
    for n in 0..20 {
        let name = format!("job-{n}");
        fixture
            .create(json!({ "name": name, "schedule": "0 0 1 1 *" }))
            .await;
        fixture.deploy(&name, ENDS).await;
    }
    for _ in 0..3 {
        fixture
            .sql("update job set next_at = date_trunc('second', now()); notify tancho_jobs".into())
            .await;
        let planned = async || -> i64 {
            let query = sqlx::query_scalar("select count(*) from job where next_at <= now()");
            query.fetch_one(&fixture.tancho.running.core.db).await.unwrap()
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while planned().await > 0 {
            assert!(Instant::now() < deadline, "the planner does not plan");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for n in 0..20 {
        let done = |info: &Value| {
            let runs = info["runs"].as_array().unwrap();
            runs.iter()
                .all(|run| run["state"] == "ended" || run["state"] == "skipped")
        };
        let info = fixture.wait(&format!("job-{n}"), "all have ended", done).await;
        let runs = info["runs"].as_array().unwrap();
        let mut instants: Vec<&str> = runs
            .iter()
            .map(|run| run["scheduledAt"].as_str().unwrap())
            .collect();
        instants.sort_unstable();
        instants.dedup();
        assert_eq!(instants.len(), runs.len());
        assert!((1..=3).contains(&runs.len()), "{runs:?}");
        for run in runs {
            assert!(run["state"] != "ended" || run["exitStatus"] == 0, "{run}");
            assert!(
                run["state"] != "skipped" || !run["reason"].as_str().unwrap().is_empty(),
                "{run}"
            );
        }
        assert!(!info["lastSuccessAt"].is_null());
    }
    // No unit was started twice.
    let mut started: Vec<UnitId> = Vec::new();
    for server in [&fixture.tancho, &replicas[0], &replicas[1]] {
        for call in server.fake.recorded_calls() {
            if let tancho::provisioners::fake::FakeCall::Ensure(unit) = call {
                started.push(unit);
            }
        }
    }
    let all = started.len();
    started.sort();
    started.dedup();
    assert_eq!(started.len(), all);
    for replica in replicas {
        replica.running.drain_and_stop().await;
    }
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn due_runs_of_one_team_do_not_hold_those_of_another() {
    let fixture = JobFixture::start(|settings| {
        settings.jobs.max_running = 4;
        settings.jobs.max_running_per_team = 2;
    })
    .await;
    fixture.tancho.create_team(&fixture.root, "blue").await;
    for (name, team) in [("greedy", "red"), ("small", "blue")] {
        fixture
            .create(json!({ "name": name, "manual": true, "teamOwner": team, "concurrencyPolicy": "allow" }))
            .await;
        fixture.deploy(name, GOES_ON).await;
    }
    fixture
        .sql(
            "insert into job_run (run_id, app_id, scheduled_at, due_at, origin)
             select gen_random_uuid(), app_id, now() - make_interval(secs => n), now() - make_interval(secs => n), 'trigger'
             from app, generate_series(1, 1000) n where name = 'greedy'"
                .into(),
        )
        .await;
    let both = |info: &Value| {
        info["units"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|unit| unit["Status"] == "started")
            .count()
            == 2
    };
    fixture.wait("greedy", "two of a thousand run", both).await;
    assert_eq!(fixture.trigger("small").await.0, 200);
    fixture
        .wait("small", "it runs", |info| info["units"][0]["Status"] == "started")
        .await;
    let info = fixture.info("greedy").await;
    assert!(both(&info), "{info:#}");
    let (status, text) = fixture.trigger("greedy").await;
    assert!(status == 429 && text.contains("wait to start"), "{status} {text}");
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn schedule_that_cannot_be_read_stops_no_other_job() {
    let fixture = JobFixture::start(|_| {}).await;
    for name in ["broken", "sound"] {
        fixture
            .create(json!({ "name": name, "schedule": "* * * * *" }))
            .await;
        fixture.deploy(name, ENDS).await;
    }
    fixture
        .sql(
            "update job set schedule = 'nonsense', next_at = now() - interval '1 second'
             where app_id = (select app_id from app where name = 'broken');
             update job set next_at = now() where app_id = (select app_id from app where name = 'sound');
             notify tancho_jobs"
                .into(),
        )
        .await;
    fixture.run_of("sound", "ended").await;
    fixture.tancho.running.drain_and_stop().await;
}
