//! What is secret is nowhere in clear: not on disk, not in a log, not in a command line.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::apps::Source;
use crate::house::{EMAIL, House, PASSWORD, names, seconds};

const CANARY: &str = "canary-7f3c9b52e1";

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        // What is removed while we look is of no interest.
        let Ok(entry) = entry else { continue };
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn assert_nowhere(house: &House, when: &str, secrets: &[&str]) {
    let all = files(&house.root);
    assert!(
        all.iter()
            .any(|path| path.components().any(|part| part.as_os_str() == "pg_wal"))
    );
    for path in all {
        let Ok(bytes) = fs::read(&path) else { continue };
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
            assert!(!found, "{when}: {secret} is in {}", path.display());
        }
    }
    for pid in names(Path::new("/proc")) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        for secret in secrets {
            assert!(
                !line.contains(secret),
                "{when}: {secret} is in the command line {line}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planted_secret_is_nowhere_in_clear() {
    let mut house = House::with(&[("TANCHO_LOG_FILTER", "debug")]).await;
    house.create_app("shop").await;
    let form = [
        ("Envs.0.Name", "PASSWORD"),
        ("Envs.0.Value", CANARY),
        ("Private", "true"),
    ];
    house.change(Method::POST, "/1.0/apps/shop/env", &form).await;
    let hooks = ["echo \"it is $PASSWORD\"", "echo \"$PASSWORD\" > /dev/null"];
    let text = house
        .deploy("shop", &Source::web("v1").hooks(&hooks).pack())
        .await;
    assert!(text.contains("it is ") && !text.contains(CANARY), "{text}");
    // The app has it, though.
    assert_eq!(
        house.visit("shop", "/env/PASSWORD").await,
        (200, CANARY.to_owned())
    );
    let manifest = json!({
        "id": "store", "username": "store", "password": format!("{CANARY}-service"), "team": "crew",
        "endpoint": { "production": "http://127.0.0.1:1" },
    });
    let answer = house.by(Method::POST, "/1.0/services").form(&[
        ("id", "store"),
        ("username", "store"),
        ("password", &format!("{CANARY}-service")),
        ("team", "crew"),
        ("endpoint", "http://127.0.0.1:1"),
    ]);
    let answer = answer.send().await.unwrap();
    assert_eq!(
        answer.status(),
        201,
        "{manifest}: {}",
        answer.text().await.unwrap()
    );
    // What fails says it not either.
    let broken = Source::web("v2").hooks(&["echo \"broken $PASSWORD\"; false"]);
    let answer = house
        .begin_deploy("shop", &broken.pack())
        .await
        .text()
        .await
        .unwrap();
    assert!(answer.contains("broken ") && !answer.contains(CANARY), "{answer}");
    let login = house
        .by(Method::POST, &format!("/1.0/users/{EMAIL}/tokens"))
        .json(&json!({ "password": CANARY }));
    assert_eq!(login.send().await.unwrap().status(), 401);
    let token = house.token.clone();
    let secrets = [CANARY, PASSWORD, token.as_str()];
    assert_nowhere(&house, "at work", &secrets);
    house.kill();
    assert_nowhere(&house, "after kill -9", &secrets);
    house.serve();
    assert_eq!(
        house.visit("shop", "/env/PASSWORD").await,
        (200, CANARY.to_owned())
    );
    let program = house.program.as_mut().unwrap();
    program.signal(Signal::SIGINT);
    assert_eq!(program.wait(seconds(60)), Some(0));
    assert_nowhere(&house, "after the end", &secrets);
}
