//! An operation on one process keeps the units of others, and a removed process does not count.

use super::*;

fn unit_ids<'a>(units: &'a [TestUnit], process: &str) -> Vec<&'a str> {
    let mut ids: Vec<&str> = units
        .iter()
        .filter(|u| u.process == process)
        .map(|u| u.id.as_str())
        .collect();
    ids.sort_unstable();
    ids
}

/// Starts two units of web and one of worker.
async fn three_units() -> (UnitFixture, Vec<TestUnit>) {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.scale("web", 2).await;
    fixture.scale("worker", 1).await;
    fixture.deploy(BOTH, "{}").await;
    let units = fixture.wait_until_ready(3).await;
    (fixture, units)
}

impl UnitFixture {
    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (StatusCode, String) {
        self.text(self.request(Method::POST, path).form(form)).await
    }
}

#[tokio::test]
async fn restart_of_one_process_keeps_units_of_others() {
    let (fixture, before) = three_units().await;
    let (status, text) = fixture
        .post("/1.0/apps/crane/restart", &[("process", "web"), ("version", "1")])
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(!text.contains("\"Error\":\""), "{text}");
    let middle = fixture.wait_until_ready(3).await;
    assert_eq!(unit_ids(&middle, "worker"), unit_ids(&before, "worker"));
    assert!(
        unit_ids(&middle, "web")
            .iter()
            .all(|id| !unit_ids(&before, "web").contains(id)),
        "{middle:?}"
    );
    let release = middle[0].release;
    assert!(middle.iter().all(|unit| unit.release == release), "{middle:?}");
    let (status, text) = fixture
        .post("/apps/crane/restart", &[("process", "worker")])
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let after = fixture.wait_until_ready(3).await;
    assert_eq!(unit_ids(&after, "web"), unit_ids(&middle, "web"));
    assert_ne!(unit_ids(&after, "worker"), unit_ids(&middle, "worker"));
    let (status, _) = fixture
        .text(fixture.request(Method::GET, "/apps/crane/restart"))
        .await;
    assert_eq!(status, StatusCode::OK);
    let all = fixture.wait_until_ready(3).await;
    assert!(
        all.iter().all(|unit| after.iter().all(|old| old.id != unit.id)),
        "{all:?}"
    );
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn unknown_process_or_version_is_rejected_without_changes() {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    let (status, text) = fixture
        .post("/1.0/apps/crane/restart", &[("process", "web")])
        .await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{text}");
    fixture.scale("web", 2).await;
    fixture.scale("worker", 1).await;
    fixture.deploy(BOTH, "{}").await;
    let before = fixture.wait_until_ready(3).await;
    for edition in ["", "/1.0"] {
        for verb in ["restart", "stop", "start"] {
            for (field, value) in [
                ("process", "nope"),
                ("version", "7"),
                ("version", "x"),
                ("process", "no such"),
            ] {
                let path = format!("{edition}/apps/crane/{verb}");
                let (status, text) = fixture.post(&path, &[(field, value)]).await;
                assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {field}={value}: {text}");
            }
        }
    }
    let row = sqlx::query(
        "select (select count(*) from release), (select count(*) from app_process where stopped)",
    );
    let row = row.fetch_one(&fixture.core().db).await.unwrap();
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (1, 0));
    assert_eq!(fixture.wait_until_ready(3).await, before);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn stop_and_start_of_one_process_keep_units_of_others() {
    let (fixture, before) = three_units().await;
    let path = |verb: &str| format!("/1.0/apps/crane/{verb}");
    let (status, text) = fixture
        .post(&path("stop"), &[("process", "worker"), ("version", "1")])
        .await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let stopped = fixture.wait_until_ready(2).await;
    assert_eq!(unit_ids(&stopped, "web"), unit_ids(&before, "web"));
    let (status, text) = fixture.post(&path("start"), &[("process", "worker")]).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let started = fixture.wait_until_ready(3).await;
    assert_eq!(unit_ids(&started, "web"), unit_ids(&before, "web"));
    assert_ne!(unit_ids(&started, "worker"), unit_ids(&before, "worker"));
    // All processes run: there is nothing to start.
    let (status, text) = fixture.post(&path("start"), &[]).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(fixture.wait_until_ready(3).await, started);
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn units_of_a_process_missing_from_the_version_do_not_count() {
    let (fixture, _) = three_units().await;
    fixture.scale("worker", 3).await;
    fixture.wait_until_ready(5).await;
    let in_use = async || {
        let (_, text) = fixture
            .text(fixture.request(Method::GET, "/1.0/apps/crane"))
            .await;
        serde_json::from_str::<Value>(&text).unwrap()["quota"]["inuse"].clone()
    };
    assert_eq!(in_use().await, 5);
    let without = fixture.release(2, WEB, "{}").await;
    fixture.set(without, None).await;
    fixture.wait_until_ready(2).await;
    let (status, text) = fixture.post("/apps/crane/restart", &[]).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert_eq!(in_use().await, 2);
    // A failed deploy leaves nothing of the processes that only it had.
    let more = r#"[{"name":"web","command":"x"},{"name":"clock","command":"y"}]"#;
    let candidate = fixture.release(3, more, "{}").await;
    fixture
        .run(&format!(
            "insert into app_process values ('{}', 'clock', 4)",
            fixture.app
        ))
        .await;
    let mut tx = fixture.core().db.begin().await.unwrap();
    sqlx::query("update app set candidate_release = $1")
        .bind(candidate)
        .execute(&mut *tx)
        .await
        .unwrap();
    tancho::releases::discard_candidate(&mut tx, fixture.app, candidate)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(in_use().await, 2);
    let (status, text) = fixture
        .text(fixture.request(Method::PUT, "/1.0/apps/crane/units?units=1&process=clock"))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{text}");
    fixture.tancho.running.drain_and_stop().await;
}
