//! What units are limited to: by the plan of their process, or by that of the app with its override.

use super::*;

const SMALL: u64 = 256 << 20;
const LARGE: u64 = 1 << 30;

impl UnitFixture {
    /// Changes the app, which must succeed, and waits until as many units run as before.
    async fn change_app(&self, body: Value) -> Vec<TestUnit> {
        let count = self.units().await.len();
        let request = self
            .request(Method::PUT, "/1.0/apps/crane")
            .body(body.to_string());
        let (status, text) = self.text(request).await;
        assert!(
            status == StatusCode::OK && !text.contains("\"Error\""),
            "{body}: {text}"
        );
        self.wait_until_ready(count).await
    }

    /// Memory and CPU of the unit of a process.
    fn limits(&self, units: &[TestUnit], process: &str) -> (u64, u32) {
        let unit = units.iter().find(|unit| unit.process == process).unwrap();
        let spec = self.fake().unit_spec(&UnitId::parse(&unit.id).unwrap()).unwrap();
        (spec.memory_bytes, spec.cpu_milli)
    }

    async fn info(&self) -> Value {
        let (_, text) = self.text(self.request(Method::GET, "/1.0/apps/crane")).await;
        serde_json::from_str(&text).unwrap()
    }
}

fn id<'a>(units: &'a [TestUnit], process: &str) -> &'a str {
    &units.iter().find(|unit| unit.process == process).unwrap().id
}

async fn two_processes() -> (UnitFixture, Vec<TestUnit>) {
    let fixture = UnitFixture::new(|_| {}).await;
    fixture.listen_for_all_units().await;
    fixture.scale("web", 1).await;
    fixture.scale("worker", 1).await;
    fixture.deploy(BOTH, "{}").await;
    let units = fixture.wait_until_ready(2).await;
    (fixture, units)
}

fn process_plan(process: &str, plan: &str) -> Value {
    json!({ "processes": [{ "name": process, "plan": plan, "metadata": {} }], "planoverride": {}, "metadata": {} })
}

#[tokio::test]
async fn plan_of_a_process_limits_its_units_and_restarts_only_them() {
    let (fixture, first) = two_processes().await;
    assert_eq!(fixture.limits(&first, "worker"), (SMALL, 0));
    let second = fixture.change_app(process_plan("worker", "large")).await;
    assert_eq!(id(&second, "web"), id(&first, "web"));
    assert_ne!(id(&second, "worker"), id(&first, "worker"));
    assert_eq!(fixture.limits(&second, "web"), (SMALL, 0));
    assert_eq!(fixture.limits(&second, "worker"), (LARGE, 0));
    let worker =
        json!({ "name": "worker", "plan": "large", "metadata": { "labels": [], "annotations": [] } });
    assert_eq!(fixture.info().await["processes"][1], worker);
    // The same plan again changes nothing.
    let same = fixture.change_app(process_plan("worker", "large")).await;
    assert_eq!(same, second);
    // Without a restart, the plan applies to units that are started later.
    let mut quiet = process_plan("worker", "$default");
    quiet["noRestart"] = json!(true);
    assert_eq!(fixture.change_app(quiet).await, second);
    assert!(fixture.info().await["processes"][1]["plan"].is_null());
    let restart = fixture.request(Method::POST, "/1.0/apps/crane/restart");
    assert_eq!(fixture.text(restart).await.0, StatusCode::OK);
    let third = fixture.wait_until_ready(2).await;
    assert_eq!(fixture.limits(&third, "worker"), (SMALL, 0));
    fixture.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn plan_override_applies_to_processes_without_their_own_plan_until_it_is_reset() {
    let (fixture, first) = two_processes().await;
    fixture.change_app(process_plan("worker", "large")).await;
    let override_ = json!({ "planoverride": { "memory": 8 << 20, "cpumilli": 500, "cpuBurst": 1.5 } });
    let units = fixture.change_app(override_.clone()).await;
    assert_ne!(id(&units, "web"), id(&first, "web"));
    assert_eq!(fixture.limits(&units, "web"), (8 << 20, 750));
    assert_eq!(fixture.limits(&units, "worker"), (LARGE, 0));
    let plan = fixture.info().await["plan"].clone();
    assert_eq!(plan["memory"], SMALL);
    assert_eq!(
        plan["override"],
        json!({ "memory": 8 << 20, "cpumilli": 500, "cpuBurst": 1.5 })
    );
    let (_, text) = fixture.text(fixture.request(Method::GET, "/1.0/apps")).await;
    let list: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list[0]["plan"], plan);
    assert_eq!(
        fixture.change_app(override_).await,
        units,
        "no change, no restart"
    );
    // 0 takes one override away; the others stay.
    let units = fixture
        .change_app(json!({ "planoverride": { "memory": 0 } }))
        .await;
    assert_eq!(fixture.limits(&units, "web"), (SMALL, 750));
    // A plan takes along what is overridden, save what is overridden with it.
    let new = json!({ "plan": "large", "planoverride": { "cpuBurst": 2 } });
    let units = fixture.change_app(new).await;
    assert_eq!(fixture.limits(&units, "web"), (LARGE, 0));
    let expected = json!({ "memory": null, "cpumilli": null, "cpuBurst": 2.0 });
    assert_eq!(fixture.info().await["plan"]["override"], expected);
    fixture
        .change_app(json!({ "planoverride": { "cpuBurst": 0 } }))
        .await;
    assert!(fixture.info().await["plan"]["override"].is_null());
    fixture.tancho.running.drain_and_stop().await;
}
