//! Calls whose responses were lost, and which the service carries out much later.

use super::*;

const NEW: &str = r#"{"name":"my-db","service_name":"mysql"}"#;
const BIND: &str = "/services/instances/my-db/shop";
const OPEN: &str = "orphan where ended_at is null";

/// Starts a fixture with an app, an instance, and a service with a timeout of so many seconds.
async fn start_with_instance(flask: &ServiceProcess, seconds: u64) -> ServiceFixture {
    let fixture =
        ServiceFixture::with(|settings| settings.services.call_timeout = Duration::from_secs(seconds)).await;
    fixture.app("shop", "red").await;
    fixture.service("mysql", flask).await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture
}

impl ServiceProcess {
    /// Carries out a call once more, as it was last sent.
    async fn repeat_call(&self, call: &str) {
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

    /// Returns the number of hosts of the apps bound to an instance.
    async fn binds(&self, instance: &str) -> usize {
        let state = self.get("/__state").await;
        state["binds"][instance].as_array().map_or(0, Vec::len)
    }

    async fn has_instance(&self, instance: &str) -> bool {
        let state = self.get("/__state").await;
        state["instances"].get(instance).is_some()
    }
}

impl ServiceFixture {
    /// Puts the newest saga of a kind into the state of a process that died after calling the service.
    async fn crash_newest_saga(&self, kind: &str) {
        self.wait_for_rows("event where ended_at is null", 0).await;
        let died = sqlx::query(
            "update saga set state = 'forward', step = 'call-service', ended_at = null,
                    event_id = null, data = data || '{\"heard\": \"sent\"}' || case when data ? 'rollout' then
                        jsonb_build_object('rollout', data -> 'rollout' || '{\"promoted\": false}') else '{}' end
             where saga_id = (select saga_id from saga where kind = $1 order by created_at desc limit 1)",
        )
        .bind(kind)
        .execute(self.db())
        .await
        .unwrap();
        assert_eq!(died.rows_affected(), 1, "{kind}");
        self.wait_for_rows("saga where ended_at is null", 0).await;
    }

    /// Asserts that the two cannot be bound yet, because a late unbind would hit the new bind.
    async fn assert_bind_blocked(&self) {
        let (status, text) = self.send_request("ana", "PUT", BIND, "").await;
        assert!(
            status == 503 && text.contains("earlier unbind"),
            "{status} {text}"
        );
    }

    /// Restores the row of a bind or an instance of a saga, which `crash_newest_saga` then uses.
    async fn restore_row(&self, sql: &'static str) {
        let done = sqlx::query(sql).execute(self.db()).await.unwrap();
        assert_eq!(done.rows_affected(), 1, "{sql}");
    }
}

#[tokio::test]
async fn late_results_of_unanswered_calls_are_deleted() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 3).await;
    fixture.request_ok("PUT", BIND, "").await;
    fixture.crash_newest_saga("app.bind").await;
    fixture.request_ok("DELETE", BIND, "").await;
    flask.repeat_call("POST /resources/my-db/bind-app").await;
    assert!(
        flask.binds("my-db").await > 0,
        "the service has carried it out late"
    );
    fixture.wait_until_settled().await;
    assert_eq!(flask.binds("my-db").await, 0);
    // The service does not have the instance yet when it is looked up, so it is deleted again later.
    let lost = flask.http.delete(format!("{}/resources/my-db", flask.url));
    lost.send().await.unwrap();
    fixture.crash_newest_saga("service-instance.create").await;
    fixture
        .request_ok("DELETE", "/services/instances/my-db", "")
        .await;
    let (status, text) = fixture
        .send_request("ana", "POST", "/services/instances", NEW)
        .await;
    assert_eq!(status, 409, "the name is still blocked: {text}");
    flask.repeat_call("POST /resources").await;
    assert!(flask.has_instance("my-db").await);
    fixture.wait_until_settled().await;
    assert!(!flask.has_instance("my-db").await);
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture.end().await;
}

#[tokio::test]
async fn orphan_instance_found_at_the_service_releases_its_name_immediately() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 60).await;
    fixture.crash_newest_saga("service-instance.create").await;
    fixture
        .request_ok("DELETE", "/services/instances/my-db", "")
        .await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    assert_eq!(fixture.count("orphan").await, 0);
    fixture.end().await;
}

#[tokio::test]
async fn bind_with_a_lost_response_is_unbound_even_if_the_retry_is_rejected() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 3).await;
    fixture.request_ok("PUT", BIND, "").await;
    flask
        .fail(json!({"mode": "refuse", "method": "POST", "path": "/bind-app"}))
        .await;
    fixture.crash_newest_saga("app.bind").await;
    assert_eq!(fixture.count("bind").await, 0, "it is undone");
    fixture.wait_until_settled().await;
    assert_eq!(flask.binds("my-db").await, 0);
    fixture.end().await;
}

#[tokio::test]
async fn new_bind_closes_the_orphan_of_a_lost_bind_and_its_unbind_reopens_it() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 60).await;
    fixture.request_ok("PUT", BIND, "").await;
    fixture.crash_newest_saga("app.bind").await;
    fixture.request_ok("DELETE", BIND, "").await;
    assert_eq!(fixture.count(OPEN).await, 1);
    fixture.request_ok("PUT", BIND, "").await;
    assert_eq!(
        fixture.count(OPEN).await,
        0,
        "the late unbind would hit the new bind"
    );
    fixture.request_ok("DELETE", BIND, "").await;
    let waiting = format!("{OPEN} and wake_at > now() + interval '30 seconds'");
    assert_eq!(
        fixture.count(&waiting).await,
        1,
        "the old call may still be carried out"
    );
    fixture.end().await;
}

#[tokio::test]
async fn create_is_blocked_while_a_late_delete_may_arrive() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 3).await;
    fixture.request_ok("PUT", BIND, "").await;
    let keep = "create table kept as select * from bind";
    fixture.restore_row(keep).await;
    fixture.request_ok("DELETE", BIND, "").await;
    fixture
        .restore_row("insert into bind overriding system value select * from kept")
        .await;
    fixture.crash_newest_saga("app.unbind").await;
    assert_eq!(fixture.count("bind").await, 0);
    fixture.assert_bind_blocked().await;
    fixture.wait_until_settled().await;
    fixture.request_ok("PUT", BIND, "").await;
    assert!(flask.binds("my-db").await > 0);
    fixture.request_ok("DELETE", BIND, "").await;
    // The same with an instance.
    fixture
        .restore_row("create table kept_instance as select * from service_instance")
        .await;
    fixture
        .request_ok("DELETE", "/services/instances/my-db", "")
        .await;
    fixture
        .restore_row("insert into service_instance select * from kept_instance")
        .await;
    fixture.crash_newest_saga("service-instance.delete").await;
    let (status, text) = fixture
        .send_request("ana", "POST", "/services/instances", NEW)
        .await;
    assert!(
        status == 409 && text.contains("not yet confirmed"),
        "{status} {text}"
    );
    fixture.wait_until_settled().await;
    fixture.request_ok("POST", "/services/instances", NEW).await;
    fixture.end().await;
}

#[tokio::test]
async fn expired_orphan_claim_is_taken_over() {
    let flask = ServiceProcess::start("today.py");
    let fixture = start_with_instance(&flask, 3).await;
    fixture.request_ok("PUT", BIND, "").await;
    flask
        .fail(json!({"mode": "500", "method": "DELETE", "path": "/bind-app"}))
        .await;
    let forced = "/1.13/services/mysql/instances/my-db/apps/shop?force=true";
    fixture.request_ok("DELETE", forced, "").await;
    fixture
        .wait_for_rows(&format!("{OPEN} and attempts > 0 and claimed_by is null"), 1)
        .await;
    let died = "update orphan set claimed_by = gen_random_uuid(), claimed_until = now() + interval '1 second'
                where ended_at is null and claimed_by is null";
    fixture.restore_row(died).await;
    fixture.assert_bind_blocked().await;
    flask.fail(json!({})).await;
    fixture
        .wait_for_rows(&format!("{OPEN} and reason like 'confirmed%'"), 1)
        .await;
    assert_eq!(flask.binds("my-db").await, 0);
    // The call of the dead process may still be carried out.
    fixture.assert_bind_blocked().await;
    fixture.wait_until_settled().await;
    fixture.request_ok("PUT", BIND, "").await;
    fixture.end().await;
}
