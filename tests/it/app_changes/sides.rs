//! Versions of an app side by side.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::AppFixture;
use crate::accounts::{ApiResponse, RequestBody};

const ROLLBACK: &str = "POST /1.0/apps/shop/deploy/rollback";

impl AppFixture {
    /// Deploys a Procfile with one of the fields for versions; returns the status and the text.
    async fn deploy_with(&self, procfile: &str, field: &str) -> (u16, String) {
        self.send_archive(&format!("/1.0/apps/shop/deploy?{field}=true"), procfile)
            .await
    }

    async fn deploy_beside(&self, procfile: &str) {
        let (status, text) = self.deploy_with(procfile, "new-version").await;
        assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    }

    /// A version that runs, and a second one beside it.
    async fn with_side() -> Self {
        let app = Self::start().await;
        app.deploy_ok("web: serve\n").await;
        app.deploy_beside("web: serve\nworker: work\n").await;
        app
    }

    /// The units that get requests or could, by version: how many, and of them those that are routable.
    pub(super) async fn units_by_version(&self) -> BTreeMap<i64, (usize, usize)> {
        let mut found = BTreeMap::new();
        for unit in self.info().await["units"].as_array().unwrap() {
            let (all, routable) = found.entry(unit["Version"].as_i64().unwrap()).or_insert((0, 0));
            *all += 1;
            *routable += usize::from(unit["Routable"] == json!(true));
        }
        found
    }

    /// How many addresses the routers have.
    async fn count_addresses(&self) -> usize {
        let answer = self
            .send_as_root("POST /1.0/apps/shop/routes?dry=true", RequestBody::None)
            .await;
        let routes: Value = serde_json::from_str(&answer.expect_status(200).body).unwrap();
        routes.to_string().matches("127.0.0.1:").count()
    }

    async fn set_routable(&self, version: &str, is_routable: bool) -> ApiResponse {
        let body = json!({ "version": version, "isRoutable": is_routable });
        self.send("POST /1.8/apps/shop/routable", RequestBody::Bare(body))
            .await
    }

    async fn unit_ids(&self, version: i64) -> Vec<String> {
        let info = self.info().await;
        let units = info["units"].as_array().unwrap().iter();
        let mut ids: Vec<String> = units
            .filter(|unit| unit["Version"] == json!(version))
            .map(|unit| unit["ID"].as_str().unwrap().to_owned())
            .collect();
        ids.sort_unstable();
        ids
    }
}

#[tokio::test]
async fn new_version_runs_beside_others_and_gets_requests_once_it_is_routable() {
    let app = AppFixture::with_side().await;
    assert_eq!(
        app.units_by_version().await,
        BTreeMap::from([(1, (1, 1)), (2, (2, 0))])
    );
    assert_eq!(app.count_addresses().await, 1);
    app.set_routable("2", true).await.expect_status(200);
    app.set_routable("2", true).await.expect_status(200);
    assert_eq!(
        app.units_by_version().await,
        BTreeMap::from([(1, (1, 1)), (2, (2, 2))])
    );
    assert_eq!(app.count_addresses().await, 2, "the web units of both");
    app.set_routable("1", false).await.expect_status(200);
    assert_eq!(app.count_addresses().await, 1);
    let answer = app.set_routable("2", false).await.expect_status(409);
    assert!(answer.body.contains("the only one"), "{answer:?}");
    app.stop().await;
}

#[tokio::test]
async fn deploy_to_several_versions_says_what_becomes_of_them() {
    let app = AppFixture::with_side().await;
    let (status, text) = app.deploy_with("web: serve\n", "").await;
    assert!(status == 400 && text.contains("--new-version"), "{status} {text}");
    let answer = app.send(ROLLBACK, RequestBody::Form(&[("image", "v1")])).await;
    assert!(answer.body.contains("--override-old-versions"), "{answer:?}");
    app.set_routable("2", true).await.expect_status(200);
    app.set_routable("1", false).await.expect_status(200);
    let (status, text) = app.deploy_with("web: serve\n", "override-versions").await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    app.wait_for_versions(BTreeMap::from([(3, (1, 1))])).await;
    assert_eq!(
        app.count_addresses().await,
        1,
        "what replaces all gets the requests"
    );
    // One version runs: the next deploy replaces it.
    app.deploy_ok("web: serve\n").await;
    app.wait_for_versions(BTreeMap::from([(4, (1, 1))])).await;
    app.stop().await;
}

impl AppFixture {
    pub(super) async fn wait_for_versions(&self, wanted: BTreeMap<i64, (usize, usize)>) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let found = self.units_by_version().await;
            if found == wanted {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "{found:?} instead of {wanted:?}"
            );
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn first_version_is_routable_whatever_is_asked_for() {
    let app = AppFixture::start().await;
    app.deploy_beside("web: serve\n").await;
    assert_eq!(app.units_by_version().await, BTreeMap::from([(1, (1, 1))]));
    app.deploy_ok("web: serve\n").await;
    app.wait_for_versions(BTreeMap::from([(2, (1, 1))])).await;
    app.stop().await;
}

#[tokio::test]
async fn old_version_comes_back_beside_the_one_that_runs() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    app.deploy_ok("web: serve\n").await;
    let beside = |image| [("image", image), ("new-version", "true")];
    let first = app.unit_ids(2).await;
    app.change(ROLLBACK, RequestBody::Form(&beside("v2"))).await;
    app.wait_for_versions(BTreeMap::from([(2, (1, 1))])).await;
    assert_ne!(app.unit_ids(2).await, first, "started anew where it ran");
    app.change(ROLLBACK, RequestBody::Form(&beside("v1"))).await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 0)), (2, (1, 1))]))
        .await;
    let both = [("image", "v1"), ("override-versions", "true")];
    app.change(ROLLBACK, RequestBody::Form(&both)).await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1))])).await;
    app.stop().await;
}

#[tokio::test]
async fn units_of_one_version_are_changed_without_those_of_others() {
    let app = AppFixture::with_side().await;
    let (first, second) = (app.unit_ids(1).await, app.unit_ids(2).await);
    let more = |version| [("units", "2"), ("process", "web"), ("version", version)];
    let answer = app
        .send("PUT /1.0/apps/shop/units", RequestBody::Form(&more("")[..2]))
        .await;
    assert!(
        answer.status == 400 && answer.body.contains("several versions"),
        "{answer:?}"
    );
    app.send("PUT /1.0/apps/shop/units", RequestBody::Form(&more("9")))
        .await
        .expect_status(400);
    app.change("PUT /1.0/apps/shop/units", RequestBody::Form(&more("2")))
        .await;
    assert_eq!(
        app.units_by_version().await,
        BTreeMap::from([(1, (1, 1)), (2, (4, 0))])
    );
    app.change(
        "DELETE /1.0/apps/shop/units?units=2&process=web&version=2",
        RequestBody::None,
    )
    .await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1)), (2, (2, 0))]))
        .await;
    app.change(
        "POST /1.0/apps/shop/restart",
        RequestBody::Form(&[("version", "2")]),
    )
    .await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1)), (2, (2, 0))]))
        .await;
    assert_eq!(app.unit_ids(1).await, first);
    assert!(app.unit_ids(2).await.iter().all(|id| !second.contains(id)));
    app.change("POST /1.0/apps/shop/stop", RequestBody::Form(&[("version", "2")]))
        .await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1))])).await;
    app.change(
        "POST /1.0/apps/shop/start",
        RequestBody::Form(&[("version", "2")]),
    )
    .await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1)), (2, (2, 0))]))
        .await;
    assert_eq!(app.unit_ids(1).await, first);
    app.stop().await;
}

#[tokio::test]
async fn variables_and_stops_reach_all_versions() {
    let app = AppFixture::with_side().await;
    let (first, second) = (app.unit_ids(1).await, app.unit_ids(2).await);
    let set = [("Envs.0.Name", "COLOR"), ("Envs.0.Value", "red")];
    app.change("POST /1.0/apps/shop/env", RequestBody::Form(&set))
        .await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1)), (2, (2, 0))]))
        .await;
    assert!(app.unit_ids(1).await.iter().all(|id| !first.contains(id)));
    assert!(app.unit_ids(2).await.iter().all(|id| !second.contains(id)));
    app.change("POST /1.0/apps/shop/stop", RequestBody::None).await;
    app.wait_for_versions(BTreeMap::new()).await;
    app.change("POST /1.0/apps/shop/start", RequestBody::None).await;
    app.wait_for_versions(BTreeMap::from([(1, (1, 1)), (2, (2, 0))]))
        .await;
    app.stop().await;
}

#[tokio::test]
async fn units_of_all_versions_count_for_the_quota() {
    let app = AppFixture::with_side().await;
    let in_use = async || app.read("/1.0/apps/shop/quota").await["inuse"].clone();
    assert_eq!(in_use().await, 3);
    app.send_as_root("PUT /1.0/apps/shop/quota", RequestBody::Form(&[("limit", "3")]))
        .await
        .expect_status(200);
    let (_, text) = app.deploy_with("web: serve\n", "new-version").await;
    assert!(text.contains("Quota exceeded"), "{text}");
    assert_eq!(in_use().await, 3);
    // A version that is started anew where it runs needs no more.
    for image in ["v1", "v2"] {
        let again = [("image", image), ("new-version", "true")];
        app.change(ROLLBACK, RequestBody::Form(&again)).await;
    }
    assert_eq!(in_use().await, 3);
    app.send(
        "PUT /1.0/apps/shop/units",
        RequestBody::Form(&[("units", "1"), ("process", "web"), ("version", "2")]),
    )
    .await
    .expect_status(403);
    let (status, text) = app.deploy_with("web: serve\n", "override-versions").await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    assert_eq!(in_use().await, 1);
    app.stop().await;
}

#[tokio::test]
async fn version_beside_others_cannot_be_removed_and_goes_with_its_app() {
    let app = AppFixture::with_side().await;
    for version in ["1", "2"] {
        let path = format!("DELETE /1.10/apps/shop/versions/{version}");
        app.send(&path, RequestBody::None).await.expect_status(409);
    }
    app.change("DELETE /1.0/apps/shop", RequestBody::None).await;
    let left = "select (select count(*) from unit) + (select count(*) from side_release) + (select count(*) from app)";
    let left: i64 = sqlx::query_scalar(left)
        .fetch_one(&app.tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(left, 0);
    app.stop().await;
}
