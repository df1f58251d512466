//! Jobs from outside: built, run by their schedule and by hand, and across kills of Tancho.

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::test_instance::{TestInstance, seconds, wait_for};

impl TestInstance {
    async fn create_job(&self, job: Value) {
        let request = self
            .request_as_admin(Method::POST, "/1.13/jobs")
            .body(job.to_string());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
    }

    /// Deploys a job that runs this command; returns what the client sees.
    async fn deploy_job(&self, job: &str, command: &str) -> String {
        let files = AppSource::default()
            .with("Procfile", &format!("job: {command}\n"))
            .pack();
        let request = self.request_as_admin(Method::POST, &format!("/1.23/jobs/{job}/deploy"));
        let request = request.header("content-type", "application/gzip").body(files);
        let text = request.send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("\nDeploy finished with success!\n"), "{text}");
        text
    }

    async fn trigger_job(&self, job: &str) {
        let request = self.request_as_admin(Method::POST, &format!("/1.13/jobs/{job}/trigger"));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    }

    /// Waits until the newest run of a job satisfies a condition.
    async fn wait_for_run(&self, job: &str, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, seconds(30), async || {
            let info = self.read_json(&format!("/1.13/jobs/{job}")).await;
            let run = info["runs"][0].clone();
            done(&run).then_some(run)
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn run_continues_while_tancho_is_killed_and_ends_with_its_status() {
    let mut tancho = TestInstance::start().await;
    tancho
        .create_job(json!({ "name": "count", "manual": true, "backoffLimit": 0 }))
        .await;
    tancho
        .deploy_job("count", "echo begin $TANCHO_RUN_ID; sleep 4; echo done; exit 5")
        .await;
    for _ in 0..2 {
        tancho.trigger_job("count").await;
        let run = tancho
            .wait_for_run("count", "the run starts", |run| run["state"] == "started")
            .await;
        tancho.kill();
        tancho.serve();
        let ended = tancho
            .wait_for_run("count", "it ends", |run| run["state"] == "ended")
            .await;
        assert_eq!((&ended["id"], &ended["unit"]), (&run["id"], &run["unit"]));
        assert_eq!(
            (&ended["exitStatus"], &ended["attempt"]),
            (&json!(5), &json!(1)),
            "{ended}"
        );
        let unit = run["unit"].as_str().unwrap();
        let log = tancho
            .read_json(&format!("/1.13/jobs/count/log?unit={unit}"))
            .await;
        let lines: Vec<&str> = log
            .as_array()
            .unwrap()
            .iter()
            .map(|line| line["Message"].as_str().unwrap())
            .collect();
        let begin = format!("begin {}", run["id"].as_str().unwrap());
        assert_eq!(
            lines.iter().filter(|line| **line == begin).count(),
            1,
            "{lines:?}"
        );
        assert_eq!(
            lines.iter().filter(|line| **line == "done").count(),
            1,
            "{lines:?}"
        );
    }
    assert_eq!(tancho.pids().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_by_the_minute_runs_once_for_each_minute_over_kills() {
    let mut tancho = TestInstance::start().await;
    tancho
        .create_job(json!({ "name": "tick", "schedule": "* * * * *" }))
        .await;
    tancho.deploy_job("tick", "echo tick").await;
    for _ in 0..2 {
        let before = tancho.read_json("/1.13/jobs/tick").await["runs"]
            .as_array()
            .map_or(0, Vec::len);
        tancho.kill();
        tancho.serve();
        wait_for("the next minute has its run", seconds(90), async || {
            let info = tancho.read_json("/1.13/jobs/tick").await;
            let runs = info["runs"].as_array().unwrap();
            (runs.len() > before && runs.iter().all(|run| run["state"] == "ended")).then_some(())
        })
        .await;
    }
    let info = tancho.read_json("/1.13/jobs/tick").await;
    for run in info["runs"].as_array().unwrap() {
        assert_eq!(
            (&run["exitStatus"], &run["attempt"]),
            (&json!(0), &json!(1)),
            "{run}"
        );
        let planned: chrono::DateTime<chrono::Utc> = run["scheduledAt"].as_str().unwrap().parse().unwrap();
        let started: chrono::DateTime<chrono::Utc> = run["startedAt"].as_str().unwrap().parse().unwrap();
        assert!((started - planned).num_milliseconds() < 5000, "{run}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn release_line_runs_once_before_the_switch_and_its_failure_refuses_the_deploy() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.set_env("shop", "SHELF", "oak").await;
    let with_release = |content: &str, command: &str| {
        let source = AppSource::web(content);
        source.with(
            "Procfile",
            &format!("web: /usr/bin/python3 app.py\nrelease: {command}\n"),
        )
    };
    let text = tancho
        .deploy(
            "shop",
            &with_release("v1", "echo migrating the $SHELF shelf").pack(),
        )
        .await;
    assert_eq!(text.matches("migrating the oak shelf").count(), 1, "{text}");
    let (migrated, started) = (
        text.find("migrating").unwrap(),
        text.find("---- Starting").unwrap(),
    );
    assert!(migrated < started, "{text}");
    let served = tancho.get_app("shop", "/").await;
    let failing = with_release("v2", "echo no such table; exit 9").pack();
    let answer = tancho.begin_deploy("shop", &failing).await;
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("no such table") && text.contains("exited with status 9"),
        "{text}"
    );
    assert!(
        !text.ends_with("\nOK\n") && !text.contains("---- Starting"),
        "{text}"
    );
    assert_eq!(tancho.get_app("shop", "/").await, served);
    assert_eq!(tancho.units("shop").await.len(), 1);
}
