//! Canaries, planted in every field that may contain a secret.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::json;

use crate::forge::{push, signature};
use crate::test_instance::{EMAIL, PASSWORD, TestInstance, list_names, seconds, wait_for};

/// Canaries, each with the field that it was planted in.
pub(super) struct PlantedCanaries(pub(super) Vec<(String, String)>);

impl PlantedCanaries {
    /// Plants a new one, with characters that each encoding changes.
    pub(super) fn plant(&mut self, field: &str) -> String {
        let canary = format!(
            "c4n/{}+9 b5&2e1",
            &uuid::Uuid::new_v4().simple().to_string()[..12]
        );
        self.0.push((field.to_owned(), canary.clone()));
        canary
    }

    /// Adds one that Tancho has generated.
    pub(super) fn note(&mut self, field: &str, secret: &str) {
        assert!(secret.len() >= 16, "{field}: {secret}");
        self.0.push((field.to_owned(), secret.to_owned()));
    }
}

/// The responses of Tancho that must not contain a secret.
#[derive(Default)]
pub(super) struct CollectedResponses(pub(super) String);

impl CollectedResponses {
    pub(super) async fn take(&mut self, what: &str, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        self.0.push_str(&format!("{what}: {status} {text}\n"));
        (status, text)
    }
}

/// Starts a service that returns a secret to binds, and fails every other call with the password it received.
fn leaking_service(secret: &str, password: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let variables = json!({ "STORE_SECRET": secret }).to_string();
    let login = BASE64.encode(format!("store:{password}"));
    let complaint = format!("I was told {password}, which is {login}");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) < 3 {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                head.push_str(&line);
            }
            // Its body is not needed; it may be incomplete.
            let _ = reader.read_exact(&mut vec![0; length]);
            let (status, body) = match head.split(' ').collect::<Vec<_>>()[..] {
                ["POST", "/resources", ..] => ("201 Created", ""),
                ["POST", path, ..] if path.ends_with("/bind-app") => ("201 Created", variables.as_str()),
                ["DELETE", path, ..] if path.ends_with("/bind-app") => ("200 OK", ""),
                _ => ("500 Internal Server Error", complaint.as_str()),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = reader.into_inner().write_all(answer.as_bytes());
        }
    });
    url
}

/// Plants passwords, tokens and keys of users.
pub(super) async fn plant_user_secrets(
    tancho: &TestInstance,
    planted: &mut PlantedCanaries,
    answers: &mut CollectedResponses,
) {
    let (first, second) = (planted.plant("a password"), planted.plant("a changed password"));
    let ana = "ana@example.com";
    let form = [("email", ana), ("password", first.as_str())];
    let (status, text) = answers
        .take(
            "sign up",
            tancho.request_as_admin(Method::POST, "/1.0/users").form(&form),
        )
        .await;
    assert_eq!(status, 201, "{text}");
    let login = async |password: &str| {
        let url = format!("{}/users/{ana}/tokens", tancho.running().api);
        let answer = tancho.http.post(url).json(&json!({ "password": password }));
        answer.send().await.unwrap()
    };
    let wrong = planted.plant("a wrong password");
    let refused = login(&wrong).await;
    assert_eq!(refused.status(), 401);
    answers.0.push_str(&refused.text().await.unwrap());
    let token = login(&first).await.json::<serde_json::Value>().await.unwrap()["token"]
        .as_str()
        .unwrap()
        .to_owned();
    planted.note("another session", &token);
    let change = json!({ "old": first, "new": second });
    let request = tancho
        .http
        .put(format!("{}/users/password", tancho.running().api));
    let (status, text) = answers
        .take("change", request.bearer_auth(&token).json(&change))
        .await;
    assert_eq!(status, 200, "{text}");
    let key = tancho
        .request_as_admin(Method::POST, "/1.0/users/api-key")
        .send()
        .await
        .unwrap();
    planted.note(
        "an API key",
        key.json::<serde_json::Value>().await.unwrap().as_str().unwrap(),
    );
    let app = tancho
        .request_as_admin(Method::POST, "/tokens")
        .json(&json!({ "client": "shop" }));
    let app: serde_json::Value = app.send().await.unwrap().json().await.unwrap();
    planted.note("a token of an app", app["token"].as_str().unwrap());
    // A token sent by mail, which is in the mail only; and an invalid one.
    let path = format!("/1.0/users/{ana}/password");
    answers
        .take("reset", tancho.request_as_admin(Method::POST, &path))
        .await;
    let mail = tancho.data.join("mail");
    let letter = wait_for("a mail", seconds(20), async || {
        let file = list_names(&mail)
            .into_iter()
            .find(|name| name.ends_with(".eml"))?;
        Some(fs::read_to_string(mail.join(file)).unwrap())
    })
    .await;
    let token = letter.lines().map(str::trim).find(|line| line.len() == 64);
    planted.note("a token by mail", token.unwrap());
    let none = planted.plant("a reset token that is none");
    answers
        .take(
            "redeem",
            tancho
                .request_as_admin(Method::POST, &path)
                .query(&[("token", &none)]),
        )
        .await;
    // A body that cannot be decoded.
    let broken = planted.plant("a body that is no JSON");
    let body = format!("{{\"email\":\"x@example.com\",\"password\":\"{broken}");
    answers
        .take(
            "broken",
            tancho.request_as_admin(Method::POST, "/1.0/users").body(body),
        )
        .await;
}

/// Plants passwords of services, in both editions, and values that they return.
pub(super) async fn plant_service_secrets(
    tancho: &TestInstance,
    planted: &mut PlantedCanaries,
    answers: &mut CollectedResponses,
) {
    let (given, password) = (
        planted.plant("a variable of a service"),
        planted.plant("a manifest's password"),
    );
    let url = leaking_service(&given, &password);
    let manifest = format!("id: store\npassword: \"{password}\"\nendpoint:\n  production: {url}\n");
    let (status, text) = answers
        .take(
            "manifest",
            tancho
                .request_as_admin(Method::POST, "/services")
                .body(manifest.clone()),
        )
        .await;
    assert!(matches!(status, 200 | 201), "{text}");
    // A manifest that cannot be decoded.
    let half = manifest.replace("endpoint:", "endpoint: [");
    answers
        .take(
            "half",
            tancho.request_as_admin(Method::POST, "/services").body(half),
        )
        .await;
    let dead = planted.plant("a service's password");
    let form = [
        ("id", "dead"),
        ("username", "dead"),
        ("password", &dead),
        ("team", "crew"),
        ("endpoint", "http://127.0.0.1:1"),
    ];
    answers
        .take(
            "form",
            tancho.request_as_admin(Method::POST, "/1.0/services").form(&form),
        )
        .await;
    for service in ["store", "dead"] {
        let path = format!("/1.0/services/{service}/instances");
        let form = [("name", format!("{service}-db")), ("owner", "crew".to_owned())];
        answers
            .take("create", tancho.request_as_admin(Method::POST, &path).form(&form))
            .await;
    }
    // The one response that shows them, as the classic edition requires.
    let bound = tancho.request_as_admin(Method::PUT, "/services/instances/store-db/shop");
    let text = bound.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("STORE_SECRET"), "{text}");
    // Its error is stored as the reason, and shown.
    let path = "/1.0/services/store/instances";
    let form = [("name", "store-two"), ("owner", "crew")];
    answers
        .take("create", tancho.request_as_admin(Method::POST, path).form(&form))
        .await;
    let (_, text) = answers
        .take(
            "remove",
            tancho.request_as_admin(Method::DELETE, "/services/instances/store-two"),
        )
        .await;
    assert!(text.contains("I was told ***, which is ***"), "{text}");
    for path in [
        "/services/instances/store-two/status",
        "/services/instances/store-two",
        "/services/store/plans",
        "/1.0/orphans",
        "/healers/orphans",
    ] {
        answers
            .take(path, tancho.request_as_admin(Method::GET, path))
            .await;
    }
}

/// Plants values that callers send with any request, to the API, to git, and to apps.
pub(super) async fn plant_header_secrets(
    tancho: &TestInstance,
    planted: &mut PlantedCanaries,
    answers: &mut CollectedResponses,
) {
    let running = tancho.running();
    let bearer = planted.plant("a bearer token that is none");
    let basic = planted.plant("a password of Basic auth");
    for path in [
        "/apps",
        "/1.0/apps/shop",
        "/nothing",
        "/git/shop.git/info/refs?service=git-receive-pack",
    ] {
        let url = format!("{}{path}", running.api);
        answers
            .take(path, tancho.http.get(&url).bearer_auth(&bearer))
            .await;
        answers
            .take(path, tancho.http.get(&url).basic_auth(EMAIL, Some(&basic)))
            .await;
        answers
            .take(path, tancho.http.get(&url).basic_auth(EMAIL, Some(PASSWORD)))
            .await;
    }
    let in_query = planted.plant("a token in a query");
    let request = tancho.http.get(format!("{}/apps", running.api));
    answers
        .take("query", request.query(&[("token", &in_query)]))
        .await;
    let to_app = planted.plant("a header to an app");
    let request = tancho
        .http
        .get(format!("{}/", running.router))
        .header("host", "shop.localhost");
    answers
        .take(
            "visit",
            request
                .bearer_auth(&to_app)
                .header("cookie", format!("s={to_app}")),
        )
        .await;
}

/// Plants the secret and the password of a forge, and values that deliveries send.
pub(super) async fn plant_forge_secrets(
    tancho: &TestInstance,
    planted: &mut PlantedCanaries,
    answers: &mut CollectedResponses,
) {
    let (secret, password) = (
        planted.plant("a forge's secret"),
        planted.plant("a forge's password"),
    );
    let path = "/1.0/forges/shop";
    let url = format!("{}/git/shop.git", tancho.running().api);
    let config =
        json!({ "url": url, "branch": "main", "user": "bot", "password": password, "secret": secret });
    // The one response that shows the secret.
    let set = tancho.request_as_admin(Method::PUT, path).json(&config);
    let text = set.send().await.unwrap().text().await.unwrap();
    assert!(text.contains(&secret), "{text}");
    let inside = planted.plant("an address with a password");
    let config = json!({ "url": format!("https://bot:{inside}@127.0.0.1/shop.git"), "branch": "main" });
    answers
        .take("forge", tancho.request_as_admin(Method::PUT, path).json(&config))
        .await;
    // One delivery is refused, and the fetch of another fails, because the forge does not accept that
    // password.
    let body = push("main", &"f".repeat(40));
    for signed in [
        planted.plant("a signature that is none"),
        signature(&secret, &body),
    ] {
        let request = tancho
            .http
            .post(format!("{}{path}", tancho.running().api))
            .header("x-github-event", "push")
            .header("x-github-delivery", &signed)
            .header("x-hub-signature-256", format!("sha256={signed}"));
        answers.take("delivery", request.body(body.clone())).await;
    }
    wait_for("a fetch that has failed", seconds(60), async || {
        let log = tancho.log();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("forge.deploy") && line.contains("step failed"))
            .then_some(())
    })
    .await;
    answers
        .take("forge", tancho.request_as_admin(Method::GET, path))
        .await;
}
