//! Canaries, planted in every field that may hold a secret.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use reqwest::Method;
use serde_json::json;

use crate::forge::{push, signature};
use crate::house::{EMAIL, House, PASSWORD, names, seconds, until};

/// Canaries, each with the field that it was planted in.
pub(super) struct Planted(pub(super) Vec<(String, String)>);

impl Planted {
    /// A new one, with characters that each encoding changes.
    pub(super) fn plant(&mut self, field: &str) -> String {
        let canary = format!(
            "c4n/{}+9 b5&2e1",
            &uuid::Uuid::new_v4().simple().to_string()[..12]
        );
        self.0.push((field.to_owned(), canary.clone()));
        canary
    }

    /// One that Tancho has made itself.
    pub(super) fn note(&mut self, field: &str, secret: &str) {
        assert!(secret.len() >= 16, "{field}: {secret}");
        self.0.push((field.to_owned(), secret.to_owned()));
    }
}

/// The answers of Tancho that should hold no secret.
#[derive(Default)]
pub(super) struct Answers(pub(super) String);

impl Answers {
    pub(super) async fn take(&mut self, what: &str, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        self.0.push_str(&format!("{what}: {status} {text}\n"));
        (status, text)
    }
}

/// A service that gives a secret to whoever binds, and fails at everything else with the password that it got.
fn talkative(secret: &str, password: &str) -> String {
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
            // Its body is of no interest; it may be gone.
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

/// Passwords, tokens and keys of people.
pub(super) async fn people(house: &House, planted: &mut Planted, answers: &mut Answers) {
    let (first, second) = (planted.plant("a password"), planted.plant("a changed password"));
    let ana = "ana@example.com";
    let form = [("email", ana), ("password", first.as_str())];
    let (status, text) = answers
        .take("sign up", house.by(Method::POST, "/1.0/users").form(&form))
        .await;
    assert_eq!(status, 201, "{text}");
    let login = async |password: &str| {
        let url = format!("{}/users/{ana}/tokens", house.running().api);
        let answer = house.http.post(url).json(&json!({ "password": password }));
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
    let request = house.http.put(format!("{}/users/password", house.running().api));
    let (status, text) = answers
        .take("change", request.bearer_auth(&token).json(&change))
        .await;
    assert_eq!(status, 200, "{text}");
    let key = house.by(Method::POST, "/1.0/users/api-key").send().await.unwrap();
    planted.note(
        "an API key",
        key.json::<serde_json::Value>().await.unwrap().as_str().unwrap(),
    );
    let app = house
        .by(Method::POST, "/tokens")
        .json(&json!({ "client": "shop" }));
    let app: serde_json::Value = app.send().await.unwrap().json().await.unwrap();
    planted.note("a token of an app", app["token"].as_str().unwrap());
    // A token by mail, which is in the mail alone; and one that is none.
    let path = format!("/1.0/users/{ana}/password");
    answers.take("reset", house.by(Method::POST, &path)).await;
    let mail = house.data.join("mail");
    let letter = until("a mail", seconds(20), async || {
        let file = names(&mail).into_iter().find(|name| name.ends_with(".eml"))?;
        Some(fs::read_to_string(mail.join(file)).unwrap())
    })
    .await;
    let token = letter.lines().map(str::trim).find(|line| line.len() == 64);
    planted.note("a token by mail", token.unwrap());
    let none = planted.plant("a reset token that is none");
    answers
        .take("redeem", house.by(Method::POST, &path).query(&[("token", &none)]))
        .await;
    // A body that cannot be read.
    let broken = planted.plant("a body that is no JSON");
    let body = format!("{{\"email\":\"x@example.com\",\"password\":\"{broken}");
    answers
        .take("broken", house.by(Method::POST, "/1.0/users").body(body))
        .await;
}

/// Passwords of services, in both editions, and what they give.
pub(super) async fn services(house: &House, planted: &mut Planted, answers: &mut Answers) {
    let (given, password) = (
        planted.plant("a variable of a service"),
        planted.plant("a manifest's password"),
    );
    let url = talkative(&given, &password);
    let manifest = format!("id: store\npassword: \"{password}\"\nendpoint:\n  production: {url}\n");
    let (status, text) = answers
        .take(
            "manifest",
            house.by(Method::POST, "/services").body(manifest.clone()),
        )
        .await;
    assert!(matches!(status, 200 | 201), "{text}");
    // One that cannot be read.
    let half = manifest.replace("endpoint:", "endpoint: [");
    answers
        .take("half", house.by(Method::POST, "/services").body(half))
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
        .take("form", house.by(Method::POST, "/1.0/services").form(&form))
        .await;
    for service in ["store", "dead"] {
        let path = format!("/1.0/services/{service}/instances");
        let form = [("name", format!("{service}-db")), ("owner", "crew".to_owned())];
        answers
            .take("create", house.by(Method::POST, &path).form(&form))
            .await;
    }
    // The one answer that shows them, as the classic edition wants it.
    let bound = house.by(Method::PUT, "/services/instances/store-db/shop");
    let text = bound.send().await.unwrap().text().await.unwrap();
    assert!(text.contains("STORE_SECRET"), "{text}");
    // What it says when it fails is kept as the reason, and told.
    let path = "/1.0/services/store/instances";
    let form = [("name", "store-two"), ("owner", "crew")];
    answers
        .take("create", house.by(Method::POST, path).form(&form))
        .await;
    let (_, text) = answers
        .take(
            "remove",
            house.by(Method::DELETE, "/services/instances/store-two"),
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
        answers.take(path, house.by(Method::GET, path)).await;
    }
}

/// What callers send along with any request, to the API, to git, and to apps.
pub(super) async fn headers(house: &House, planted: &mut Planted, answers: &mut Answers) {
    let running = house.running();
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
            .take(path, house.http.get(&url).bearer_auth(&bearer))
            .await;
        answers
            .take(path, house.http.get(&url).basic_auth(EMAIL, Some(&basic)))
            .await;
        answers
            .take(path, house.http.get(&url).basic_auth(EMAIL, Some(PASSWORD)))
            .await;
    }
    let in_query = planted.plant("a token in a query");
    let request = house.http.get(format!("{}/apps", running.api));
    answers
        .take("query", request.query(&[("token", &in_query)]))
        .await;
    let to_app = planted.plant("a header to an app");
    let request = house
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

/// The secret and the password of a forge, and what is sent under its name.
pub(super) async fn forge(house: &House, planted: &mut Planted, answers: &mut Answers) {
    let (secret, password) = (
        planted.plant("a forge's secret"),
        planted.plant("a forge's password"),
    );
    let path = "/1.0/forges/shop";
    let url = format!("{}/git/shop.git", house.running().api);
    let wish = json!({ "url": url, "branch": "main", "user": "bot", "password": password, "secret": secret });
    // The one answer that shows the secret.
    let set = house.by(Method::PUT, path).json(&wish);
    let text = set.send().await.unwrap().text().await.unwrap();
    assert!(text.contains(&secret), "{text}");
    let inside = planted.plant("an address with a password");
    let wish = json!({ "url": format!("https://bot:{inside}@127.0.0.1/shop.git"), "branch": "main" });
    answers
        .take("forge", house.by(Method::PUT, path).json(&wish))
        .await;
    // One that is refused, and one whose fetch fails, for the forge does not know that password.
    let body = push("main", &"f".repeat(40));
    for signed in [
        planted.plant("a signature that is none"),
        signature(&secret, &body),
    ] {
        let request = house
            .http
            .post(format!("{}{path}", house.running().api))
            .header("x-github-event", "push")
            .header("x-github-delivery", &signed)
            .header("x-hub-signature-256", format!("sha256={signed}"));
        answers.take("delivery", request.body(body.clone())).await;
    }
    until("a fetch that has failed", seconds(60), async || {
        let log = house.log();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("forge.deploy") && line.contains("step failed"))
            .then_some(())
    })
    .await;
    answers.take("forge", house.by(Method::GET, path)).await;
}
