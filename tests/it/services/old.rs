//! Services of other years.

use super::*;

async fn round(flask: &Flask, dialect: &str, expected: &[&str]) -> Value {
    let scene = Scene::new().await;
    scene.app("shop", "red").await;
    scene.service("old", flask).await;
    scene
        .ok(
            "POST",
            "/services/instances",
            r#"{"name":"my-db","service_name":"old"}"#,
        )
        .await;
    let bound = parsed(&scene.ok("PUT", "/services/instances/my-db/shop", "").await);
    assert_eq!(
        scene.count(&format!("service where dialect = '{dialect}'")).await,
        1
    );
    scene.ok("DELETE", "/services/instances/my-db/shop", "").await;
    scene.ok("DELETE", "/services/instances/my-db", "").await;
    scene.settled().await;
    let state = flask.get("/__state").await;
    assert_eq!(
        (&state["instances"], &state["binds"]["my-db"]),
        (&json!({}), &json!([]))
    );
    assert_eq!(flask.calls().await, expected);
    scene.end().await;
    bound
}

#[tokio::test]
async fn a_service_of_2014_is_bound_on_the_instances_own_path() {
    let flask = Flask::start("y2014").await;
    let bound = round(
        &flask,
        "2014",
        &[
            "POST /resources",
            "POST /resources/my-db/bind-app",
            "POST /resources/my-db/bind",
            "POST /resources/my-db",
            "DELETE /resources/my-db/hostname/shop.localhost:8888",
            "DELETE /resources/my-db",
        ],
    )
    .await;
    assert_eq!(bound, json!({"OLD": "yes", "APP": "shop.localhost:8888"}));
}

#[tokio::test]
async fn a_service_of_2012_is_spoken_to_with_slashes() {
    let flask = Flask::start("y2012").await;
    let bound = round(
        &flask,
        "2012",
        &[
            "POST /resources",
            "POST /resources/",
            "POST /resources/my-db/bind-app",
            "POST /resources/my-db/bind",
            "POST /resources/my-db",
            "POST /resources/my-db/",
            "DELETE /resources/my-db/hostname/shop.localhost:8888/",
            "DELETE /resources/my-db/",
        ],
    )
    .await;
    assert_eq!(bound, json!({"ANCIENT": "yes"}));
}
