//! Calls whose answers nobody heard, and which the service carries out long afterwards.

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;
const BIND: &str = "/services/instances/my-db/shop";
const OPEN: &str = "orphan where ended_at is null";

/// A scene with an app, an instance, and a service that has so many seconds.
async fn scene(flask: &Flask, seconds: u64) -> Scene {
    let scene = Scene::with(|settings| settings.services.timeout = Duration::from_secs(seconds)).await;
    scene.app("shop", "red").await;
    scene.service("mysql", flask).await;
    scene.ok("POST", "/services/instances", NEW).await;
    scene
}

impl Flask {
    /// Carries out a call once more, as it was made last.
    async fn repeat(&self, call: &str) {
        let last = self.last(call).await;
        let (method, path) = call.split_once(' ').unwrap();
        let form: Vec<(String, String)> = last["form"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(name, values)| {
                let values = values.as_array().unwrap().iter();
                values.map(move |value| (name.clone(), value.as_str().unwrap().to_owned()))
            })
            .collect();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let request = self.http.request(method, format!("{}{path}", self.url));
        request.form(&form).send().await.unwrap();
    }

    /// Hosts of the apps that it has bound to an instance.
    async fn binds(&self, instance: &str) -> usize {
        let state = self.get("/__state").await;
        state["binds"][instance].as_array().map_or(0, Vec::len)
    }

    async fn has(&self, instance: &str) -> bool {
        let state = self.get("/__state").await;
        state["instances"].get(instance).is_some()
    }
}

impl Scene {
    /// The newest saga of a kind is as a process leaves it that died when it had told the service.
    async fn dies_in(&self, kind: &str) {
        self.until("event where ended_at is null", 0).await;
        let died = sqlx::query(
            "update saga set state = 'forward', step = array_position($2::text[], 'call') - 1, ended_at = null,
                    event_id = null, data = data || '{\"heard\": \"sent\"}' || case when data ? 'rollout' then
                        jsonb_build_object('rollout', data -> 'rollout' || '{\"adopted\": false}') else '{}' end
             where saga_id = (select saga_id from saga where kind = $1 order by created_at desc limit 1)",
        )
        .bind(kind)
        .bind(match kind {
            "app.unbind" => vec!["units", "call"],
            "service-instance.delete" => vec!["unbind", "release", "start", "switch", "call"],
            _ => vec!["call"],
        })
        .execute(self.db())
        .await
        .unwrap();
        assert_eq!(died.rows_affected(), 1, "{kind}");
        self.until("saga where ended_at is null", 0).await;
    }

    /// The two cannot be bound yet, for a late unbind would hit that.
    async fn bind_must_wait(&self) {
        let (status, text) = self.ask("ana", "PUT", BIND, "").await;
        assert!(
            status == 503 && text.contains("no longer bound"),
            "{status} {text}"
        );
    }

    /// Puts back the row of a bind or an instance that a saga is about which `dies_in` then.
    async fn again(&self, sql: &'static str) {
        let done = sqlx::query(sql).execute(self.db()).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{sql}");
    }
}

#[tokio::test]
async fn what_an_unheard_call_makes_late_is_taken_away() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 3).await;
    scene.ok("PUT", BIND, "").await;
    scene.dies_in("app.bind").await;
    scene.ok("DELETE", BIND, "").await;
    flask.repeat("POST /resources/my-db/bind-app").await;
    assert!(
        flask.binds("my-db").await > 0,
        "the service has carried it out late"
    );
    scene.settled().await;
    assert_eq!(flask.binds("my-db").await, 0);
    // The service does not have it yet when it is looked for, so it is told again.
    let lost = flask.http.delete(format!("{}/resources/my-db", flask.url));
    lost.send().await.unwrap();
    scene.dies_in("service-instance.create").await;
    scene.ok("DELETE", "/services/instances/my-db", "").await;
    let (status, text) = scene.ask("ana", "POST", "/services/instances", NEW).await;
    assert_eq!(status, 409, "the name is not free yet: {text}");
    flask.repeat("POST /resources").await;
    assert!(flask.has("my-db").await);
    scene.settled().await;
    assert!(!flask.has("my-db").await);
    scene.ok("POST", "/services/instances", NEW).await;
    scene.end().await;
}

#[tokio::test]
async fn an_instance_that_the_service_has_when_it_is_looked_for_frees_its_name_at_once() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 60).await;
    scene.dies_in("service-instance.create").await;
    scene.ok("DELETE", "/services/instances/my-db", "").await;
    scene.ok("POST", "/services/instances", NEW).await;
    assert_eq!(scene.count("orphan").await, 0);
    scene.end().await;
}

#[tokio::test]
async fn an_unheard_bind_is_hunted_though_the_next_try_is_refused() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 3).await;
    scene.ok("PUT", BIND, "").await;
    flask
        .fail(json!({"mode": "refuse", "method": "POST", "path": "/bind-app"}))
        .await;
    scene.dies_in("app.bind").await;
    assert_eq!(scene.count("bind").await, 0, "it is undone");
    scene.settled().await;
    assert_eq!(flask.binds("my-db").await, 0);
    scene.end().await;
}

#[tokio::test]
async fn a_new_bind_calls_off_the_hunt_of_an_unheard_one_and_is_told_of_twice_in_its_turn() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 60).await;
    scene.ok("PUT", BIND, "").await;
    scene.dies_in("app.bind").await;
    scene.ok("DELETE", BIND, "").await;
    assert_eq!(scene.count(OPEN).await, 1);
    scene.ok("PUT", BIND, "").await;
    assert_eq!(
        scene.count(OPEN).await,
        0,
        "the late unbind would hit the new bind"
    );
    scene.ok("DELETE", BIND, "").await;
    let waiting = format!("{OPEN} and wake_at > now() + interval '30 seconds'");
    assert_eq!(scene.count(&waiting).await, 1, "the old call may still come");
    scene.end().await;
}

#[tokio::test]
async fn nothing_is_made_anew_while_what_takes_it_away_may_come_late() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 3).await;
    scene.ok("PUT", BIND, "").await;
    let keep = "create table kept as select * from bind";
    scene.again(keep).await;
    scene.ok("DELETE", BIND, "").await;
    scene
        .again("insert into bind overriding system value select * from kept")
        .await;
    scene.dies_in("app.unbind").await;
    assert_eq!(scene.count("bind").await, 0);
    scene.bind_must_wait().await;
    scene.settled().await;
    scene.ok("PUT", BIND, "").await;
    assert!(flask.binds("my-db").await > 0);
    scene.ok("DELETE", BIND, "").await;
    // The same with an instance.
    scene
        .again("create table kept_instance as select * from service_instance")
        .await;
    scene.ok("DELETE", "/services/instances/my-db", "").await;
    scene
        .again("insert into service_instance select * from kept_instance")
        .await;
    scene.dies_in("service-instance.delete").await;
    let (status, text) = scene.ask("ana", "POST", "/services/instances", NEW).await;
    assert!(
        status == 409 && text.contains("not yet confirmed"),
        "{status} {text}"
    );
    scene.settled().await;
    scene.ok("POST", "/services/instances", NEW).await;
    scene.end().await;
}

#[tokio::test]
async fn a_claim_that_its_owner_does_not_renew_is_taken_over() {
    let flask = Flask::start("today.py");
    let scene = scene(&flask, 3).await;
    scene.ok("PUT", BIND, "").await;
    flask
        .fail(json!({"mode": "500", "method": "DELETE", "path": "/bind-app"}))
        .await;
    let forced = "/1.13/services/mysql/instances/my-db/apps/shop?force=true";
    scene.ok("DELETE", forced, "").await;
    scene
        .until(&format!("{OPEN} and attempts > 0 and claimed_by is null"), 1)
        .await;
    let died = "update orphan set claimed_by = gen_random_uuid(), claimed_until = now() + interval '1 second'
                where ended_at is null and claimed_by is null";
    scene.again(died).await;
    scene.bind_must_wait().await;
    flask.fail(json!({})).await;
    scene
        .until(&format!("{OPEN} and reason like 'confirmed%'"), 1)
        .await;
    assert_eq!(flask.binds("my-db").await, 0);
    // The dead one's call may still be carried out.
    scene.bind_must_wait().await;
    scene.settled().await;
    scene.ok("PUT", BIND, "").await;
    scene.end().await;
}
