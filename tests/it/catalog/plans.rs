//! Creating and removing plans.

use serde_json::{Value, json};

use crate::pools::PoolFixture;

#[tokio::test]
async fn plan_is_created_with_units_and_listed() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let new = json!({ "name": "medium", "memory": "512Mi", "cpumilli": "50%",
                      "cpuBurst": { "default": 1.5, "maxAllowed": 2 } });
    let (status, text) = fixture.send(root, "POST /1.0/plans", new.clone()).await;
    assert_eq!(status, 201, "{text}");
    // Programs decode the plan that was created.
    let made: Value = serde_json::from_str(&text).unwrap();
    let plans = fixture.read(&fixture.ana, "/1.0/plans").await;
    let medium = plans
        .as_array()
        .unwrap()
        .iter()
        .find(|plan| plan["name"] == "medium");
    let expected = json!({ "name": "medium", "memory": 512 << 20, "cpumilli": 500, "default": false,
                           "cpuBurst": { "default": 1.5, "maxAllowed": 2.0 } });
    assert_eq!((medium.unwrap(), &made), (&expected, &expected));
    fixture
        .assert_refused(root, "POST /1.0/plans", new.clone(), 409, "Plan already exists")
        .await;
    fixture
        .assert_refused(&fixture.ana, "POST /1.0/plans", new, 403, "permission")
        .await;
    // What the client sends has numbers; what is absent has no limit.
    fixture
        .change(
            "POST /1.0/plans",
            json!({ "name": "tiny", "memory": 4_194_304, "cpumilli": 100 }),
        )
        .await;
    fixture.change("POST /1.0/plans", json!({ "name": "free" })).await;
    fixture.end().await;
}

#[tokio::test]
async fn invalid_plan_is_refused_with_a_sentence() {
    let fixture = PoolFixture::start().await;
    for (new, text) in [
        (json!({}), "name is missing"),
        (json!({ "name": "a b" }), "plan name"),
        (json!({ "name": "x".repeat(1_000_000) }), "plan name"),
        (json!({ "name": "x", "memory": "much" }), "is no memory"),
        (json!({ "name": "x", "memory": 512 }), "at least 4194304"),
        (json!({ "name": "x", "memory": -1 }), "is no memory"),
        (json!({ "name": "x", "memory": [1] }), "memory must be given once"),
        (json!({ "name": "x", "cpumilli": 1.5 }), "is no CPU"),
        (json!({ "name": "x", "cpumilli": 2_000_000 }), "at most 1000000"),
        (
            json!({ "name": "x", "cpuBurst": 2 }),
            "cpuBurst must be an object",
        ),
        (
            json!({ "name": "x", "cpuBurst": { "default": 0.5 } }),
            "factors from 1 to 100",
        ),
        (
            json!({ "name": "x", "cpuBurst": { "default": 3, "maxAllowed": 2 } }),
            "factors from 1 to 100",
        ),
        (json!({ "name": "x", "default": "perhaps" }), "true or false"),
    ] {
        fixture
            .assert_refused(&fixture.root, "POST /1.0/plans", new, 400, text)
            .await;
    }
    fixture.end().await;
}

#[tokio::test]
async fn new_default_plan_replaces_the_present_one() {
    let fixture = PoolFixture::start().await;
    let make = async |name: &str| {
        let new = json!({ "name": name, "default": true });
        fixture.send(&fixture.root, "POST /1.0/plans", new).await
    };
    let made = futures_util::future::join_all(["a", "b", "c", "d"].map(make)).await;
    for (status, text) in &made {
        assert!([201, 409].contains(status), "{status} {text}");
    }
    let plans = fixture.read(&fixture.root, "/1.0/plans").await;
    let defaults: Vec<&Value> = plans
        .as_array()
        .unwrap()
        .iter()
        .filter(|plan| plan["default"] == true)
        .collect();
    assert_eq!(defaults.len(), 1, "{plans}");
    let app = json!({ "name": "shop", "platform": "python" });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    let shop = fixture.read(&fixture.ana, "/1.0/apps/shop").await;
    assert_eq!(shop["plan"]["name"], defaults[0]["name"]);
    fixture.end().await;
}

#[tokio::test]
async fn plan_of_an_app_is_not_removed() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    for (name, plan) in [("shop", "small"), ("blog", "default")] {
        let app = json!({ "name": name, "platform": "python", "plan": plan });
        let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
        assert_eq!(status, 201, "{text}");
    }
    let own = json!({ "processes": [{ "name": "web", "plan": "large" }] });
    fixture.change("PUT /1.0/apps/blog", own).await;
    for (plan, text) in [("small", "has apps"), ("large", "has processes of apps")] {
        let line = format!("DELETE /1.0/plans/{plan}");
        fixture.assert_refused(root, &line, Value::Null, 403, text).await;
    }
    fixture.change("DELETE /1.0/apps/shop", Value::Null).await;
    fixture
        .assert_refused(
            &fixture.ana,
            "DELETE /1.0/plans/small",
            Value::Null,
            403,
            "permission",
        )
        .await;
    fixture.change("DELETE /1.0/plans/small", Value::Null).await;
    fixture
        .assert_refused(
            root,
            "DELETE /1.0/plans/small",
            Value::Null,
            404,
            "Plan small not found",
        )
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn burst_of_an_app_is_limited_by_its_plan() {
    let fixture = PoolFixture::start().await;
    let new = json!({ "name": "bursty", "cpumilli": 100, "cpuBurst": { "default": 1.2, "maxAllowed": 2 } });
    fixture.change("POST /1.0/plans", new).await;
    let app = json!({ "name": "shop", "platform": "python", "plan": "bursty" });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    let shop = fixture.read(&fixture.ana, "/1.0/apps/shop").await;
    assert_eq!(
        shop["plan"]["cpuBurst"],
        json!({ "default": 1.2, "maxAllowed": 2.0 })
    );
    let burst = |factor: f64| json!({ "planoverride": { "cpuBurst": factor }, "noRestart": true });
    fixture
        .assert_refused(
            &fixture.root,
            "PUT /1.0/apps/shop",
            burst(2.5),
            400,
            "at most 2, the largest factor of the plan bursty",
        )
        .await;
    fixture.change("PUT /1.0/apps/shop", burst(2.0)).await;
    fixture.end().await;
}
