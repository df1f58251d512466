//! An upgrade from the previous release: its database, as `pg_dump` wrote it, with an unfinished saga of each
//! kind, and its data folder. The new release migrates it, ends every saga, and serves every app.
//!
//! `upgrade/database.sql.gz` and `upgrade/folder.tar.gz` were made with the binary of that release: twelve
//! apps of two processes, one service with its instances, roles on removed resources, cnames that are refused
//! today, two accounts whose addresses differ in case, and fail points that held one saga of each kind until
//! the process was killed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::Value;

use crate::cluster::PostgresCluster;
use crate::services::SlowService;
use crate::test_instance::{TestInstance, seconds, wait_for};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/upgrade");

/// The kinds of the unfinished sagas in the database, and the events that they end.
const UNFINISHED: [&str; 10] = [
    "app.deploy",
    "app.delete",
    "app.deploy",
    "app.update.restart",
    "app.update.unit.add",
    "app.update.bind",
    "app.update.unbind",
    "service-instance.create",
    "service-instance.delete",
    "service-instance.update",
];

/// Fills an empty database from the dump, with the service at another address.
fn load_dump(database: &str, service: &str) {
    let script = format!(
        "set -euo pipefail; gzip -dc '{FOLDER}/database.sql.gz' | sed 's|http://127.0.0.1:15000|{service}|g' | \
         psql -X -q -v ON_ERROR_STOP=1 '{database}'"
    );
    let loaded = Command::new("bash")
        .args(["-c", &script])
        .stdout(Stdio::null())
        .status();
    assert!(loaded.unwrap().success());
}

fn unpack_folder(data: &Path) {
    fs::create_dir(data).unwrap();
    fs::set_permissions(data, fs::Permissions::from_mode(0o755)).unwrap();
    let unpacked = Command::new("tar")
        .args([
            "-xzpf",
            &format!("{FOLDER}/folder.tar.gz"),
            "--numeric-owner",
            "-C",
        ])
        .arg(data)
        .status();
    assert!(unpacked.unwrap().success());
}

async fn app_answers(tancho: &TestInstance, app: &str) {
    wait_for(&format!("{app} answers"), seconds(60), async || {
        let (status, text) = tancho.get_app(app, "/").await;
        (status == 200 && text.starts_with(&format!("hello from {app}"))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_of_the_previous_release_is_migrated_with_unfinished_sagas() {
    let mut tancho = TestInstance::new_empty();
    let cluster = PostgresCluster::start(std::path::PathBuf::from(format!("{}-pg", tancho.root.display())));
    let service = SlowService::start();
    load_dump(&cluster.url("postgres"), &service.url);
    unpack_folder(&tancho.data);
    tancho.set("TANCHO_SERVICES_ALLOW_PRIVATE_ADDRESSES", "yes");
    tancho.set("DATABASE_URL", &cluster.url("postgres"));
    tancho.serve();
    tancho.login().await;

    let running = wait_for("every saga ends", seconds(90), async || {
        let events = tancho
            .request_as_admin(Method::GET, "/1.1/events?running=true")
            .send()
            .await
            .ok()?;
        (events.status() == 204 || events.json::<Value>().await.ok()?.as_array()?.is_empty()).then_some(0)
    })
    .await;
    assert_eq!(running, 0);
    let events = tancho.read_json("/1.1/events?limit=100").await;
    let kinds: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["Kind"]["Name"].as_str())
        .collect();
    for kind in UNFINISHED {
        assert!(kinds.contains(&kind), "no event {kind} in {kinds:?}");
    }

    for app in [
        "board", "shop", "oven", "sub0", "sub1", "sub2", "sub3", "sub5", "sub6", "sub7",
    ] {
        app_answers(&tancho, app).await;
    }
    let gone = tancho
        .request_as_admin(Method::GET, "/1.0/apps/sub4")
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404, "the removal continues");
    let instances = tancho.read_json("/1.0/services/instances").await.to_string();
    assert!(
        instances.contains("inst8") && !instances.contains("inst7"),
        "{instances}"
    );

    // Both accounts still exist, with the spelling of each.
    for email in ["bob@example.com", "Bob@Example.com"] {
        let users = tancho.read_json("/1.0/users").await.to_string();
        assert!(users.to_lowercase().contains(&email.to_lowercase()), "{users}");
    }
    // Roles on removed resources are removed with them, and others are not.
    let carol = tancho.read_json("/1.0/users?userEmail=carol@example.com").await;
    let roles = carol[0]["Roles"].to_string();
    assert!(roles.contains("board") && !roles.contains("ghost"), "{roles}");
}
