//! `tancho import tsuru`, from one server to another.

use std::sync::Mutex;

use reqwest::Method;
use serde_json::json;
use tancho::commands::import::{ImportOptions, ImportReport, TsuruApi, import_tsuru};
use tancho::kernel::secret::Secret;

use crate::test_server::{TestServer, TestUser};

/// A server to import from, one to import to, and an administrator of each.
struct ImportFixture {
    source: TestServer,
    source_admin: TestUser,
    destination: TestServer,
    destination_admin: TestUser,
}

impl ImportFixture {
    async fn new() -> Self {
        let (source, destination) = (TestServer::start().await, TestServer::start().await);
        Self {
            source_admin: source.login_admin().await,
            destination_admin: destination.login_admin().await,
            source,
            destination,
        }
    }

    async fn change(&self, method: Method, path: &str, body: serde_json::Value) {
        let sent = self
            .source
            .send_json(&self.source_admin, method, path, Some(body))
            .await;
        assert!((200..300).contains(&sent.0), "{path}: {}", sent.1);
    }

    /// A team with a member, a role, a pool and an app that has a public and a private variable.
    async fn fill_source(&self) {
        self.change(
            Method::POST,
            "/1.0/teams",
            json!({ "name": "red", "tags": ["a"] }),
        )
        .await;
        self.source.create_user("ana").await;
        self.change(
            Method::POST,
            "/1.0/roles",
            json!({ "name": "deployer", "context": "team", "description": "deploys" }),
        )
        .await;
        self.change(
            Method::POST,
            "/1.0/roles/deployer/permissions",
            json!({ "permission": ["app.deploy", "app.read"] }),
        )
        .await;
        self.change(
            Method::POST,
            "/1.0/roles/deployer/user",
            json!({ "email": "ana@example.com", "context": "red" }),
        )
        .await;
        self.change(
            Method::POST,
            "/1.0/pools",
            json!({ "name": "blue", "public": true }),
        )
        .await;
        let app = json!({
            "name": "shop", "platform": "static", "teamOwner": "red", "pool": "blue", "description": "sells",
        });
        self.change(Method::POST, "/1.0/apps", app).await;
        self.change(
            Method::POST,
            "/1.0/apps/shop/cname",
            json!({ "cname": ["www.example.com"] }),
        )
        .await;
        for (name, private) in [("COLOR", false), ("PASSWORD", true)] {
            let envs = json!([{ "name": name, "value": "canary", "private": private }]);
            let body = json!({ "envs": envs, "norestart": true, "private": private });
            self.change(Method::POST, "/1.0/apps/shop/env", body).await;
        }
    }

    async fn run(&self, dry_run: bool) -> (ImportReport, Vec<String>) {
        let lines = Mutex::new(Vec::new());
        let api = |server: &TestServer, user: &TestUser| {
            TsuruApi::new(&server.url, Secret::new(user.token.clone())).unwrap()
        };
        let report = import_tsuru(ImportOptions {
            source: &api(&self.source, &self.source_admin),
            destination: &api(&self.destination, &self.destination_admin),
            dry_run,
            print: &|line| lines.lock().unwrap().push(line.to_owned()),
        })
        .await
        .unwrap();
        (report, lines.into_inner().unwrap())
    }
}

#[tokio::test]
async fn import_creates_what_is_missing_and_changes_nothing_when_repeated() {
    let fixture = ImportFixture::new().await;
    fixture.fill_source().await;

    let (dry, lines) = fixture.run(true).await;
    assert!(
        lines.iter().any(|line| line == "would create app shop"),
        "{lines:?}"
    );
    let (_, here) = fixture
        .destination
        .send_json(&fixture.destination_admin, Method::GET, "/1.0/teams", None)
        .await;
    assert!(!here.contains("red"), "a dry run has created a team: {here}");

    let (first, lines) = fixture.run(false).await;
    assert_eq!(first.refused, [""; 0], "{lines:?}");
    assert_eq!(first.created, dry.created, "{lines:?}");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("password of ana@example.com")),
        "{lines:?}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.contains("private variables of shop: PASSWORD")),
        "{lines:?}"
    );
    assert!(!lines.iter().any(|line| line.contains("canary")), "{lines:?}");

    let (tancho, admin) = (&fixture.destination, &fixture.destination_admin);
    let app = tancho.read_json(admin, "/1.0/apps/shop").await;
    for (key, value) in [("teamowner", "red"), ("pool", "blue"), ("description", "sells")] {
        assert_eq!(app[key], value, "{app}");
    }
    assert_eq!(app["cname"], json!(["www.example.com"]));
    let env = tancho.read_json(admin, "/1.0/apps/shop/env?env=COLOR").await;
    assert_eq!(
        (&env[0]["value"], &env[0]["public"]),
        (&json!("canary"), &json!(true))
    );
    let users = tancho
        .read_json(admin, "/1.0/users?userEmail=ana@example.com")
        .await;
    assert_eq!(users[0]["Roles"][0]["Name"], "deployer", "{users}");
    assert_eq!(users[0]["Roles"][0]["ContextValue"], "red", "{users}");
    let role = tancho.read_json(admin, "/1.0/roles/deployer").await;
    assert_eq!(role["scheme_names"].as_array().unwrap().len(), 2, "{role}");

    let (second, lines) = fixture.run(false).await;
    assert_eq!((second.created, second.refused.len()), (0, 0), "{lines:?}");
    assert_eq!(second.existing, first.created + first.existing, "{lines:?}");
}

#[tokio::test]
async fn import_goes_on_after_a_refusal_and_does_the_rest_when_repeated() {
    let fixture = ImportFixture::new().await;
    fixture.fill_source().await;
    // The quota of this server refuses the app.
    let (tancho, admin) = (&fixture.destination, &fixture.destination_admin);
    let quota = format!("/1.0/users/{}/quota", admin.email);
    let set = async |limit: &str| {
        let sent = tancho
            .send_json(admin, Method::PUT, &quota, Some(json!({ "limit": limit })))
            .await;
        assert_eq!(sent.0, 200, "{}", sent.1);
    };
    set("0").await;
    let (first, lines) = fixture.run(false).await;
    assert!(
        first.refused.len() == 1 && first.refused[0].starts_with("app shop: "),
        "{lines:?}"
    );
    let users = tancho
        .read_json(admin, "/1.0/users?userEmail=ana@example.com")
        .await;
    assert_eq!(users[0]["Roles"][0]["Name"], "deployer", "{users}");
    set("5").await;
    let (second, lines) = fixture.run(false).await;
    assert_eq!((second.created, second.refused.len()), (1, 0), "{lines:?}");
}

#[tokio::test]
async fn import_with_a_wrong_token_or_server_says_which() {
    let fixture = ImportFixture::new().await;
    let good = |server: &TestServer, user: &TestUser| {
        TsuruApi::new(&server.url, Secret::new(user.token.clone())).unwrap()
    };
    let bad = |server: &TestServer| TsuruApi::new(&server.url, Secret::new("no token")).unwrap();
    let run = async |source: TsuruApi, destination: TsuruApi| {
        let options = ImportOptions {
            source: &source,
            destination: &destination,
            dry_run: false,
            print: &|_| {},
        };
        import_tsuru(options).await.unwrap_err().message().to_owned()
    };
    let (source, destination) = (&fixture.source, &fixture.destination);
    let said = run(bad(source), good(destination, &fixture.destination_admin)).await;
    assert!(said.contains("not accepted by the source"), "{said}");
    let said = run(good(source, &fixture.source_admin), bad(destination)).await;
    assert!(said.contains("not accepted by this server"), "{said}");
    let nobody = TsuruApi::new("http://127.0.0.1:1", Secret::new("t")).unwrap();
    let said = run(nobody, good(destination, &fixture.destination_admin)).await;
    assert!(said.contains("127.0.0.1:1 does not answer"), "{said}");
}
