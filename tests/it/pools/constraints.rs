//! The constraints of pools, and where they are enforced.

use serde_json::{Value, json};

use super::PoolFixture;
use crate::recorded::test_service::RecordedService;

impl PoolFixture {
    async fn constrain(&self, pools: &str, field: &str, names: &[&str], deny: bool) {
        let body = json!({ "PoolExpr": pools, "Field": field, "Values": names, "Blacklist": deny });
        self.change("PUT /1.3/constraints", body).await;
    }

    async fn allowed(&self, pool: &str, field: &str) -> Value {
        self.read(&self.root, &format!("/pools/{pool}")).await["allowed"][field].clone()
    }

    async fn create_app(&self, name: &str, more: Value) -> (u16, String) {
        let mut app = json!({ "name": name, "platform": "python" });
        app.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.send(&self.ana, "POST /1.0/apps", app).await
    }
}

#[tokio::test]
async fn longest_expression_decides_and_asterisks_lose_ties() {
    let fixture = PoolFixture::start().await;
    for name in ["dev-one", "dev-two", "prod"] {
        fixture.change("POST /1.0/pools", json!({ "name": name })).await;
    }
    let all = json!(["default", "large", "small"]);
    assert_eq!(fixture.allowed("dev-one", "plan").await, all);
    fixture.constrain("*", "plan", &["small"], false).await;
    fixture
        .constrain("dev-*", "plan", &["l*", "default"], false)
        .await;
    fixture.constrain("dev-one", "plan", &["small"], true).await;
    assert_eq!(fixture.allowed("prod", "plan").await, json!(["small"]));
    assert_eq!(
        fixture.allowed("dev-two", "plan").await,
        json!(["default", "large"])
    );
    assert_eq!(
        fixture.allowed("dev-one", "plan").await,
        json!(["default", "large"])
    );
    // As long as the name itself, with an asterisk.
    fixture.constrain("dev-tw*", "plan", &["default"], false).await;
    assert_eq!(fixture.allowed("dev-two", "plan").await, json!(["default"]));
    fixture.constrain("dev-two", "plan", &["large"], false).await;
    assert_eq!(fixture.allowed("dev-two", "plan").await, json!(["large"]));
    // No values remove a constraint; the next one holds.
    fixture.constrain("dev-two", "plan", &[], false).await;
    assert_eq!(fixture.allowed("dev-two", "plan").await, json!(["default"]));
    // Other characters stand for themselves.
    fixture.constrain("dev_two", "plan", &["small"], false).await;
    assert_eq!(fixture.allowed("dev-two", "plan").await, json!(["default"]));
    fixture.end().await;
}

#[tokio::test]
async fn constraint_is_set_listed_appended_to_and_removed() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    fixture.change("DELETE /1.0/pools/local", Value::Null).await;
    assert_eq!(fixture.read(root, "/1.3/constraints").await, json!([]));
    fixture.constrain("dev_*", "service", &["postgres"], true).await;
    let append = "PUT /1.3/constraints?append=true";
    let more = |names: Value, deny: bool| json!({ "PoolExpr": "dev_*", "Field": "service", "Values": names, "Blacklist": deny });
    fixture
        .change(append, more(json!(["redis", "postgres"]), false))
        .await;
    let expected = json!([{
        "PoolExpr": "dev_*", "Field": "service", "Values": ["postgres", "redis"], "Blacklist": true,
    }]);
    assert_eq!(fixture.read(root, "/1.3/constraints").await, expected);
    fixture
        .assert_refused(root, append, more(json!([]), false), 400, "nothing to append")
        .await;
    fixture.constrain("dev_*", "service", &["postgres"], false).await;
    fixture
        .assert_refused(root, append, more(json!(["redis"]), true), 409, "set it anew")
        .await;
    fixture
        .change("PUT /1.3/constraints", more(Value::Null, false))
        .await;
    assert_eq!(fixture.read(root, "/1.3/constraints").await, json!([]));
    fixture.end().await;
}

#[tokio::test]
async fn invalid_constraint_is_refused_without_a_trace() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let before = fixture.read(root, "/1.3/constraints").await;
    let numbered = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>();
    for (body, text) in [
        (json!({}), "PoolExpr is missing"),
        (json!({ "PoolExpr": "x" }), "Field is missing"),
        (
            json!({ "PoolExpr": "a b", "Field": "team", "Values": ["x"] }),
            "not an expression for pools",
        ),
        (
            json!({ "PoolExpr": "p".repeat(101), "Field": "team", "Values": ["x"] }),
            "not an expression",
        ),
        (
            json!({ "PoolExpr": "x", "Field": "colour", "Values": ["x"] }),
            "use one of team, service",
        ),
        (
            json!({ "PoolExpr": "x", "Field": "team", "Values": "x\ny" }),
            "without control characters",
        ),
        (
            json!({ "PoolExpr": "x", "Field": "team", "Values": ["x".repeat(256)] }),
            "at most 255 bytes",
        ),
        (
            json!({ "PoolExpr": "x", "Field": "team", "Values": [1] }),
            "must be a list of strings",
        ),
        (
            json!({ "PoolExpr": "x", "Field": "team", "Values": numbered(1001) }),
            "at most 1000",
        ),
    ] {
        fixture
            .assert_refused(root, "PUT /1.3/constraints", body, 400, text)
            .await;
    }
    let full = json!({ "PoolExpr": "x", "Field": "team", "Values": numbered(1000) });
    fixture.change("PUT /1.3/constraints", full).await;
    let one_more = json!({ "PoolExpr": "x", "Field": "team", "Values": ["more"] });
    fixture
        .assert_refused(
            root,
            "PUT /1.3/constraints?append=true",
            one_more,
            400,
            "at most 1000 values",
        )
        .await;
    fixture.constrain("x", "team", &[], false).await;
    assert_eq!(fixture.read(root, "/1.3/constraints").await, before);
    fixture.end().await;
}

#[tokio::test]
async fn number_of_constraints_is_limited() {
    let fixture = PoolFixture::start().await;
    let fill = "insert into pool_constraint (pool_expr, field, names)
                select 'p' || n, 'plan', '{x}' from generate_series(1, 999) n";
    sqlx::raw_sql(fill)
        .execute(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    let body = json!({ "PoolExpr": "one-more", "Field": "plan", "Values": ["x"] });
    fixture
        .assert_refused(
            &fixture.root,
            "PUT /1.3/constraints",
            body,
            400,
            "at most 1000 constraints",
        )
        .await;
    // Changing one of them is no new one.
    fixture.constrain("p1", "plan", &["small"], false).await;
    fixture.end().await;
}

#[tokio::test]
async fn app_gets_only_what_its_pool_allows() {
    let fixture = PoolFixture::start().await;
    fixture.change("POST /1.0/pools", json!({ "name": "gpu" })).await;
    let (status, text) = fixture.create_app("shop", json!({ "pool": "gpu" })).await;
    assert_eq!((status, text.contains("may not use it")), (400, true), "{text}");
    fixture.constrain("g*", "team", &["r*"], false).await;
    fixture.constrain("gpu", "plan", &["large", "small"], false).await;
    let (status, text) = fixture
        .create_app("shop", json!({ "pool": "gpu", "plan": "default" }))
        .await;
    assert_eq!(
        (status, text.contains("does not allow the plan default")),
        (400, true),
        "{text}"
    );
    // The first name is the default plan of the pool.
    let (status, text) = fixture.create_app("shop", json!({ "pool": "gpu" })).await;
    assert_eq!(status, 201, "{text}");
    assert_eq!(
        fixture.read(&fixture.ana, "/1.0/apps/shop").await["plan"]["name"],
        "large"
    );
    let update = "PUT /1.0/apps/shop";
    fixture
        .assert_refused(
            &fixture.ana,
            update,
            json!({ "plan": "default" }),
            400,
            "does not allow the plan",
        )
        .await;
    let (status, text) = fixture
        .send(&fixture.ana, update, json!({ "plan": "small" }))
        .await;
    assert!(status == 200 && !text.contains("\"Error\""), "{text}");
    fixture.tancho.create_team(&fixture.ana, "blue").await;
    fixture
        .assert_refused(
            &fixture.ana,
            update,
            json!({ "teamOwner": "blue" }),
            400,
            "does not allow the team blue",
        )
        .await;
    // What an app has stays, and may be sent again.
    fixture.constrain("gpu", "plan", &["large"], false).await;
    fixture.constrain("g*", "team", &["other"], false).await;
    let same = json!({ "plan": "small", "teamOwner": "red", "description": "x" });
    let (status, text) = fixture.send(&fixture.ana, update, same).await;
    assert!(status == 200 && !text.contains("\"Error\""), "{text}");
    fixture.end().await;
}

#[tokio::test]
async fn default_plan_of_a_pool_is_one_that_it_allows() {
    let fixture = PoolFixture::start().await;
    let plan_of = async |name: &str| {
        let (status, text) = fixture.create_app(name, json!({})).await;
        assert_eq!(status, 201, "{text}");
        fixture.read(&fixture.ana, &format!("/1.0/apps/{name}")).await["plan"]["name"].clone()
    };
    assert_eq!(plan_of("unconstrained").await, "default");
    fixture.constrain("local", "plan", &["*"], false).await;
    assert_eq!(plan_of("all").await, "default");
    fixture.constrain("local", "plan", &["default"], true).await;
    assert_eq!(plan_of("denied").await, "large");
    fixture.constrain("local", "plan", &["sm*"], false).await;
    assert_eq!(plan_of("matched").await, "small");
    fixture.constrain("local", "plan", &["gone"], false).await;
    let (status, text) = fixture.create_app("none", json!({})).await;
    assert_eq!(
        (status, text.contains("does not allow the plan default")),
        (400, true),
        "{text}"
    );
    fixture.end().await;
}

#[tokio::test]
async fn service_is_bound_and_provided_only_where_the_pool_allows_it() {
    let fixture = PoolFixture::start().await;
    let service = RecordedService::start(&fixture.tancho).await;
    let new =
        json!({ "id": "postgres", "username": "u", "password": "p", "team": "red", "endpoint": service.url });
    fixture.change("POST /1.0/services", new).await;
    let (status, text) = fixture.create_app("shop", json!({})).await;
    assert_eq!(status, 201, "{text}");
    let create = "POST /1.0/services/postgres/instances";
    fixture.constrain("*", "service", &["postgres"], true).await;
    fixture
        .assert_refused(
            &fixture.ana,
            create,
            json!({ "name": "db", "pool": "local" }),
            400,
            "Pool local does not allow the service postgres",
        )
        .await;
    let (status, text) = fixture.send(&fixture.ana, create, json!({ "name": "db" })).await;
    assert_eq!(status, 201, "{text}");
    let bind = "PUT /1.13/services/postgres/instances/db/apps/shop";
    let no_restart = json!({ "noRestart": true });
    fixture
        .assert_refused(
            &fixture.ana,
            bind,
            no_restart.clone(),
            400,
            "does not allow the service postgres",
        )
        .await;
    fixture
        .assert_refused(
            &fixture.ana,
            "PUT /services/instances/db/shop",
            Value::Null,
            400,
            "does not allow",
        )
        .await;
    fixture.constrain("local", "service", &["post*"], false).await;
    let (status, text) = fixture.send(&fixture.ana, bind, no_restart).await;
    assert!(status == 200 && !text.contains("\"Error\""), "{text}");
    fixture.end().await;
}

#[tokio::test]
async fn later_object_of_a_removed_name_is_not_allowed_in_its_stead() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    fixture.change("POST /1.0/pools", json!({ "name": "gpu" })).await;
    fixture.constrain("gpu", "team", &["red", "blue"], false).await;
    fixture.constrain("gpu", "service", &["postgres"], false).await;
    fixture.constrain("local", "team", &["blue"], true).await;
    fixture.tancho.create_team(root, "blue").await;
    let service =
        json!({ "id": "postgres", "password": "p", "team": "blue", "endpoint": "http://127.0.0.1:9" });
    fixture.change("POST /1.0/services", service.clone()).await;
    assert_eq!(fixture.allowed("gpu", "team").await, json!(["blue", "red"]));
    assert_eq!(fixture.allowed("gpu", "service").await, json!(["postgres"]));
    fixture.change("DELETE /1.0/services/postgres", Value::Null).await;
    fixture.change("DELETE /1.0/teams/blue", Value::Null).await;
    fixture.tancho.create_team(root, "blue").await;
    fixture.change("POST /1.0/services", service).await;
    assert_eq!(fixture.allowed("gpu", "team").await, json!(["red"]));
    assert_eq!(fixture.allowed("gpu", "service").await, json!([]));
    // What was denied stays denied.
    assert_eq!(fixture.allowed("local", "team").await, json!(["red"]));
    // A renamed team keeps its pools.
    fixture
        .change("PUT /1.6/teams/red", json!({ "newname": "crimson" }))
        .await;
    assert_eq!(fixture.allowed("gpu", "team").await, json!(["crimson"]));
    // A later pool of the same name begins closed.
    fixture.change("DELETE /1.0/pools/gpu", Value::Null).await;
    fixture.change("POST /1.0/pools", json!({ "name": "gpu" })).await;
    assert_eq!(fixture.allowed("gpu", "team").await, json!([]));
    fixture.end().await;
}

#[tokio::test]
async fn concurrent_appends_lose_no_name() {
    let fixture = PoolFixture::start().await;
    let append = async |name: String| {
        let body = json!({ "PoolExpr": "local", "Field": "router", "Values": [name] });
        fixture.change("PUT /1.3/constraints?append=true", body).await;
    };
    futures_util::future::join_all((0..8).map(|n| append(format!("r{n}")))).await;
    let constraints = fixture.read(&fixture.root, "/1.3/constraints").await;
    let mut found = constraints.as_array().unwrap().iter();
    let routers = found.find(|constraint| constraint["Field"] == "router").unwrap();
    assert_eq!(routers["Values"].as_array().unwrap().len(), 8, "{routers}");
    fixture.end().await;
}
