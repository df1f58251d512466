//! Versions that are built first and deployed later.

use std::collections::BTreeMap;

use serde_json::json;

use super::AppFixture;
use crate::accounts::RequestBody;

impl AppFixture {
    /// Sends an archive to be built; returns the status and the text.
    async fn build(&self, procfile: &str, query: &str) -> (u16, String) {
        self.send_archive(&format!("/1.5/apps/shop/build{query}"), procfile)
            .await
    }

    async fn build_ok(&self, procfile: &str, tag: &str) {
        let (status, text) = self.build(procfile, &format!("?tag={tag}")).await;
        let end = format!("\ntancho/app-shop:{tag}\n\nOK\n");
        assert!(status == 200 && text.ends_with(&end), "{status} {text}");
    }

    /// Deploys an image; returns the status and the text.
    async fn deploy_image(&self, image: &str) -> (u16, String) {
        let form = [("image", image), ("origin", "image")];
        let line = "POST /1.0/apps/shop/deploy";
        let answer = self.send(line, RequestBody::Form(&form)).await;
        (answer.status, answer.body)
    }

    async fn deploy_count(&self) -> usize {
        self.read("/1.0/deploys?app=shop").await.as_array().unwrap().len()
    }
}

#[tokio::test]
async fn built_version_runs_once_its_image_is_deployed() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\n").await;
    app.build_ok("web: serve\nworker: work\n", "one").await;
    assert_eq!(app.units_by_version().await, BTreeMap::from([(1, (1, 1))]));
    assert_eq!(app.deploy_count().await, 1, "a build is no deploy");
    let (status, text) = app.deploy_image("tancho/app-shop:one").await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    app.wait_for_versions(BTreeMap::from([(2, (2, 2))])).await;
    let deploys = app.read("/1.0/deploys?app=shop").await;
    assert_eq!(
        (&deploys[0]["Version"], &deploys[0]["Origin"]),
        (&json!(2), &json!("image"))
    );
    // Another version takes the tag.
    app.build_ok("web: serve\n", "one").await;
    let (_, text) = app.deploy_image("tancho/app-shop:one").await;
    assert!(text.ends_with("\nOK\n"), "{text}");
    app.wait_for_versions(BTreeMap::from([(3, (1, 1))])).await;
    app.stop().await;
}

#[tokio::test]
async fn build_is_refused_with_what_to_do() {
    let app = AppFixture::start().await;
    for (query, says) in [
        ("", "the field tag is missing"),
        ("?tag=a%20b", "A tag has"),
        ("?tag=-x", "A tag has"),
    ] {
        let (status, text) = app.build("web: serve\n", query).await;
        assert!(status == 400 && text.contains(says), "{query}: {status} {text}");
    }
    let (status, text) = app.deploy_image("tancho/app-shop:none").await;
    assert!(
        status == 404 && text.contains("tsuru app build"),
        "{status} {text}"
    );
    // The name of another app's image means nothing here.
    let (status, _) = app.deploy_image("tancho/app-other:none").await;
    assert_eq!(status, 400);
    let of_bob = app
        .tancho
        .request_as(&app.bob, reqwest::Method::POST, "/1.5/apps/shop/build?tag=x");
    assert_eq!(of_bob.body("x").send().await.unwrap().status(), 403);
    assert_eq!(app.deploy_count().await, 0);
    app.stop().await;
}
