//! Deploys from a forge: deliveries as GitHub and Gitea send them, signed here, and a real git remote, which
//! is the repository of another app, served over HTTP.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::apps::AppSource;
use crate::git_client::{self, GitClient};
use crate::test_instance::{EMAIL, PASSWORD, TestInstance, seconds, wait_for};

/// Returns the delivery of a push, shortened from GitHub's.
pub(crate) fn push(branch: &str, commit: &str) -> String {
    json!({
        "ref": format!("refs/heads/{branch}"), "before": "0".repeat(40), "after": commit, "created": false,
        "repository": { "full_name": "ana/shop", "clone_url": "http://169.254.169.254/never.git" },
        "pusher": { "name": "ana", "email": "ana@example.com" },
        "head_commit": { "id": commit, "message": "The message", "author": { "name": "Ana" } },
    })
    .to_string()
}

pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(body.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// Sends a delivery in GitHub's format.
pub(crate) async fn deliver(
    tancho: &TestInstance,
    app: &str,
    id: &str,
    event: &str,
    body: &str,
    signed: &str,
) -> (u16, String) {
    let url = format!("{}/forges/{app}", tancho.running().api);
    let answer = tancho
        .http
        .post(url)
        .header("content-type", "application/json")
        .header("x-github-event", event)
        .header("x-github-delivery", id)
        .header("x-hub-signature-256", format!("sha256={signed}"))
        .body(body.to_owned())
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The forge's side: a working copy, and the remote it pushes to.
pub(crate) struct ForgeRemote(GitClient);

impl ForgeRemote {
    pub(crate) fn new(tancho: &TestInstance, mirror: &str) -> Self {
        Self::pushing_to(tancho, &git_client::url(tancho, &tancho.token, mirror))
    }

    pub(crate) fn pushing_to(tancho: &TestInstance, url: &str) -> Self {
        let origin = Self(GitClient::at(tancho.root.join("origin")));
        origin.git(&["init", "--quiet", "--initial-branch=main"]);
        origin.git(&["remote", "add", "forge", url]);
        origin
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let said = self.0.run(&self.0.home, arguments).expect_success();
        said.trim().to_owned()
    }

    /// Commits, and pushes to a branch that the mirror does not deploy.
    pub(crate) fn push(&self, source: &AppSource, message: &str) -> String {
        source.write_to(&self.0.home);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", message]);
        self.git(&["push", "--quiet", "--force", "forge", "HEAD:refs/heads/live"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Sets the forge of `shop`.
pub(crate) async fn follow(tancho: &TestInstance, config: &Value) -> Response {
    let request = tancho
        .request_as_admin(Method::PUT, "/1.0/forges/shop")
        .json(config);
    request.send().await.unwrap()
}

/// Returns the deploys of an app, newest first.
pub(crate) async fn deploys(tancho: &TestInstance, app: &str) -> Vec<Value> {
    tancho
        .read_json(&format!("/1.0/deploys?app={app}"))
        .await
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// Returns the failed events of an app, newest first.
pub(crate) async fn failed_events(tancho: &TestInstance, app: &str) -> Vec<Value> {
    let path = format!("/1.1/events?target.type=app&target.value={app}&erroronly=true");
    tancho
        .read_json(&path)
        .await
        .as_array()
        .cloned()
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_signed_deliveries_are_deployed_and_only_once() {
    let mut tancho = TestInstance::start().await;
    for app in ["shop", "mirror"] {
        tancho.create_app(app).await;
    }
    let origin = ForgeRemote::new(&tancho, "mirror");
    let first = origin.push(&AppSource::web("one"), "The first");
    let url = format!("{}/git/mirror.git", tancho.running().api);
    // Set with permission: the secret is shown once, and the password never.
    let config = json!({ "url": url, "branch": "live", "user": EMAIL, "password": PASSWORD });
    let set = follow(&tancho, &config).await;
    let set: Value = set.error_for_status().unwrap().json().await.unwrap();
    let secret = set["secret"].as_str().unwrap().to_owned();
    assert_eq!(set["hook"], format!("{}/forges/shop", tancho.running().api));
    let shown = tancho.read_json("/1.0/forges/shop").await.to_string();
    assert!(
        !shown.contains(&secret) && !shown.contains(PASSWORD) && shown.contains("live"),
        "{shown}"
    );
    for bad in [
        json!({}),
        json!({ "url": "file:///etc" }),
        json!({ "url": "https://ana:secret@example.com/x.git" }),
        json!({ "url": url, "secret": "short" }),
        json!({ "url": url, "branch": "--upload-pack=x" }),
    ] {
        let answer = follow(&tancho, &bad).await;
        assert_eq!(answer.status(), 400, "{bad}");
    }

    // Unsigned, signed with another secret, for another app or an unknown one: the same response, and nothing
    // happens.
    let body = push("live", &first);
    let right = signature(&secret, &body);
    let mut refused = Vec::new();
    for (app, signed) in [
        ("shop", "00"),
        ("shop", &*signature("guess", &body)),
        ("mirror", &*right),
        ("none", &*right),
    ] {
        refused.push(deliver(&tancho, app, "id-0", "push", &body, signed).await);
    }
    assert!(
        refused.iter().all(|one| one.0 == 403 && *one == refused[0]),
        "{refused:?}"
    );
    // Signed, but without anything to deploy.
    for (id, event, body) in [
        ("id-1", "ping", "{\"zen\":\"Design for failure.\"}".to_owned()),
        ("id-2", "push", push("main", &first)),
        ("id-3", "push", push("live", &"0".repeat(40))),
    ] {
        let (status, said) = deliver(&tancho, "shop", id, event, &body, &signature(&secret, &body)).await;
        assert!(status == 200 && said.contains("Ignored"), "{id}: {status} {said}");
    }
    let odd = "{\"ref\":\"refs/heads/live\",\"after\":\"--exec\"}";
    let (status, _) = deliver(&tancho, "shop", "id-4", "push", odd, &signature(&secret, odd)).await;
    assert_eq!(status, 400);
    assert_eq!(deploys(&tancho, "shop").await.len(), 0);

    // The valid delivery.
    let (status, said) = deliver(&tancho, "shop", "id-5", "push", &body, &right).await;
    assert!(status == 200 && said.contains(&first), "{status} {said}");
    let ends = async |commit: &str| {
        wait_for("the deploy ends", seconds(60), async || {
            let newest = deploys(&tancho, "shop").await.first().cloned()?;
            let event = tancho
                .read_json(&format!("/1.1/events/{}", newest["ID"].as_str()?))
                .await;
            (newest["Commit"] == commit && event["Running"] == false).then_some(newest)
        })
        .await
    };
    let deploy = ends(&first).await;
    for (key, value) in [
        ("Origin", "git"),
        ("Author", "Ana Alba <ana@example.com>"),
        ("Message", "The first"),
        ("Error", ""),
    ] {
        assert_eq!(deploy[key], value, "{key}: {deploy}");
    }
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));

    // Repeated, under its own id and under another: already taken.
    for id in ["id-5", "id-6"] {
        let (status, said) = deliver(&tancho, "shop", id, "push", &body, &right).await;
        assert!(
            status == 409 && said.contains("already accepted"),
            "{id}: {status} {said}"
        );
    }
    // Gitea's format, and a late delivery: the branch has moved on.
    let second = origin.push(&AppSource::web("two"), "The second");
    let late = push("live", &first).replace("The message", "Late");
    let (status, _) = deliver(&tancho, "shop", "id-7", "push", &late, &signature(&secret, &late)).await;
    assert_eq!(status, 200);
    let body = push("live", &second);
    let answer = tancho
        .http
        .post(format!("{}/1.0/forges/shop", tancho.running().api))
        .header("x-gitea-event", "push")
        .header("x-gitea-delivery", "id-8")
        .header("x-gitea-signature", signature(&secret, &body))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    ends(&second).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(deploys(&tancho, "shop").await.len(), 2);

    // A killed Tancho forgets no delivery; once the forge is removed, deliveries are refused.
    let third = origin.push(&AppSource::web("three"), "The third");
    let body = push("live", &third);
    let (status, _) = deliver(&tancho, "shop", "id-9", "push", &body, &signature(&secret, &body)).await;
    assert_eq!(status, 200);
    tancho.kill();
    // The address of the forge, which is this server, stays the same.
    tancho.serve_at(url.rsplit_once("/git/").unwrap().0);
    wait_for("the third version responds", seconds(60), async || {
        (tancho.get_app("shop", "/").await == (200, "three -".to_owned())).then_some(())
    })
    .await;
    wait_for("no deploy runs", seconds(60), async || {
        let running = tancho.read_json("/1.1/events?running=true").await;
        running.as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    let answer = tancho
        .request_as_admin(Method::DELETE, "/1.0/forges/shop")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let body = body.replace("The message", "Later");
    let (status, _) = deliver(
        &tancho,
        "shop",
        "id-10",
        "push",
        &body,
        &signature(&secret, &body),
    )
    .await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forge_at_a_private_address_is_not_called_unless_allowed() {
    let tancho = TestInstance::with(&[("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "no")]).await;
    tancho.create_app("shop").await;
    let port = tancho.running().api.rsplit(':').next().unwrap().to_owned();
    for (count, server) in [
        "http://127.0.0.1",
        "http://localhost",
        "http://[::1]",
        "http://169.254.169.254",
        "http://0x7f000001",
        "ssh://git@127.0.0.1",
        "ssh://git@localhost",
        "ssh://git@[::1]",
        "ssh://git@0x7f000001",
    ]
    .iter()
    .enumerate()
    {
        let config = json!({ "url": format!("{server}:{port}/git/shop.git"), "secret": "0123456789abcdef" });
        assert_eq!(follow(&tancho, &config).await.status(), 200);
        let body = push("main", &format!("a{count}").repeat(20));
        let id = format!("id-{count}");
        let signed = signature("0123456789abcdef", &body);
        let (status, said) = deliver(&tancho, "shop", &id, "push", &body, &signed).await;
        assert_eq!(status, 200, "{said}");
        wait_for("the error is shown", seconds(60), async || {
            let forge = tancho.read_json("/1.0/forges/shop").await;
            forge["error"]
                .as_str()
                .unwrap()
                .contains("private address")
                .then_some(())
        })
        .await;
        let told = failed_events(&tancho, "shop").await;
        assert_eq!(told.len(), count + 1, "{told:?}");
        let [error, kind, by, from] =
            ["Error", "Kind", "Owner", "SourceIP"].map(|key| told[0][key].to_string());
        assert!(error.contains("private address"), "{error}");
        assert!(
            kind.contains("\"app.deploy\"") && by.contains("\"internal\""),
            "{kind} {by}"
        );
        assert_eq!(from, "\"127.0.0.1\"");
    }
    assert_eq!(deploys(&tancho, "shop").await.len(), 0);
}
