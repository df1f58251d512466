//! Deploys from a forge: deliveries as GitHub and Gitea send them, signed here, and a real git remote, which is the
//! repository of another app, served over HTTP.

use hmac::{Hmac, KeyInit, Mac};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::apps::Source;
use crate::desk::{self, Desk};
use crate::house::{EMAIL, House, PASSWORD, seconds, until};

/// A delivery of a push, cut down from what GitHub sends.
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

/// Sends a delivery in GitHub's form.
pub(crate) async fn deliver(
    house: &House,
    app: &str,
    id: &str,
    event: &str,
    body: &str,
    signed: &str,
) -> (u16, String) {
    let url = format!("{}/forges/{app}", house.running().api);
    let answer = house
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

/// The forge's side: a working copy, and where it is pushed to.
pub(crate) struct Origin(Desk);

impl Origin {
    pub(crate) fn new(house: &House, mirror: &str) -> Self {
        Self::pushing_to(house, &desk::url(house, &house.token, mirror))
    }

    pub(crate) fn pushing_to(house: &House, url: &str) -> Self {
        let origin = Self(Desk::at(house.root.join("origin")));
        origin.git(&["init", "--quiet", "--initial-branch=main"]);
        origin.git(&["remote", "add", "forge", url]);
        origin
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let said = self.0.run(&self.0.home, arguments).must();
        said.trim().to_owned()
    }

    /// Commits, and pushes to a branch that the mirror does not deploy.
    pub(crate) fn push(&self, source: &Source, message: &str) -> String {
        source.write_to(&self.0.home);
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "-m", message]);
        self.git(&["push", "--quiet", "--force", "forge", "HEAD:refs/heads/live"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// Lets `shop` follow a forge.
pub(crate) async fn follow(house: &House, wish: &Value) -> Response {
    let request = house.by(Method::PUT, "/1.0/forges/shop").json(wish);
    request.send().await.unwrap()
}

/// The deploys of an app, newest first.
pub(crate) async fn deploys(house: &House, app: &str) -> Vec<Value> {
    house
        .read(&format!("/1.0/deploys?app={app}"))
        .await
        .as_array()
        .cloned()
        .unwrap_or_default()
}

/// The events of an app that tell of something that went wrong, newest first.
pub(crate) async fn failures(house: &House, app: &str) -> Vec<Value> {
    let path = format!("/1.1/events?target.type=app&target.value={app}&erroronly=true");
    house.read(&path).await.as_array().cloned().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_delivery_is_deployed_once_and_no_other() {
    let mut house = House::start().await;
    for app in ["shop", "mirror"] {
        house.create_app(app).await;
    }
    let origin = Origin::new(&house, "mirror");
    let first = origin.push(&Source::web("one"), "The first");
    let url = format!("{}/git/mirror.git", house.running().api);
    // Set by who may: the secret is shown once, and the password never.
    let wish = json!({ "url": url, "branch": "live", "user": EMAIL, "password": PASSWORD });
    let set = follow(&house, &wish).await;
    let set: Value = set.error_for_status().unwrap().json().await.unwrap();
    let secret = set["secret"].as_str().unwrap().to_owned();
    assert_eq!(set["hook"], format!("{}/forges/shop", house.running().api));
    let shown = house.read("/1.0/forges/shop").await.to_string();
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
        let answer = follow(&house, &bad).await;
        assert_eq!(answer.status(), 400, "{bad}");
    }

    // Unsigned, signed by somebody else, for another app or none: all the same, and nothing happens.
    let body = push("live", &first);
    let right = signature(&secret, &body);
    let mut refused = Vec::new();
    for (app, signed) in [
        ("shop", "00"),
        ("shop", &*signature("guess", &body)),
        ("mirror", &*right),
        ("none", &*right),
    ] {
        refused.push(deliver(&house, app, "id-0", "push", &body, signed).await);
    }
    assert!(
        refused.iter().all(|one| one.0 == 403 && *one == refused[0]),
        "{refused:?}"
    );
    // Signed, but of nothing to do.
    for (id, event, body) in [
        ("id-1", "ping", "{\"zen\":\"Design for failure.\"}".to_owned()),
        ("id-2", "push", push("main", &first)),
        ("id-3", "push", push("live", &"0".repeat(40))),
    ] {
        let (status, said) = deliver(&house, "shop", id, event, &body, &signature(&secret, &body)).await;
        assert!(
            status == 200 && said.contains("Nothing to do"),
            "{id}: {status} {said}"
        );
    }
    let odd = "{\"ref\":\"refs/heads/live\",\"after\":\"--exec\"}";
    let (status, _) = deliver(&house, "shop", "id-4", "push", odd, &signature(&secret, odd)).await;
    assert_eq!(status, 400);
    assert_eq!(deploys(&house, "shop").await.len(), 0);

    // The real one.
    let (status, said) = deliver(&house, "shop", "id-5", "push", &body, &right).await;
    assert!(status == 200 && said.contains(&first), "{status} {said}");
    let ends = async |commit: &str| {
        until("the deploy ends", seconds(60), async || {
            let newest = deploys(&house, "shop").await.first().cloned()?;
            let event = house
                .read(&format!("/1.1/events/{}", newest["ID"].as_str()?))
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
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));

    // Again, under its own id and under another: taken before.
    for id in ["id-5", "id-6"] {
        let (status, said) = deliver(&house, "shop", id, "push", &body, &right).await;
        assert!(
            status == 409 && said.contains("taken before"),
            "{id}: {status} {said}"
        );
    }
    // Gitea's form, and one that is late: the branch has moved on.
    let second = origin.push(&Source::web("two"), "The second");
    let late = push("live", &first).replace("The message", "Late");
    let (status, _) = deliver(&house, "shop", "id-7", "push", &late, &signature(&secret, &late)).await;
    assert_eq!(status, 200);
    let body = push("live", &second);
    let answer = house
        .http
        .post(format!("{}/1.0/forges/shop", house.running().api))
        .header("x-gitea-event", "push")
        .header("x-gitea-delivery", "id-8")
        .header("x-gitea-signature", signature(&secret, &body))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    ends(&second).await;
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(deploys(&house, "shop").await.len(), 2);

    // A killed Tancho forgets none; a forge that refuses is told where it is looked for.
    let third = origin.push(&Source::web("three"), "The third");
    let body = push("live", &third);
    let (status, _) = deliver(&house, "shop", "id-9", "push", &body, &signature(&secret, &body)).await;
    assert_eq!(status, 200);
    house.kill();
    // The address of the forge, which is this server, stays.
    house.serve_at(url.rsplit_once("/git/").unwrap().0);
    until("the third answers", seconds(60), async || {
        (house.visit("shop", "/").await == (200, "three -".to_owned())).then_some(())
    })
    .await;
    until("no deploy runs", seconds(60), async || {
        let running = house.read("/1.1/events?running=true").await;
        running.as_array().is_none_or(Vec::is_empty).then_some(())
    })
    .await;
    let answer = house.by(Method::DELETE, "/1.0/forges/shop").send().await.unwrap();
    assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
    let body = body.replace("The message", "Later");
    let (status, _) = deliver(&house, "shop", "id-10", "push", &body, &signature(&secret, &body)).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forge_at_a_private_address_is_not_called_unless_that_is_allowed() {
    let house = House::with(&[("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "no")]).await;
    house.create_app("shop").await;
    let port = house.running().api.rsplit(':').next().unwrap().to_owned();
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
        let wish = json!({ "url": format!("{server}:{port}/git/shop.git"), "secret": "0123456789abcdef" });
        assert_eq!(follow(&house, &wish).await.status(), 200);
        let body = push("main", &format!("a{count}").repeat(20));
        let id = format!("id-{count}");
        let signed = signature("0123456789abcdef", &body);
        let (status, said) = deliver(&house, "shop", &id, "push", &body, &signed).await;
        assert_eq!(status, 200, "{said}");
        until("the refusal is shown", seconds(60), async || {
            let forge = house.read("/1.0/forges/shop").await;
            forge["problem"]
                .as_str()
                .unwrap()
                .contains("private address")
                .then_some(())
        })
        .await;
        let told = failures(&house, "shop").await;
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
    assert_eq!(deploys(&house, "shop").await.len(), 0);
}
