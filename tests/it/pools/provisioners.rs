//! A server with a second provisioner, which a pool names.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tancho::provisioners::fake::{FakeCall, FakeUnitRunner};
use tancho::provisioners::{Runner, UnitRunner};

use super::PoolFixture;
use crate::recorded::test_service;
use crate::test_server::TestServer;

#[tokio::test]
async fn app_runs_on_the_provisioner_of_its_pool() {
    let other = FakeUnitRunner::new();
    let runner = Runner::Units(Arc::new(other.clone()));
    let fixture = PoolFixture::on(TestServer::start_with_runner("other", runner).await).await;
    test_service::install_platforms(&fixture.tancho);
    let info = fixture.read(&fixture.root, "/1.0/info").await;
    assert_eq!(info["provisioners"], "local,other");
    fixture
        .assert_refused(
            &fixture.root,
            "POST /1.0/pools",
            json!({ "name": "gpu", "provisioner": "docker" }),
            400,
            "no provisioner \"docker\": use one of local, other",
        )
        .await;

    let pool = json!({ "name": "gpu", "public": true, "provisioner": "other" });
    fixture.change("POST /1.0/pools", pool).await;
    let app = json!({ "name": "shop", "platform": "procfile", "teamOwner": "red", "pool": "gpu" });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    let archive = test_service::archive("worker: work\n");
    let deploy = fixture
        .tancho
        .request_as(&fixture.ana, Method::POST, "/1.0/apps/shop/deploy")
        .header("content-type", "application/gzip")
        .body(archive);
    let text = deploy.send().await.unwrap().text().await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");

    let units = other.observe_units().await.unwrap();
    assert_eq!(units.len(), 1, "{units:?}");
    let run = fixture
        .tancho
        .request_as(&fixture.ana, Method::POST, "/1.0/apps/shop/run")
        .form(&[("command", "date")]);
    let text = run.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("date"), "{text}");
    let command = FakeCall::Exec(units[0].unit.clone(), vec!["date".to_owned()]);
    assert!(other.recorded_calls().contains(&command), "{text}");

    let removal = fixture
        .send(&fixture.ana, "DELETE /1.0/apps/shop", Value::Null)
        .await;
    assert_eq!(removal.0, 200, "{}", removal.1);
    assert!(fixture.tancho.fake.recorded_calls().is_empty());
    fixture.end().await;
}
