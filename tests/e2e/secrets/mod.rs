//! Secrets are nowhere in plaintext: not on disk, not in a log, not on a command line.

mod canaries;
mod search;

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::apps::AppSource;
use crate::test_instance::{EMAIL, PASSWORD, TestInstance, find_processes, seconds};
use canaries::{CollectedResponses, PlantedCanaries};
use search::{encoded_forms, search};

const CANARY: &str = "canary-7f3c9b52e1";

fn assert_nowhere(tancho: &TestInstance, when: &str, secrets: &[&str]) {
    assert!(tancho.data.join("postgres/pg_wal").is_dir());
    for secret in secrets {
        let mut grep = Command::new("grep");
        let found = grep
            .args(["-r", "-l", "-a", "-F", "-s", "-e", secret])
            .arg(&tancho.root)
            .output()
            .unwrap();
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.is_empty(), "{when}: {secret} is in {found}");
    }
    for (_, line) in instance_processes(tancho) {
        for secret in secrets {
            assert!(
                !line.contains(secret),
                "{when}: {secret} is in the command line {line}"
            );
        }
    }
}

/// Returns the processes of one instance only: other tests show passwords on their command lines, as users of
/// git do.
fn instance_processes(tancho: &TestInstance) -> Vec<(i32, String)> {
    find_processes(&tancho.data.display().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secret_variable_is_stored_and_logged_nowhere_in_plaintext() {
    let mut tancho = TestInstance::with(&[("TANCHO_LOG_FILTER", "debug")]).await;
    tancho.create_app("shop").await;
    let form = [
        ("Envs.0.Name", "PASSWORD"),
        ("Envs.0.Value", CANARY),
        ("Private", "true"),
    ];
    tancho.change(Method::POST, "/1.0/apps/shop/env", &form).await;
    let hooks = ["echo \"it is $PASSWORD\"", "echo \"$PASSWORD\" > /dev/null"];
    let text = tancho
        .deploy("shop", &AppSource::web("v1").hooks(&hooks).pack())
        .await;
    assert!(text.contains("it is ") && !text.contains(CANARY), "{text}");
    // The app does have it.
    assert_eq!(
        tancho.get_app("shop", "/env/PASSWORD").await,
        (200, CANARY.to_owned())
    );
    let manifest = json!({
        "id": "store", "username": "store", "password": format!("{CANARY}-service"), "team": "crew",
        "endpoint": { "production": "http://127.0.0.1:1" },
    });
    let answer = tancho.request_as_admin(Method::POST, "/1.0/services").form(&[
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
    // Errors do not contain it either.
    let broken = AppSource::web("v2").hooks(&["echo \"broken $PASSWORD\"; false"]);
    let answer = tancho
        .begin_deploy("shop", &broken.pack())
        .await
        .text()
        .await
        .unwrap();
    assert!(answer.contains("broken ") && !answer.contains(CANARY), "{answer}");
    let login = tancho
        .request_as_admin(Method::POST, &format!("/1.0/users/{EMAIL}/tokens"))
        .json(&json!({ "password": CANARY }));
    assert_eq!(login.send().await.unwrap().status(), 401);
    // The search finds what is stored: names are no secrets.
    let name = Command::new("grep")
        .args(["-r", "-l", "-a", "-F", "-s", "-e", EMAIL])
        .arg(&tancho.data)
        .output();
    assert!(String::from_utf8_lossy(&name.unwrap().stdout).contains("/postgres/"));
    let token = tancho.token.clone();
    let secrets = [CANARY, PASSWORD, token.as_str()];
    assert_nowhere(&tancho, "while running", &secrets);
    tancho.kill();
    assert_nowhere(&tancho, "after kill -9", &secrets);
    tancho.serve();
    assert_eq!(
        tancho.get_app("shop", "/env/PASSWORD").await,
        (200, CANARY.to_owned())
    );
    let program = tancho.program.as_mut().unwrap();
    program.signal(Signal::SIGINT);
    assert_eq!(program.wait(seconds(60)), Some(0));
    assert_nowhere(&tancho, "after the end", &secrets);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canary_secrets_of_every_field_leak_in_no_encoding() {
    let mut planted = PlantedCanaries(Vec::new());
    let mut answers = CollectedResponses::default();
    let mut tancho = TestInstance::with(&[("TANCHO_LOG_FILTER", "debug")]).await;
    planted.note("the administrator's password", PASSWORD);
    planted.note("a session", &tancho.token);
    tancho.create_app("shop").await;
    canaries::plant_user_secrets(&tancho, &mut planted, &mut answers).await;
    canaries::plant_service_secrets(&tancho, &mut planted, &mut answers).await;
    canaries::plant_header_secrets(&tancho, &mut planted, &mut answers).await;
    canaries::plant_forge_secrets(&tancho, &mut planted, &mut answers).await;
    for private in ["true", "false"] {
        let value = planted.plant(&format!("a variable, private={private}"));
        let name = format!("VAR_{}", private.to_uppercase());
        let form = [
            ("Envs.0.Name", name.as_str()),
            ("Envs.0.Value", &value),
            ("Private", private),
        ];
        answers
            .take(
                "env",
                tancho
                    .request_as_admin(Method::POST, "/1.0/apps/shop/env")
                    .form(&form),
            )
            .await;
    }
    let job = r#"{"name":"nightly","manual":true}"#;
    answers
        .take(
            "job",
            tancho.request_as_admin(Method::POST, "/1.13/jobs").body(job),
        )
        .await;
    let value = planted.plant("a variable of a job");
    let form = [
        ("Envs.0.Name", "OF_JOB"),
        ("Envs.0.Value", &value),
        ("Private", "true"),
    ];
    answers
        .take(
            "job env",
            tancho
                .request_as_admin(Method::POST, "/1.13/jobs/nightly/env")
                .form(&form),
        )
        .await;
    let source = AppSource::web("v1").hooks(&["echo \"it is $VAR_TRUE and $STORE_SECRET\""]);
    let release = "web: /usr/bin/python3 app.py\nrelease: echo \"it is $VAR_TRUE\"\n";
    let source = source.with("Procfile", release);
    let text = tancho.deploy("shop", &source.pack()).await;
    answers.0.push_str(&text);
    // It has reached the app unchanged.
    let (_, seen) = tancho.get_app("shop", "/env/VAR_TRUE").await;
    assert!(planted.0.iter().any(|(_, canary)| *canary == seen), "{seen}");
    let events = tancho.read_json("/1.1/events?limit=100").await;
    for event in events.as_array().unwrap() {
        let path = format!("/1.1/events/{}", event["UniqueID"].as_str().unwrap());
        answers
            .take("event", tancho.request_as_admin(Method::GET, &path))
            .await;
    }
    answers
        .take("figures", tancho.request_as_admin(Method::GET, "/metrics"))
        .await;
    answers
        .take(
            "log",
            tancho.request_as_admin(Method::GET, "/1.0/apps/shop/log?lines=1000"),
        )
        .await;
    assert_nothing_found(&tancho, &planted, &answers);
    tancho.kill();
    assert_nothing_found(&tancho, &planted, &answers);
}

/// Searches everything: the dump, the responses, command lines, logs, and the data folder.
fn assert_nothing_found(tancho: &TestInstance, planted: &PlantedCanaries, answers: &CollectedResponses) {
    let outside = std::env::temp_dir().join(format!("tancho-canaries-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&outside).unwrap();
    let dump = Command::new("pg_dump")
        .args(["-U", "tancho", "-h"])
        .arg(tancho.data.join("postgres-run"))
        .arg("tancho")
        .env("PGPASSFILE", tancho.data.join("postgres.pgpass"))
        .output()
        .unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    fs::write(outside.join("dump.sql"), dump.stdout).unwrap();
    fs::write(outside.join("answers"), &answers.0).unwrap();
    let processes = instance_processes(tancho);
    assert!(processes.len() > 2, "Tancho, its Postgres and a unit run");
    let lines: Vec<String> = processes.into_iter().map(|(_, line)| line).collect();
    fs::write(outside.join("cmdlines"), lines.join("\n")).unwrap();
    let folders = [tancho.root.as_path(), outside.as_path()];
    // A value that is no secret is found in all of these.
    let open = search(&[EMAIL.to_owned()], &folders).join("\n");
    for place in ["/dump.sql:", "/answers:", "/postgres/"] {
        assert!(open.contains(place), "{place} was not searched: {open}");
    }
    assert!(tancho.log().contains("/1.0/apps/shop"), "the log has no requests");
    let mut wrong = Vec::new();
    let all: Vec<String> = planted
        .0
        .iter()
        .flat_map(|(_, canary)| encoded_forms(canary))
        .collect();
    for line in search(&all, &folders) {
        let (file, text) = line.split_once(':').unwrap_or((&line, ""));
        let field = planted
            .0
            .iter()
            .find(|(_, canary)| encoded_forms(canary).iter().any(|form| form == text));
        wrong.push(format!(
            "{} is in {file} as {text}",
            field.map_or("?", |(field, _)| field)
        ));
    }
    fs::remove_dir_all(&outside).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(planted.0.len() >= 20, "{}", planted.0.len());
}
