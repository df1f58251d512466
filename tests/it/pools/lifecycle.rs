//! Creating, changing and removing pools.

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;

use super::PoolFixture;
use crate::test_server::TestServer;

#[tokio::test]
async fn pool_is_created_changed_and_removed() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let new = json!({ "name": "gpu", "public": true, "provisioner": "local", "labels": { "zone": "a" } });
    let (status, text) = fixture.send(root, "POST /1.0/pools", new).await;
    assert_eq!(status, 201, "{text}");
    let gpu = fixture.read(root, "/pools/gpu").await;
    assert_eq!(gpu["public"], true);
    assert_eq!(gpu["default"], false);
    assert_eq!(gpu["labels"], json!({ "zone": "a" }));
    assert_eq!(gpu["teams"], json!(["red"]));
    assert_eq!(gpu["allowed"]["plan"], json!(["default", "large", "small"]));
    // Only what is given changes.
    fixture
        .change("PUT /1.0/pools/gpu", json!({ "public": false, "labels": null }))
        .await;
    let gpu = fixture.read(root, "/pools/gpu").await;
    assert_eq!(
        (&gpu["public"], &gpu["labels"]),
        (&json!(false), &json!({ "zone": "a" }))
    );
    assert_eq!(gpu["teams"], json!([]));
    fixture
        .change("PUT /1.0/pools/gpu", json!({ "labels": {} }))
        .await;
    let gpu = fixture.read(root, "/pools/gpu").await;
    assert_eq!((&gpu["public"], &gpu["labels"]), (&json!(false), &json!({})));
    // A form of zero values changes nothing.
    let form = fixture
        .tancho
        .request_as(root, Method::PUT, "/1.0/pools/gpu")
        .form(&[("Public", ""), ("Default", ""), ("Labels", "")]);
    assert_eq!(form.send().await.unwrap().status(), 200);
    assert_eq!(fixture.read(root, "/pools/gpu").await, gpu);
    fixture.change("DELETE /1.0/pools/gpu", Value::Null).await;
    fixture
        .assert_refused(
            root,
            "DELETE /1.0/pools/gpu",
            Value::Null,
            404,
            "Pool gpu not found",
        )
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn second_default_pool_needs_force() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let new = json!({ "name": "other", "default": true });
    fixture
        .assert_refused(
            root,
            "POST /1.0/pools",
            new.clone(),
            409,
            "Default pool already exists",
        )
        .await;
    fixture
        .assert_refused(root, "PUT /1.0/pools/other", json!({}), 404, "not found")
        .await;
    fixture
        .change(
            "POST /1.0/pools",
            json!({ "name": "other", "default": true, "force": true }),
        )
        .await;
    assert_eq!(fixture.read(root, "/pools/local").await["default"], false);
    let other = fixture.read(root, "/pools/other").await;
    assert_eq!(
        (&other["default"], &other["public"]),
        (&json!(true), &json!(true))
    );
    let back = json!({ "default": true });
    fixture
        .assert_refused(root, "PUT /1.0/pools/local", back, 409, "it is other")
        .await;
    fixture
        .change("PUT /1.0/pools/local", json!({ "default": true, "force": true }))
        .await;
    // The default pool stays it, without force.
    fixture
        .change("PUT /1.0/pools/local", json!({ "default": true }))
        .await;
    // A pool that is no longer the default one is as open as before.
    fixture
        .change("PUT /1.0/pools/local", json!({ "default": false }))
        .await;
    let local = fixture.read(root, "/pools/local").await;
    assert_eq!(
        (&local["default"], &local["public"]),
        (&json!(false), &json!(true))
    );
    let app = json!({ "name": "shop", "platform": "python" });
    fixture
        .assert_refused(&fixture.ana, "POST /1.0/apps", app, 400, "specify another pool")
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn concurrent_default_pools_leave_exactly_one() {
    let fixture = PoolFixture::start().await;
    let make = async |name: &str| {
        let new = json!({ "name": name, "default": true, "force": true });
        fixture.send(&fixture.root, "POST /1.0/pools", new).await
    };
    let made = futures_util::future::join_all(["a", "b", "c", "d"].map(make)).await;
    for (status, text) in &made {
        assert!([201, 409].contains(status), "{status} {text}");
    }
    assert!(made.iter().any(|(status, _)| *status == 201), "{made:?}");
    let pools = fixture.read(&fixture.root, "/1.0/pools").await;
    let defaults = pools
        .as_array()
        .unwrap()
        .iter()
        .filter(|pool| pool["default"] == true);
    assert_eq!(defaults.count(), 1, "{pools}");
    fixture.end().await;
}

#[tokio::test]
async fn pool_with_apps_is_not_removed() {
    let fixture = PoolFixture::start().await;
    fixture
        .change("POST /1.0/pools", json!({ "name": "gpu", "public": true }))
        .await;
    let app = json!({ "name": "shop", "platform": "python", "pool": "gpu" });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    fixture
        .assert_refused(
            &fixture.root,
            "DELETE /1.0/pools/gpu",
            Value::Null,
            403,
            "This pool has apps",
        )
        .await;
    assert_eq!(fixture.read(&fixture.root, "/pools/gpu").await["public"], true);
    fixture.end().await;
}

#[tokio::test]
async fn invalid_pool_is_refused_without_a_trace() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let before = fixture.read(root, "/1.0/pools").await;
    let many: serde_json::Map<String, Value> = (0..101).map(|n| (format!("k{n}"), json!("v"))).collect();
    for (new, text) in [
        (json!({}), "name is missing"),
        (json!({ "name": "" }), "name is missing"),
        (json!({ "name": "Big Pool" }), "not a valid pool name"),
        (json!({ "name": "p".repeat(64) }), "not a valid pool name"),
        (json!({ "name": 3 }), "name must be a string"),
        (
            json!({ "name": "gpu", "provisioner": "docker" }),
            "no provisioner \"docker\": use one of local",
        ),
        (
            json!({ "name": "gpu", "public": "maybe" }),
            "public must be true or false",
        ),
        (
            json!({ "name": "gpu", "labels": ["a"] }),
            "labels must be an object",
        ),
        (json!({ "name": "gpu", "labels": { "a": 1 } }), "not a string"),
        (json!({ "name": "gpu", "labels": many }), "at most 100 labels"),
        (
            json!({ "name": "gpu", "labels": { "a": "x".repeat(17_000) } }),
            "at most 16 KiB",
        ),
    ] {
        fixture
            .assert_refused(root, "POST /1.0/pools", new, 400, text)
            .await;
    }
    fixture
        .assert_refused(
            root,
            "POST /1.0/pools",
            json!({ "name": "local" }),
            409,
            "already exists",
        )
        .await;
    for (patch, text) in [
        (json!({ "default": 1 }), "default must be true or false"),
        (json!({ "labels": "a" }), "labels must be an object"),
        (json!({ "labels": { "x".repeat(256): "" } }), "at most 255 bytes"),
    ] {
        fixture
            .assert_refused(root, "PUT /1.0/pools/local", patch, 400, text)
            .await;
    }
    assert_eq!(fixture.read(root, "/1.0/pools").await, before);
    fixture.end().await;
}

#[tokio::test]
async fn teams_are_added_to_and_removed_from_a_pool() {
    let fixture = PoolFixture::start().await;
    let (root, line) = (&fixture.root, "POST /1.0/pools/gpu/team");
    fixture.tancho.create_team(root, "blue").await;
    fixture.change("POST /1.0/pools", json!({ "name": "gpu" })).await;
    let visible = async || {
        let pools = fixture.read(&fixture.ana, "/1.0/pools").await;
        pools.as_array().unwrap().iter().any(|pool| pool["name"] == "gpu")
    };
    assert!(!visible().await);
    fixture
        .assert_refused(root, line, json!({ "team": [] }), 400, "must provide the team")
        .await;
    fixture
        .assert_refused(
            root,
            line,
            json!({ "team": ["red", "nobody"] }),
            400,
            "nobody does not exist",
        )
        .await;
    fixture.change(line, json!({ "team": ["red", "blue"] })).await;
    assert!(visible().await);
    fixture
        .assert_refused(root, line, json!({ "team": ["red"] }), 409, "may already use")
        .await;
    // A member sees the own team only.
    assert_eq!(
        fixture.read(&fixture.ana, "/pools/gpu").await["teams"],
        json!(["red"])
    );
    assert_eq!(
        fixture.read(root, "/pools/gpu").await["teams"],
        json!(["blue", "red"])
    );
    let remove = "DELETE /1.0/pools/gpu/team?team=red";
    fixture.change(remove, Value::Null).await;
    assert!(!visible().await);
    fixture
        .assert_refused(root, remove, Value::Null, 404, "red is not in the list")
        .await;
    let none = "DELETE /1.0/pools/gpu/team";
    fixture
        .assert_refused(root, none, Value::Null, 400, "must provide the team")
        .await;
    fixture
        .assert_refused(
            root,
            "POST /1.0/pools/local/team",
            json!({ "team": ["red"] }),
            400,
            "pool is public",
        )
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn team_info_lists_the_pools_of_the_team() {
    let fixture = PoolFixture::start().await;
    fixture.change("POST /1.0/pools", json!({ "name": "gpu" })).await;
    fixture.change("POST /1.0/pools", json!({ "name": "ssd" })).await;
    fixture
        .change("POST /1.0/pools/gpu/team", json!({ "team": ["red"] }))
        .await;
    let team = fixture.read(&fixture.ana, "/1.4/teams/red").await;
    let names: Vec<&Value> = team["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pool| &pool["name"])
        .collect();
    assert_eq!(names, ["gpu", "local"]);
    fixture.end().await;
}

#[tokio::test]
async fn role_on_a_pool_changes_that_pool_but_not_the_default() {
    let fixture = PoolFixture::start().await;
    for name in ["gpu", "ssd"] {
        fixture.change("POST /1.0/pools", json!({ "name": name })).await;
    }
    fixture
        .change("POST /1.0/roles", json!({ "name": "keeper", "context": "pool" }))
        .await;
    fixture
        .change(
            "POST /1.0/roles/keeper/permissions",
            json!({ "permission": ["pool"] }),
        )
        .await;
    let whom = json!({ "email": "ana@example.com", "context": "gpu" });
    fixture.change("POST /1.0/roles/keeper/user", whom).await;
    let ana = &fixture.ana;
    let (status, text) = fixture
        .send(ana, "PUT /1.0/pools/gpu", json!({ "labels": { "a": "b" } }))
        .await;
    assert_eq!(status, 200, "{text}");
    let (status, text) = fixture
        .send(ana, "POST /1.0/pools/gpu/team", json!({ "team": "red" }))
        .await;
    assert_eq!(status, 200, "{text}");
    for (line, body) in [
        ("PUT /1.0/pools/ssd", json!({ "labels": {} })),
        ("PUT /1.0/pools/gpu", json!({ "default": true, "force": true })),
        ("POST /1.0/pools/ssd/team", json!({ "team": "red" })),
        ("DELETE /1.0/pools/ssd", Value::Null),
        ("POST /1.0/pools", json!({ "name": "mine" })),
        (
            "PUT /1.3/constraints",
            json!({ "PoolExpr": "gpu", "Field": "plan", "Values": ["large"] }),
        ),
        ("GET /1.3/constraints", Value::Null),
    ] {
        fixture.assert_refused(ana, line, body, 403, "permission").await;
    }
    let (status, text) = fixture.send(ana, "DELETE /1.0/pools/gpu", Value::Null).await;
    assert_eq!(status, 200, "{text}");
    fixture.end().await;
}

/// The first migration of constraints.
const CONSTRAINTS: i64 = 220;

#[tokio::test]
async fn pools_of_an_earlier_schema_keep_the_teams_that_may_use_them() {
    let tancho = TestServer::start_upgraded(async |db| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let mut old = Migrator::new(folder).await.unwrap();
        old.migrations.to_mut().retain(|m| m.version < CONSTRAINTS);
        old.run(db).await.unwrap();
        let pools = "insert into team (name) values ('red'), ('blue');
                     insert into pool (name, provisioner, is_public) values
                         ('open', 'local', true), ('closed', 'local', false), ('empty', 'local', false);
                     insert into pool_team values ('closed', 'red')";
        sqlx::raw_sql(pools).execute(db).await.unwrap();
    })
    .await;
    let allowed: Vec<String> = sqlx::query_scalar(
        "select p.name || ' ' || t.name from pool p cross join team t
         where pool_allows(p.name, 'team', t.name) order by 1",
    )
    .fetch_all(&tancho.running.core.db)
    .await
    .unwrap();
    let expected = ["closed red", "local blue", "local red", "open blue", "open red"];
    assert_eq!(allowed, expected);
    tancho.running.drain_and_stop().await;
}
