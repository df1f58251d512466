//! Deploys that fail, are cancelled, meet, go back.

use std::time::Instant;

use reqwest::{Method, Response};

use crate::apps::{Source, gzip};
use crate::house::{House, processes_with, seconds, until, visit};
use crate::load::Load;

/// Reads an answer until it has said something.
async fn read_until(answer: &mut Response, said: &str) -> String {
    let mut text = String::new();
    while !text.contains(said) {
        let chunk = answer
            .chunk()
            .await
            .unwrap()
            .unwrap_or_else(|| panic!("it ended: {text}"));
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    text
}

/// The one sentence of a failed answer: its body if it is a refusal, its last line if it is a stream.
async fn why(answer: Response) -> (u16, String) {
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    if status != 200 {
        return (status, text.trim_end().to_owned());
    }
    let last = text.trim_end().lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("ERROR: "), "{text}");
    assert!(!text.contains("\nOK\n"), "{text}");
    (status, last)
}

/// A file that is larger unpacked than any archive may be.
fn bomb() -> Vec<u8> {
    Source::web("x").with("zeros", &"0".repeat(40 << 20)).pack()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_deploy_says_why_and_leaves_what_runs() {
    let house = House::with(&[
        ("TANCHO_API_MAX_UPLOAD_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
    ])
    .await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    let pids = house.pids();
    let load = Load::start(house.running().router.clone(), Some("shop.localhost"), 20);
    let web = || Source::web("bad");
    let aliases = {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (this, last) in ('b'..='j').zip('a'..) {
            let list = vec![format!("*{last}"); 9].join(", ");
            text.push_str(&format!("{this}: &{this} [{list}]\n"));
        }
        text
    };
    let crashing = "import sys\nprint('no database today', flush=True)\nsys.exit(3)\n";
    let sick = "healthcheck:\n  path: /nowhere\n  interval_seconds: 1\n  deploy_timeout_seconds: 3\n  match: never\n";
    let random: String = (0..3_000_000u32)
        .map(|n| {
            char::from(33 + u8::try_from(n.wrapping_mul(2_654_435_761).rotate_left(n % 31) % 90).unwrap())
        })
        .collect();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        (
            "a build hook that fails",
            web().hooks(&["echo one", "echo two >&2; exit 7"]).pack(),
            &["exit 7", "7", "two"],
        ),
        (
            "a crash at the start",
            web().with("app.py", crashing).pack(),
            &["web", "3"],
        ),
        (
            "a check that never passes",
            web().with("tsuru.yaml", sick).pack(),
            &["web", "3 seconds"],
        ),
        (
            "no Procfile",
            web().without("Procfile").without("tsuru.yaml").pack(),
            &["Procfile"],
        ),
        (
            "a broken tsuru.yaml",
            web().with("tsuru.yaml", "hooks: [\n").pack(),
            &["tsuru.yaml"],
        ),
        (
            "a wrong type in it",
            web().with("tsuru.yaml", "hooks:\n  build: 7\n").pack(),
            &["tsuru.yaml", "hooks.build"],
        ),
        (
            "an alias bomb",
            web().with("tsuru.yaml", &aliases).pack(),
            &["tsuru.yaml"],
        ),
        (
            "an archive with nothing in it",
            Source::default().pack(),
            &["archive"],
        ),
        ("an empty file", Vec::new(), &["archive is empty"]),
        ("a truncated archive", web().pack()[..300].to_vec(), &["archive"]),
        ("garbage", b"this is no archive at all".to_vec(), &["archive"]),
        (
            "garbage in gzip",
            gzip(b"this is no archive at all"),
            &["archive"],
        ),
        (
            "a path that leads out",
            web().with("../evil", "x").pack(),
            &["../evil"],
        ),
        (
            "an absolute path",
            web().with("/var/tmp/tancho-evil", "x").pack(),
            &["/var/tmp/tancho-evil"],
        ),
        ("a bomb", bomb(), &["larger"]),
        (
            "more than may be sent",
            web().with("random", &random).pack(),
            &["2097152 bytes"],
        ),
    ];
    for (what, archive, words) in cases {
        let began = Instant::now();
        let (status, said) = why(house.begin_deploy("shop", &archive).await).await;
        println!("{what} ({:.1} s): {status} {said}", began.elapsed().as_secs_f64());
        assert!(status < 500, "{what}: {status} {said}");
        assert!(!said.is_empty() && said.lines().count() == 1, "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: {said:?} does not say {word:?}");
        }
        assert!(!said.contains("our side"), "{what}: {said}");
    }
    assert!(!std::path::Path::new("/var/tmp/tancho-evil").exists() && !house.root.join("evil").exists());
    // What is no deploy at all.
    let url = "/1.0/apps/shop/deploy";
    let (status, said) = why(house.post_parts("shop", "archive", b"x").await).await;
    assert!(status == 400 && said.contains("file"), "{status} {said}");
    for (kind, body) in [
        ("multipart/form-data", "x"),
        ("multipart/form-data; boundary=edge", "no parts here"),
        (
            "multipart/form-data; boundary=edge",
            "--edge\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\ncut",
        ),
        ("application/json", "{\"file\": 1}"),
        (
            "application/x-www-form-urlencoded",
            "archive-url=http://127.0.0.1:1/x.tgz",
        ),
        ("text/plain", ""),
    ] {
        let answer = house
            .by(Method::POST, url)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        let (status, said) = why(answer).await;
        println!("{kind} {body:?}: {status} {said}");
        assert!(
            status < 500 && said.lines().count() == 1 && !said.is_empty(),
            "{kind}: {status} {said}"
        );
    }
    let answer = house.begin_deploy("nope", &web().pack()).await;
    assert_eq!(answer.status(), 404);
    load.end().await.assert_clean(100);
    assert_eq!(house.visit("shop", "/").await, (200, "v1 -".to_owned()));
    until("the first unit alone", seconds(30), async || {
        (house.pids() == pids).then_some(())
    })
    .await;
    house.assert_tidy("shop", &["1"]).await;
    house.deploy("shop", &Source::web("v2").pack()).await;
    assert_eq!(house.visit("shop", "/").await, (200, "v2 -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_deploy_at_a_time_and_it_can_be_cancelled() {
    let house = House::start().await;
    house.create_app("shop").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    let source = Source::web("v2").hooks(&["echo in the build; setsid sleep 301 & sleep 300"]);
    let mut first = house.begin_deploy("shop", &source.pack()).await;
    let event = first.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut first, "in the build").await;
    let mark = format!("TANCHO_BUILD={}", house.data.display());
    until("the hook runs", seconds(5), async || {
        (processes_with(&mark).len() >= 2).then_some(())
    })
    .await;
    // A second one is told who holds the app.
    let second = house.begin_deploy("shop", &Source::web("v3").pack()).await;
    assert!(!second.status().is_success());
    let said = second.text().await.unwrap();
    println!("{said}");
    assert!(
        said.contains("shop") && said.contains("app.deploy") && said.contains("root@example.com"),
        "{said}"
    );
    let classic = house.by(Method::POST, "/apps/shop/restart").send().await.unwrap();
    assert_eq!(classic.status(), 409, "{}", classic.text().await.unwrap());
    let cancel = format!("/1.1/events/{event}/cancel");
    let refused = house.by(Method::POST, &cancel).send().await.unwrap();
    assert_eq!(refused.status(), 400, "a reason is asked for");
    let began = Instant::now();
    let answer = house
        .by(Method::POST, &cancel)
        .form(&[("reason", "wrong one")])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    let (_, last) = why(first).await;
    assert!(
        began.elapsed() < seconds(5),
        "cancelled only after {:?}",
        began.elapsed()
    );
    assert!(last.contains("cancel"), "{last}");
    let ended = house.ended(&event, seconds(5)).await;
    assert_eq!(ended["CancelInfo"]["Canceled"], true, "{ended}");
    assert_eq!(ended["CancelInfo"]["Reason"], "wrong one");
    assert_eq!(processes_with(&mark), []);
    house.assert_tidy("shop", &["1"]).await;
    let again = house
        .by(Method::POST, &cancel)
        .form(&[("reason", "x")])
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 400);
    assert_eq!(house.visit("shop", "/").await, (200, "v1 -".to_owned()));
    // While its units are started, too.
    let mut slow = house
        .begin_deploy("shop", &Source::slow_to_start("v3", "300").pack())
        .await;
    let event = slow.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut slow, "web 0 of 1").await;
    let cancel = format!("/1.1/events/{event}/cancel");
    house
        .by(Method::POST, &cancel)
        .form(&[("reason", "slow")])
        .send()
        .await
        .unwrap();
    let ended = house.ended(&event, seconds(10)).await;
    assert_eq!(ended["CancelInfo"]["Canceled"], true, "{ended}");
    until("one unit", seconds(20), async || {
        (house.pids().len() == 1).then_some(())
    })
    .await;
    house.assert_tidy("shop", &["1"]).await;
    house.deploy("shop", &Source::web("v4").pack()).await;
    assert_eq!(house.visit("shop", "/").await, (200, "v4 -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_brings_back_the_text_and_the_variables() {
    let house = House::start().await;
    house.create_app("shop").await;
    house.set_env("shop", "GREETING", "first").await;
    house.deploy("shop", &Source::web("v1").pack()).await;
    house.set_env("shop", "GREETING", "second").await;
    house.set_env("shop", "EXTRA", "yes").await;
    house.deploy("shop", &Source::web("v2").pack()).await;
    assert_eq!(house.visit("shop", "/").await, (200, "v2 second".to_owned()));
    let form = [("image", "v1"), ("origin", "rollback")];
    house
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(house.visit("shop", "/").await, (200, "v1 first".to_owned()));
    assert_eq!(house.visit("shop", "/env/EXTRA").await.1, "-");
    let env = house.read("/1.0/apps/shop/env").await.to_string();
    assert!(
        env.contains("first") && !env.contains("second") && !env.contains("EXTRA"),
        "{env}"
    );
    let form = [("image", "v2"), ("keep-env", "true")];
    house
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(house.visit("shop", "/").await, (200, "v2 first".to_owned()));
    let router = &house.running().router;
    assert_eq!(
        visit(&house.http, router, "shop", "/env/TSURU_APPNAME").await.1,
        "shop"
    );
    let deploys = house.read("/1.0/deploys?app=shop").await;
    let origins: Vec<&str> = deploys
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["Origin"].as_str().unwrap())
        .collect();
    assert_eq!(origins, ["rollback", "rollback", "app-deploy", "app-deploy"]);
    let answer = house
        .by(Method::POST, "/1.0/apps/shop/deploy/rollback")
        .form(&[("image", "v9")])
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 404);
}
