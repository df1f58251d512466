//! What is secret is nowhere in clear: not on disk, not in a log, not in a command line.

mod plant;
mod search;

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::apps::Source;
use crate::house::{EMAIL, House, PASSWORD, processes_with, seconds};
use plant::{Answers, Planted};
use search::{forms, search};

const CANARY: &str = "canary-7f3c9b52e1";

fn assert_nowhere(house: &House, when: &str, secrets: &[&str]) {
    assert!(house.data.join("postgres/pg_wal").is_dir());
    for secret in secrets {
        let mut grep = Command::new("grep");
        let found = grep
            .args(["-r", "-l", "-a", "-F", "-s", "-e", secret])
            .arg(&house.root)
            .output()
            .unwrap();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.is_empty(), "{when}: {secret} is in {found}");
    }
    for (_, line) in house_processes(house) {
        for secret in secrets {
            assert!(
                !line.contains(secret),
                "{when}: {secret} is in the command line {line}"
            );
        }
    }
}

/// The processes of a house alone: other tests show passwords on command lines of theirs, as users of git do.
fn house_processes(house: &House) -> Vec<(i32, String)> {
    processes_with(&house.data.display().to_string())
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
    // The search finds what is there: names are no secrets.
    let name = Command::new("grep")
        .args(["-r", "-l", "-a", "-F", "-s", "-e", EMAIL])
        .arg(&house.data)
        .output();
    assert!(String::from_utf8_lossy(&name.unwrap().stdout).contains("/postgres/"));
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_in_every_field_are_nowhere_in_any_form() {
    let mut planted = Planted(Vec::new());
    let mut answers = Answers::default();
    let mut house = House::with(&[("TANCHO_LOG_FILTER", "debug")]).await;
    planted.note("the administrator's password", PASSWORD);
    planted.note("a session", &house.token);
    house.create_app("shop").await;
    plant::people(&house, &mut planted, &mut answers).await;
    plant::services(&house, &mut planted, &mut answers).await;
    plant::headers(&house, &mut planted, &mut answers).await;
    plant::forge(&house, &mut planted, &mut answers).await;
    for private in ["true", "false"] {
        let value = planted.plant(&format!("a variable, private={private}"));
        let name = format!("VAR_{}", private.to_uppercase());
        let form = [
            ("Envs.0.Name", name.as_str()),
            ("Envs.0.Value", &value),
            ("Private", private),
        ];
        answers
            .take("env", house.by(Method::POST, "/1.0/apps/shop/env").form(&form))
            .await;
    }
    let source = Source::web("v1").hooks(&["echo \"it is $VAR_TRUE and $STORE_SECRET\""]);
    let text = house.deploy("shop", &source.pack()).await;
    answers.0.push_str(&text);
    // It has arrived where it should.
    let (_, seen) = house.visit("shop", "/env/VAR_TRUE").await;
    assert!(planted.0.iter().any(|(_, canary)| *canary == seen), "{seen}");
    let events = house.read("/1.1/events?limit=100").await;
    for event in events.as_array().unwrap() {
        let path = format!("/1.1/events/{}", event["UniqueID"].as_str().unwrap());
        answers.take("event", house.by(Method::GET, &path)).await;
    }
    answers.take("figures", house.by(Method::GET, "/metrics")).await;
    answers
        .take("log", house.by(Method::GET, "/1.0/apps/shop/log?lines=1000"))
        .await;
    assert_nothing_found(&house, &planted, &answers);
    house.kill();
    assert_nothing_found(&house, &planted, &answers);
}

/// Everything there is to search: the dump, the answers, command lines, logs, and the data folder.
fn assert_nothing_found(house: &House, planted: &Planted, answers: &Answers) {
    let outside = std::env::temp_dir().join(format!("tancho-canaries-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&outside).unwrap();
    let dump = Command::new("pg_dump")
        .args(["-U", "tancho", "-h"])
        .arg(house.data.join("postgres-run"))
        .arg("tancho")
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    fs::write(outside.join("dump.sql"), dump.stdout).unwrap();
    fs::write(outside.join("answers"), &answers.0).unwrap();
    let processes = house_processes(house);
    assert!(processes.len() > 2, "Tancho, its Postgres and a unit run");
    let lines: Vec<String> = processes.into_iter().map(|(_, line)| line).collect();
    fs::write(outside.join("cmdlines"), lines.join("\n")).unwrap();
    let folders = [house.root.as_path(), outside.as_path()];
    // What is no secret is found in all of these.
    let open = search(&[EMAIL.to_owned()], &folders).join("\n");
    for place in ["/dump.sql:", "/answers:", "/postgres/"] {
        assert!(open.contains(place), "{place} was not searched: {open}");
    }
    assert!(house.log().contains("/1.0/apps/shop"), "the log has no requests");
    let mut wrong = Vec::new();
    let all: Vec<String> = planted.0.iter().flat_map(|(_, canary)| forms(canary)).collect();
    for line in search(&all, &folders) {
        let (file, text) = line.split_once(':').unwrap_or((&line, ""));
        let field = planted
            .0
            .iter()
            .find(|(_, canary)| forms(canary).iter().any(|form| form == text));
        wrong.push(format!(
            "{} is in {file} as {text}",
            field.map_or("?", |(field, _)| field)
        ));
    }
    fs::remove_dir_all(&outside).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(planted.0.len() >= 20, "{}", planted.0.len());
}
