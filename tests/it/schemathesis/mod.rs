//! Requests made from the OpenAPI document by schemathesis: whoever sends them, the server does not fail, and its answers
//! are as the document says.

use std::io::Write;
use std::process::Stdio;

use reqwest::Method;
use serde_json::json;

use crate::test_server::{TestServer, TestUser};

const CHECKS: &str =
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
const CONFIG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/schemathesis/schemathesis.toml"
);

/// The program, if this machine has it.
fn find_program() -> Option<std::path::PathBuf> {
    let path = std::env::vars_os().find_map(|(name, value)| (name == "PATH").then_some(value))?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("schemathesis"))
        .find(|file| file.exists())
}

/// Sends requests as a user, or as nobody; `examples` is the number for each operation.
async fn check_as(server: &TestServer, user: Option<&TestUser>, examples: u32) {
    let Some(program) = find_program() else {
        let in_ci = std::env::vars_os().any(|(name, value)| name == "CI" && value == "true");
        assert!(!in_ci, "schemathesis is missing here");
        let _ = writeln!(
            std::io::stderr(),
            "SKIP schemathesis: schemathesis is missing here"
        );
        return;
    };
    let folder = std::env::temp_dir().join(format!("schemathesis-{}", uuid::Uuid::new_v4().simple()));
    std::fs::create_dir(&folder).unwrap();
    let mut command = tokio::process::Command::new(program);
    command
        .args(["--config-file", CONFIG, "run"])
        .arg(format!("{}/openapi.json", server.url))
        .args([
            "--checks",
            CHECKS,
            "--phases",
            "fuzzing",
            "--seed",
            "1",
            "--no-color",
        ])
        .args(["--max-examples", &examples.to_string(), "--request-timeout", "60"])
        .args(["--warnings", "off", "--continue-on-failure", "--workers", "1"])
        .args(["--generation-database", "none", "--suppress-health-check", "all"]);
    if let Some(user) = user {
        command
            .arg("--header")
            .arg(format!("Authorization: bearer {}", user.token));
    }
    let output = command
        .current_dir(&folder)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let _ = std::fs::remove_dir_all(&folder);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("No issues found"), "{text}");
}

/// A server with the things that the configuration names, and an administrator.
async fn start_server() -> (TestServer, TestUser, TestUser) {
    let server = TestServer::start().await;
    let (admin, member) = (server.login_admin().await, server.create_user("ana").await);
    server.create_team(&member, "crew").await;
    let app = json!({ "name": "shop", "platform": "static", "teamOwner": "crew" });
    let (status, body) = server
        .send_json(&member, Method::POST, "/1.0/apps", Some(app))
        .await;
    assert_eq!(status, 201, "{body}");
    let role = json!({ "name": "clerk", "context": "team" });
    let (status, body) = server
        .send_json(&admin, Method::POST, "/1.0/roles", Some(role))
        .await;
    assert_eq!(status, 201, "{body}");
    (server, admin, member)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_administrator_are_answered_as_described() {
    let (server, admin, _) = start_server().await;
    check_as(&server, Some(&admin), 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_member_are_answered_as_described() {
    let (server, _, member) = start_server().await;
    check_as(&server, Some(&member), 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_nobody_are_answered_as_described() {
    let (server, ..) = start_server().await;
    check_as(&server, None, 2).await;
}
