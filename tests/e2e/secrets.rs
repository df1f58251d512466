//! What is secret is nowhere in clear: not on disk, not in a log, not in a command line.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::json;

use crate::apps::Source;
use crate::forge::{push, signature};
use crate::house::{EMAIL, House, PASSWORD, names, processes_with, seconds, until};

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

/// A secret in every form in which it may lie about: as it is, in hexadecimal, percent-encoded, and in base64
/// wherever it begins in what was encoded.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let encoded = |plain: &dyn Fn(u8) -> bool, upper: bool| -> String {
        let byte = |byte: u8| match (plain(byte), upper) {
            (true, _) => char::from(byte).to_string(),
            (false, true) => format!("%{byte:02X}"),
            (false, false) => format!("%{byte:02x}"),
        };
        secret.bytes().map(byte).collect()
    };
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut forms = vec![
        secret.to_owned(),
        hex.to_uppercase(),
        hex,
        encoded(&unreserved, true),
        encoded(&unreserved, false),
        encoded(&unreserved, true).replace("%20", "+"),
        secret.replace('/', "\\/"),
    ];
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend_from_slice(secret.as_bytes());
        let text = BASE64.encode(&bytes);
        // What hangs together with neighbours is left out at both ends.
        let (from, to) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
        let part = text[from..to].to_owned();
        forms.push(part.replace('+', "-").replace('/', "_"));
        forms.push(part);
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Which of the texts are in files below the folders, `file: text` each.
fn search(forms: &[String], folders: &[&Path]) -> Vec<String> {
    let list = std::env::temp_dir().join(format!("tancho-forms-{}", uuid::Uuid::new_v4()));
    fs::write(&list, forms.join("\n")).unwrap();
    let mut grep = Command::new("grep");
    grep.args(["-r", "-o", "-a", "-F", "-s", "-f"]).arg(&list);
    // The keys are what opens the rest; a mail without a server is the message itself, for its owner's eyes.
    grep.args(["--exclude=seal.keys", "--exclude-dir=mail"]);
    let found = grep.env("LC_ALL", "C").args(folders).output().unwrap();
    fs::remove_file(&list).unwrap();
    let mut found: Vec<String> = String::from_utf8_lossy(&found.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_search_for_canaries_knows_their_forms() {
    let folder = std::env::temp_dir().join(format!("tancho-search-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&folder).unwrap();
    let secret = "c4n/ary+9 b5&2e1";
    for (at, text) in [
        format!("value={secret};"),
        "hex 0063346e2f6172792b3920623526326531ff".to_owned(),
        "HEX 63346E2F6172792B3920623526326531".to_owned(),
        "token=c4n%2Fary%2B9%20b5%262e1".to_owned(),
        "token=c4n%2Fary%2B9+b5%262e1&x".to_owned(),
        BASE64.encode(format!("u:{secret}")),
        BASE64.encode(format!("us:{secret}zz")),
        BASE64.encode(format!("use:{secret}z")),
        BASE64.encode(secret),
    ]
    .iter()
    .enumerate()
    {
        let file = folder.join(format!("file-{at}"));
        fs::write(&file, text).unwrap();
        assert_eq!(search(&forms(secret), &[&folder]).len(), 1, "{text} is not found");
        fs::remove_file(&file).unwrap();
    }
    fs::remove_dir_all(&folder).unwrap();
}

/// A service that gives a secret to whoever binds, and fails at everything else with the password that it got.
fn talkative(secret: &str, password: &str) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let variables = json!({ "STORE_SECRET": secret }).to_string();
    let complaint = format!("I was told {password}");
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

/// Canaries, each with the field that it was planted in.
struct Planted(Vec<(String, String)>);

impl Planted {
    /// A new one, with characters that each encoding changes.
    fn plant(&mut self, field: &str) -> String {
        let canary = format!(
            "c4n/{}+9 b5&2e1",
            &uuid::Uuid::new_v4().simple().to_string()[..12]
        );
        self.0.push((field.to_owned(), canary.clone()));
        canary
    }

    /// One that Tancho has made itself.
    fn note(&mut self, field: &str, secret: &str) {
        assert!(secret.len() >= 16, "{field}: {secret}");
        self.0.push((field.to_owned(), secret.to_owned()));
    }
}

/// The answers of Tancho that should hold no secret.
#[derive(Default)]
struct Answers(String);

impl Answers {
    async fn take(&mut self, what: &str, request: reqwest::RequestBuilder) -> (u16, String) {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        self.0.push_str(&format!("{what}: {status} {text}\n"));
        (status, text)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn canaries_in_every_field_are_nowhere_in_any_form() {
    let mut planted = Planted(Vec::new());
    let mut answers = Answers::default();
    let mut house = House::with(&[("TANCHO_LOG_FILTER", "debug")]).await;
    planted.note("the administrator's password", PASSWORD);
    planted.note("a session", &house.token);
    house.create_app("shop").await;
    plant_people(&house, &mut planted, &mut answers).await;
    plant_services(&house, &mut planted, &mut answers).await;
    plant_headers(&house, &mut planted, &mut answers).await;
    plant_forge(&house, &mut planted, &mut answers).await;
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

/// Passwords, tokens and keys of people.
async fn plant_people(house: &House, planted: &mut Planted, answers: &mut Answers) {
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
async fn plant_services(house: &House, planted: &mut Planted, answers: &mut Answers) {
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
    assert!(text.contains("I was told ***"), "{text}");
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
async fn plant_headers(house: &House, planted: &mut Planted, answers: &mut Answers) {
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
async fn plant_forge(house: &House, planted: &mut Planted, answers: &mut Answers) {
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
        let forge = house.read(path).await;
        (forge["problem"] != "").then_some(())
    })
    .await;
    answers.take("forge", house.by(Method::GET, path)).await;
}
