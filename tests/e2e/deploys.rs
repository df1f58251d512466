//! Deploys that fail, are cancelled or concurrent, and rollbacks.

use std::time::Instant;

use reqwest::{Method, Response};

use crate::apps::{AppSource, gzip};
use crate::load::SteadyLoad;
use crate::test_instance::{TestInstance, find_processes, get_through_router, seconds, wait_for};

/// Reads a response until it contains a text.
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

/// Returns the error of a failed response: its body if it is a refusal, its last line if it is a stream.
async fn error_line(answer: Response) -> (u16, String) {
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

/// Returns a file that exceeds the archive limit when unpacked.
fn archive_bomb() -> Vec<u8> {
    AppSource::web("x").with("zeros", &"0".repeat(40 << 20)).pack()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_deploy_reports_the_reason_and_keeps_the_running_release() {
    let tancho = TestInstance::with(&[
        ("TANCHO_API_MAX_UPLOAD_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
    ])
    .await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    let pids = tancho.pids();
    let load = SteadyLoad::start(tancho.running().router.clone(), Some("shop.localhost"), 20);
    let web = || AppSource::web("bad");
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
            &["tsuru.yaml", "aliases"],
        ),
        (
            "an archive with nothing in it",
            AppSource::default().pack(),
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
        ("a bomb", archive_bomb(), &["33554432 bytes"]),
        (
            "larger than the upload limit",
            web().with("random", &random).pack(),
            &["2097152 bytes"],
        ),
    ];
    for (what, archive, words) in cases {
        let began = Instant::now();
        let (status, said) = error_line(tancho.begin_deploy("shop", &archive).await).await;
        println!("{what} ({:.1} s): {status} {said}", began.elapsed().as_secs_f64());
        assert!(status < 500, "{what}: {status} {said}");
        assert!(!said.is_empty() && said.lines().count() == 1, "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: {said:?} does not contain {word:?}");
        }
        assert!(!said.contains("internal error"), "{what}: {said}");
    }
    assert!(!std::path::Path::new("/var/tmp/tancho-evil").exists() && !tancho.root.join("evil").exists());
    // Requests that are no valid deploy.
    let url = "/1.0/apps/shop/deploy";
    let (status, said) = error_line(tancho.post_parts("shop", "archive", b"x").await).await;
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
        let answer = tancho
            .request_as_admin(Method::POST, url)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        let (status, said) = error_line(answer).await;
        println!("{kind} {body:?}: {status} {said}");
        assert!(
            status < 500 && said.lines().count() == 1 && !said.is_empty(),
            "{kind}: {status} {said}"
        );
    }
    let answer = tancho.begin_deploy("nope", &web().pack()).await;
    assert_eq!(answer.status(), 404);
    load.end().await.assert_clean(100);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 -".to_owned()));
    wait_for("the first unit alone", seconds(30), async || {
        (tancho.pids() == pids).then_some(())
    })
    .await;
    tancho.assert_tidy("shop", &["1"]).await;
    tancho.deploy("shop", &AppSource::web("v2").pack()).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v2 -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_deploy_is_rejected_and_a_running_one_can_be_cancelled() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    let source = AppSource::web("v2").hooks(&["echo in the build; setsid sleep 301 & sleep 300"]);
    let mut first = tancho.begin_deploy("shop", &source.pack()).await;
    let event = first.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut first, "in the build").await;
    let mark = format!("TANCHO_BUILD={}", tancho.data.display());
    wait_for("the hook runs", seconds(5), async || {
        (find_processes(&mark).len() >= 2).then_some(())
    })
    .await;
    // The error of a second deploy names who holds the app.
    let second = tancho.begin_deploy("shop", &AppSource::web("v3").pack()).await;
    assert!(!second.status().is_success());
    let said = second.text().await.unwrap();
    println!("{said}");
    assert!(
        said.contains("shop") && said.contains("app.deploy") && said.contains("root@example.com"),
        "{said}"
    );
    let classic = tancho
        .request_as_admin(Method::POST, "/apps/shop/restart")
        .send()
        .await
        .unwrap();
    assert_eq!(classic.status(), 409, "{}", classic.text().await.unwrap());
    let cancel = format!("/1.1/events/{event}/cancel");
    let refused = tancho
        .request_as_admin(Method::POST, &cancel)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), 400, "a reason is required");
    let began = Instant::now();
    let answer = tancho
        .request_as_admin(Method::POST, &cancel)
        .form(&[("reason", "wrong one")])
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 204);
    let (_, last) = error_line(first).await;
    assert!(
        began.elapsed() < seconds(5),
        "cancelled only after {:?}",
        began.elapsed()
    );
    assert!(last.contains("cancel"), "{last}");
    let ended = tancho.wait_for_event_end(&event, seconds(5)).await;
    assert_eq!(ended["CancelInfo"]["Canceled"], true, "{ended}");
    assert_eq!(ended["CancelInfo"]["Reason"], "wrong one");
    assert_eq!(find_processes(&mark), []);
    tancho.assert_tidy("shop", &["1"]).await;
    let again = tancho
        .request_as_admin(Method::POST, &cancel)
        .form(&[("reason", "x")])
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), 400);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 -".to_owned()));
    // Also while its units are started.
    let mut slow = tancho
        .begin_deploy("shop", &AppSource::slow_to_start("v3", "300").pack())
        .await;
    let event = slow.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut slow, "web 0 of 1").await;
    let cancel = format!("/1.1/events/{event}/cancel");
    tancho
        .request_as_admin(Method::POST, &cancel)
        .form(&[("reason", "slow")])
        .send()
        .await
        .unwrap();
    let ended = tancho.wait_for_event_end(&event, seconds(10)).await;
    assert_eq!(ended["CancelInfo"]["Canceled"], true, "{ended}");
    wait_for("one unit", seconds(20), async || {
        (tancho.pids().len() == 1).then_some(())
    })
    .await;
    tancho.assert_tidy("shop", &["1"]).await;
    tancho.deploy("shop", &AppSource::web("v4").pack()).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v4 -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_restores_the_code_and_variables() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    tancho.set_env("shop", "GREETING", "first").await;
    tancho.deploy("shop", &AppSource::web("v1").pack()).await;
    tancho.set_env("shop", "GREETING", "second").await;
    tancho.set_env("shop", "EXTRA", "yes").await;
    tancho.deploy("shop", &AppSource::web("v2").pack()).await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v2 second".to_owned()));
    let form = [("image", "v1"), ("origin", "rollback")];
    tancho
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v1 first".to_owned()));
    assert_eq!(tancho.get_app("shop", "/env/EXTRA").await.1, "-");
    let env = tancho.read_json("/1.0/apps/shop/env").await.to_string();
    assert!(
        env.contains("first") && !env.contains("second") && !env.contains("EXTRA"),
        "{env}"
    );
    let form = [("image", "v2"), ("keep-env", "true")];
    tancho
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "v2 first".to_owned()));
    let router = &tancho.running().router;
    assert_eq!(
        get_through_router(&tancho.http, router, "shop", "/env/TSURU_APPNAME")
            .await
            .1,
        "shop"
    );
    let deploys = tancho.read_json("/1.0/deploys?app=shop").await;
    let origins: Vec<&str> = deploys
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["Origin"].as_str().unwrap())
        .collect();
    assert_eq!(origins, ["rollback", "rollback", "app-deploy", "app-deploy"]);
    let answer = tancho
        .request_as_admin(Method::POST, "/1.0/apps/shop/deploy/rollback")
        .form(&[("image", "v9")])
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 404);
}
