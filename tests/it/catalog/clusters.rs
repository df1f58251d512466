//! Clusters and provisioners.

use serde_json::{Value, json};

use crate::pools::PoolFixture;

#[tokio::test]
async fn cluster_is_refused_because_no_provisioner_uses_clusters() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    assert_eq!(fixture.read(root, "/1.3/provisioner/clusters").await, json!([]));
    let help = json!({ "provisioner_help": "", "custom_data_help": {} });
    assert_eq!(
        fixture.read(root, "/1.7/provisioner").await,
        json!([{ "name": "local", "cluster_help": help }])
    );
    let add = "POST /1.3/provisioner/clusters";
    for (new, text) in [
        (
            json!({ "name": "home", "provisioner": "local" }),
            "uses no clusters",
        ),
        (
            json!({ "name": "home", "provisioner": "docker" }),
            "no provisioner \"docker\"",
        ),
        (json!({ "name": "home" }), "provisioner is missing"),
        (json!({ "name": "a b", "provisioner": "local" }), "cluster name"),
    ] {
        fixture.assert_refused(root, add, new, 400, text).await;
    }
    for line in [
        "GET /1.8/provisioner/clusters/home",
        "POST /1.4/provisioner/clusters/home",
        "DELETE /1.3/provisioner/clusters/home",
    ] {
        fixture
            .assert_refused(root, line, Value::Null, 404, "Cluster home not found")
            .await;
    }
    fixture
        .assert_refused(
            &fixture.ana,
            "GET /1.7/provisioner",
            Value::Null,
            403,
            "permission",
        )
        .await;
    fixture.end().await;
}
