//! Swapping two apps while both are asked: nothing is lost, and nobody ever sees half of it.

use std::time::Duration;

use axum::Router;
use reqwest::Method;
use serde_json::{Value, json};
use tancho::proxy::{Backends, Proxy, ProxySettings};
use tancho::units::routes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::house::{House, Person};

const HOSTS: [&str; 2] = ["shop.localhost", "blog.localhost"];
const SWAPS: usize = 21;

/// An app with one unit, on another host so that this one's reconciler leaves it alone, which says its name.
async fn app(house: &House, ana: &Person, name: &'static str) -> String {
    let body = json!({ "name": name, "platform": "go", "teamOwner": "red" });
    let (status, text) = house.ask(ana, Method::POST, "/apps", Some(body)).await;
    assert_eq!(status, 200, "{text}");
    let unit = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unit.local_addr().unwrap().to_string();
    let says = Router::new().fallback(async move || name);
    tokio::spawn(async move { axum::serve(unit, says).await });
    let sql = format!(
        r#"insert into version (app_id, version, host, state, processes)
               select app_id, 1, 'elsewhere', 'ready', '[{{"name":"web","command":"x"}}]' from app where name = '{name}';
           insert into release (app_id, version, env, user_env) select app_id, 1, '\x01', '\x01' from app where name = '{name}';
           update app set current_release = release_id from release
               where release.app_id = app.app_id and app.name = '{name}';
           insert into unit (unit_id, app_id, release_id, process, version, host, phase, address, ready)
               select '{name}-1', app_id, current_release, 'web', 1, 'elsewhere', 'serving', '{address}', true
               from app where name = '{name}';"#
    );
    let query = sqlx::raw_sql(sqlx::AssertSqlSafe(sql));
    query.execute(&house.running.core.db).await.unwrap();
    address
}

/// A proxy that follows the table of routes; its URL.
async fn proxy(house: &House) -> String {
    let core = house.running.core.clone();
    let proxy = Proxy::new(ProxySettings::default());
    let loaded = core.stop.child_token();
    let (db, notices) = (core.db.clone(), core.notices.clone());
    let follow = routes::follow(
        db,
        tancho::kernel::ids::ReplicaId::new(),
        notices,
        "localhost".into(),
        proxy.clone(),
        loaded,
        core.stop.clone(),
    );
    tokio::spawn(follow);
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", front.local_addr().unwrap());
    tokio::spawn(async move { proxy.serve(front, core.stop.clone()).await });
    url
}

/// What a host answers: the status and the text.
async fn visit(http: &reqwest::Client, url: &str, host: &str) -> (u16, String) {
    match http.get(url).header("host", host).send().await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(why) => (0, why.to_string()),
    }
}

/// Waits until the two hosts answer these.
async fn until_both(http: &reqwest::Client, url: &str, wanted: [&str; 2]) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let seen = [
            visit(http, url, HOSTS[0]).await.1,
            visit(http, url, HOSTS[1]).await.1,
        ];
        if seen == wanted {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swap_under_200_requests_a_second_loses_none_and_is_never_half_done() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    let units = [app(&house, &ana, "shop").await, app(&house, &ana, "blog").await];
    let url = proxy(&house).await;
    let http = house.http.clone();
    until_both(&http, &url, ["shop", "blog"]).await;
    let stop = tokio_util::sync::CancellationToken::new();

    // The load: on time, however long each takes.
    let load = tokio::spawn({
        let (http, url, stop) = (http.clone(), url.clone(), stop.clone());
        async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(5));
            let mut requests = JoinSet::new();
            for number in 0.. {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = stop.cancelled() => break,
                }
                let (http, url) = (http.clone(), url.clone());
                requests.spawn(async move { visit(&http, &url, HOSTS[number % 2]).await });
            }
            requests.join_all().await
        }
    });
    // Who reads the table of routes, as each router does, and who reads the list of apps.
    let tables = tokio::spawn({
        let (db, stop) = (house.running.core.db.clone(), stop.clone());
        async move {
            let mut seen = 0;
            while !stop.is_cancelled() {
                let table = routes::table(&db, "localhost").await.unwrap();
                let at = HOSTS.map(
                    |host| match &table.find(host).expect("each has an address").state {
                        Backends::Ready(at) => at.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        Backends::None { reason } => panic!("{host}: {reason}"),
                    },
                );
                let [one, two] = [[units[0].clone()], [units[1].clone()]];
                assert!(
                    at == [one.to_vec(), two.to_vec()] || at == [two.to_vec(), one.to_vec()],
                    "{at:?}"
                );
                seen += 1;
            }
            seen
        }
    });
    for swap in 1..=SWAPS {
        let (status, text) = house
            .ask(&ana, Method::PUT, "/swap?app1=shop&app2=blog", None)
            .await;
        assert_eq!(status, 200, "{text}");
        let wanted = if swap % 2 == 1 {
            ["blog", "shop"]
        } else {
            ["shop", "blog"]
        };
        until_both(&http, &url, wanted).await;
        let list = house.read(&ana, "/apps").await;
        let ips: Vec<&Value> = list.as_array().unwrap().iter().map(|app| &app["ip"]).collect();
        assert!(ips.len() == 2 && ips[0] != ips[1], "{list}");
    }
    stop.cancel();
    let answers = load.await.unwrap();
    let lost: Vec<_> = answers
        .iter()
        .filter(|(status, text)| *status != 200 || !["shop", "blog"].contains(&text.as_str()))
        .collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {:?}",
        lost.len(),
        answers.len(),
        &lost[..lost.len().min(5)]
    );
    assert!(answers.len() > 2 * SWAPS, "only {} requests", answers.len());
    assert!(tables.await.unwrap() > SWAPS, "the table was hardly read");
    house.running.stop().await;
}
