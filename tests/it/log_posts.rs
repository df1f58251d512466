//! Log lines that callers post, and followers of logs: which characters a line may have, how many lines a
//! call may have, and that the log of one app does not affect other users.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sqlx::Executor as _;
use tancho::config::ServerRole;
use tancho::kernel::ids::AppId;
use tancho::kernel::names::AppName;
use tancho::units::logs::{self, LogQuery, MAX_POSTED_LINES};

use crate::test_server::{TestServer, TestUser};

const LOG: &str = "/1.0/apps/shop/log";

/// Starts a server with `ana`, whose team has the apps `shop` and `bank`.
async fn with_apps(change: impl FnOnce(&mut tancho::config::Settings)) -> (TestServer, TestUser) {
    let tancho = TestServer::start_with(change).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    for name in ["shop", "bank"] {
        let new = json!({ "name": name, "platform": "python" });
        let (status, text) = tancho.send_json(&ana, Method::POST, "/apps", Some(new)).await;
        assert_eq!(status, 200, "{text}");
    }
    (tancho, ana)
}

async fn app_id(tancho: &TestServer, name: &str) -> AppId {
    let id: uuid::Uuid = sqlx::query_scalar("select app_id from app where name = $1")
        .bind(name)
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    AppId(id)
}

/// Returns the token that a program of the app has.
async fn token_of(tancho: &TestServer, ana: &TestUser) -> TestUser {
    let env = tancho
        .read_json(ana, "/1.0/apps/shop/env?env=TSURU_APP_TOKEN")
        .await;
    TestUser {
        email: String::new(),
        token: env[0]["value"].as_str().unwrap().to_owned(),
    }
}

async fn lines(tancho: &TestServer, ana: &TestUser) -> Vec<Value> {
    let log = tancho.read_json(ana, &format!("{LOG}?lines=5000")).await;
    log.as_array().unwrap().clone()
}

async fn post(tancho: &TestServer, by: &TestUser, path: &str, messages: &[String]) -> (u16, String) {
    tancho
        .send_json(by, Method::POST, path, Some(json!(messages)))
        .await
}

#[tokio::test]
async fn log_posts_over_the_line_limit_or_rate_limit_are_rejected() {
    let (tancho, ana) = with_apps(|_| {}).await;
    let app = token_of(&tancho, &ana).await;
    let some: Vec<String> = (0..MAX_POSTED_LINES).map(|n| n.to_string()).collect();
    let more = [some.clone(), vec!["one more".into()]].concat();
    for path in ["/apps/shop/log", LOG] {
        let (status, text) = post(&tancho, &app, path, &more).await;
        assert_eq!(status, 413, "{path}: {text}");
    }
    let (status, text) = post(&tancho, &app, LOG, &["x\n".repeat(MAX_POSTED_LINES + 1)]).await;
    assert_eq!(status, 413, "the lines of one message count: {text}");
    assert!(lines(&tancho, &ana).await.is_empty());
    let posts = join_all((0..8).map(|_| post(&tancho, &app, LOG, &some))).await;
    let statuses: Vec<u16> = posts.iter().map(|(status, _)| *status).collect();
    assert!(statuses.contains(&200) && statuses.contains(&429), "{posts:?}");
    let kept = statuses.iter().filter(|status| **status == 200).count() * MAX_POSTED_LINES;
    assert_eq!(
        lines(&tancho, &ana).await.len(),
        kept.min(5000),
        "a call is stored whole or not at all"
    );
    let (status, text) = post(&tancho, &ana, "/1.0/apps/bank/log", &some).await;
    assert_eq!(status, 200, "another app has its own rate: {text}");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn posted_log_lines_cannot_contain_control_characters_or_forge_sources() {
    // No reconciler runs: nobody has started the units of this test.
    let (tancho, ana) = with_apps(|settings| settings.roles = vec![ServerRole::Api]).await;
    let (shop, bank) = (app_id(&tancho, "shop").await, app_id(&tancho, "bank").await);
    for (app, unit) in [(shop, "shop-web-1"), (bank, "bank-web-1")] {
        let sql = format!(
            "insert into version (app_id, version, host) values ('{app}', 1, 'test');
             insert into release (app_id, version, env, user_env) values ('{app}', 1, '', '');
             insert into unit (unit_id, app_id, release_id, process, version, host)
                 select '{unit}', '{app}', max(release_id), 'web', 1, 'elsewhere' from release where app_id = '{app}'"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
            .execute(&tancho.running.core.db)
            .await
            .unwrap();
    }
    let app = token_of(&tancho, &ana).await;
    for by in [&app, &ana] {
        for query in [
            "source=tsuru",
            "source=TSURU",
            "source=%20tsuru",
            "source=a%1b[2Jb",
            "unit=bank-web-1",
            "unit=none",
        ] {
            for path in ["/apps/shop/log", LOG] {
                let (status, text) = post(&tancho, by, &format!("{path}?{query}"), &["forged".into()]).await;
                assert_eq!(status, 400, "{path} {query}: {text}");
            }
        }
    }
    let hostile = "a\u{1b}[2J\u{7}\u{202e}b\rc\u{2028}d\ttab".to_owned();
    let long = "ü".repeat(20_000);
    let path = format!("{LOG}?source=cron&unit=shop-web-1");
    let (status, text) = post(
        &tancho,
        &app,
        &path,
        &[hostile, "one\ntwo\r\n".into(), long, String::new()],
    )
    .await;
    assert_eq!(status, 200, "{text}");
    let kept = lines(&tancho, &ana).await;
    let messages: Vec<&str> = kept
        .iter()
        .map(|line| line["Message"].as_str().unwrap())
        .collect();
    assert_eq!(messages.len(), 4, "{messages:?}");
    assert_eq!(
        messages[0],
        "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}d\ttab"
    );
    assert_eq!(messages[1..3], ["one", "two"]);
    assert!(
        messages[3].ends_with("ü…") && messages[3].len() <= 16 * 1024,
        "a cut is marked"
    );
    assert!(
        kept.iter()
            .all(|line| line["Source"] == "cron" && line["Unit"] == "shop-web-1")
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn waiting_log_posts_hold_no_database_connection() {
    let (tancho, ana) =
        with_apps(|settings| settings.database.acquire_timeout = Duration::from_secs(2)).await;
    let app = token_of(&tancho, &ana).await;
    let id = app_id(&tancho, "shop").await;
    // While another connection writes to the log, all writers have to wait.
    let options = tancho.running.core.db.connect_options();
    let mut other = sqlx::ConnectOptions::connect(&*options).await.unwrap();
    let lock = format!("select pg_advisory_lock(hashtextextended('tancho.log.{id}', 0))");
    other.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    let posts = join_all((0..14).map(|n| {
        let (tancho, app) = (&tancho, &app);
        async move { post(tancho, app, LOG, &[format!("line {n}")]).await.0 }
    }));
    let reads = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let began = Instant::now();
            let (status, text) = tancho.send_json(&ana, Method::GET, "/1.0/apps/bank", None).await;
            assert_eq!(status, 200, "{text}");
            slowest = slowest.max(began.elapsed());
        }
        other.execute("select pg_advisory_unlock_all()").await.unwrap();
        slowest
    };
    let (statuses, slowest) = tokio::join!(posts, reads);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert_eq!(statuses, [200; 14], "each is served");
    assert_eq!(lines(&tancho, &ana).await.len(), 14);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn log_post_rate_limit_affects_only_the_posting_app() {
    let (tancho, ana) = with_apps(|_| {}).await;
    let app = token_of(&tancho, &ana).await;
    let line = ["x".to_owned()];
    let posts = join_all((0..100).map(|_| post(&tancho, &app, LOG, &line)));
    let others = join_all((0..10).map(|_| post(&tancho, &ana, "/1.0/apps/bank/log", &line)));
    let (posts, others) = tokio::join!(posts, others);
    let fits = |status: u16| status == 200 || status == 429;
    assert!(posts.iter().all(|(status, _)| fits(*status)), "{posts:?}");
    assert!(others.iter().all(|(status, _)| *status == 200), "{others:?}");
    tancho.running.drain_and_stop().await;
}

async fn follow(tancho: &TestServer, by: &TestUser) -> Response {
    let path = format!("{LOG}?lines=10&follow=1");
    tancho.request_as(by, Method::GET, &path).send().await.unwrap()
}

#[tokio::test]
async fn log_followers_per_user_are_limited() {
    let (tancho, ana) = with_apps(|settings| settings.api.max_connections = 60).await;
    let root = tancho.login_admin().await;
    let again = tancho.login(&ana.email).await;
    let mut open = Vec::new();
    let refused = loop {
        let by = if open.len() % 2 == 0 { &ana } else { &again };
        let answer = follow(&tancho, by).await;
        match answer.status().as_u16() {
            200 => open.push(answer),
            _ => break answer,
        }
        assert!(open.len() < 30, "there is no limit");
    };
    assert_eq!(refused.status(), 429);
    assert_eq!(
        open.len(),
        8,
        "a quarter of half the connections, over all sessions of a user"
    );
    assert_eq!(
        follow(&tancho, &root).await.status(),
        200,
        "another user is not limited"
    );
    let plain = tancho.read_json(&ana, &format!("{LOG}?lines=10")).await;
    assert_eq!(plain, json!([]), "a request without follow takes no slot");
    open.pop();
    let deadline = Instant::now() + Duration::from_secs(20);
    while follow(&tancho, &ana).await.status() != 200 {
        assert!(Instant::now() < deadline, "a released slot is not reused");
        tokio::task::yield_now().await;
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn many_log_followers_get_each_line_once_without_slowing_others() {
    let (tancho, ana) = with_apps(|_| {}).await;
    let core = &tancho.running.core;
    let id = app_id(&tancho, "shop").await;
    let query = |source: Option<&str>| LogQuery {
        lines: 10,
        source: source.map(str::to_owned),
        unit: None,
    };
    let mut followers: Vec<_> = (0..300)
        .map(|n| logs::follow_log(id, query((n % 2 == 0).then_some("cron"))))
        .collect();
    for follower in &mut followers {
        assert_eq!(follower.next(core).await.unwrap().unwrap().len(), 0);
    }
    let hears = |follower: logs::LogFollower, count: usize| async move {
        let (mut follower, mut heard) = (follower, Vec::new());
        while heard.len() < count {
            let lines = tokio::time::timeout(Duration::from_secs(40), follower.next(core)).await;
            let lines = lines.expect("no line came").unwrap().unwrap();
            heard.extend(lines.into_iter().map(|line| line.message));
        }
        (follower, heard)
    };
    let writes = async {
        for n in 0..20 {
            for source in ["cron", "web"] {
                let path = format!("{LOG}?source={source}");
                let (status, text) = post(&tancho, &ana, &path, &[format!("{source} {n}")]).await;
                assert_eq!(status, 200, "{text}");
            }
        }
    };
    let all = followers
        .into_iter()
        .enumerate()
        .map(|(n, f)| hears(f, if n % 2 == 0 { 20 } else { 40 }));
    let (heard, ()) = tokio::join!(join_all(all), writes);
    let cron: Vec<String> = (0..20).map(|n| format!("cron {n}")).collect();
    for (n, (_, heard)) in heard.iter().enumerate() {
        match n % 2 {
            0 => assert_eq!(*heard, cron),
            _ => assert!(
                heard.len() == 40 && heard[0] == "cron 0" && heard[39] == "web 19",
                "{heard:?}"
            ),
        }
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn slow_log_follower_gets_all_lines_and_the_end_of_the_stream() {
    let (tancho, ana) = with_apps(|_| {}).await;
    let core = &tancho.running.core;
    let id = app_id(&tancho, "shop").await;
    let query = LogQuery {
        lines: 10,
        ..LogQuery::default()
    };
    let (mut late, mut quick) = (logs::follow_log(id, query.clone()), logs::follow_log(id, query));
    for follower in [&mut late, &mut quick] {
        follower.next(core).await.unwrap();
    }
    let mut heard = (Vec::new(), 0);
    for n in 0..100 {
        logs::append_platform_lines(core, id, "", &[format!("line {n}")])
            .await
            .unwrap();
        // The reader goes at the pace of the fast follower; the slow one begins after the first line.
        while heard.1 <= n {
            heard.1 += quick.next(core).await.unwrap().unwrap().len();
        }
        if n == 0 {
            heard.0.extend(late.next(core).await.unwrap().unwrap());
        }
    }
    while heard.0.len() < 100 {
        heard.0.extend(late.next(core).await.unwrap().unwrap());
    }
    let messages: Vec<&str> = heard.0.iter().map(|line| line.message.as_str()).collect();
    let expected: Vec<String> = (0..100).map(|n| format!("line {n}")).collect();
    assert_eq!(messages, expected);
    assert!(heard.0.iter().all(|line| line.source == logs::PLATFORM_SOURCE));
    let name = AppName::parse("shop").unwrap();
    let (status, text) = tancho
        .send_json(&ana, Method::DELETE, &format!("/apps/{name}"), None)
        .await;
    assert_eq!(status, 200, "{text}");
    let end = async {
        while let Some(lines) = late.next(core).await.unwrap() {
            assert!(!lines.is_empty());
        }
    };
    tokio::time::timeout(Duration::from_secs(30), end)
        .await
        .expect("the follower of a removed app is not notified");
    tancho.running.drain_and_stop().await;
}
