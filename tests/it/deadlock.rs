//! A transaction that Postgres ends because it waits for another one in a circle is run again: who asked for the
//! change gets it, and hears nothing of that.

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::house::House;

/// Deadlocks that Postgres has found in the database of a house.
async fn deadlocks(house: &House) -> i64 {
    let count = "select deadlocks from pg_stat_database where datname = current_database()";
    sqlx::query_scalar(count)
        .fetch_one(&house.running.core.db)
        .await
        .unwrap()
}

async fn run(conn: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::query(sql).execute(conn).await.map(drop)
}

/// Waits until somebody waits for a row of a table.
async fn until_waiting(house: &House, table: &str) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    let waiting = "select exists (select from pg_stat_activity
                                  where datname = current_database() and wait_event_type = 'Lock' and query like $1)";
    loop {
        let query = sqlx::query_scalar(waiting).bind(format!("update {table} %"));
        if query.fetch_one(&house.running.core.db).await.unwrap() {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for {table}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_loses_a_deadlock_is_made_all_the_same() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    let mut other = PgConnection::connect_with(&house.running.core.db.connect_options())
        .await
        .unwrap();
    // So that not this one is ended, but the server's, after a second.
    run(&mut other, "set deadlock_timeout = '60s'").await.unwrap();
    let before = deadlocks(&house).await;
    run(&mut other, "begin").await.unwrap();
    run(&mut other, "update team set name = name where name = 'red'")
        .await
        .unwrap();
    // The other way round than a creation, which counts for the user first.
    let body = json!({ "name": "shop", "platform": "go", "teamOwner": "red" });
    let creating = house.ask(&ana, Method::POST, "/apps", Some(body));
    let meeting = async {
        until_waiting(&house, "team").await;
        run(
            &mut other,
            "update user_account set email = email where email = 'ana@example.com'",
        )
        .await
        .unwrap();
        run(&mut other, "commit").await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(creating, meeting);
    assert_eq!(status, 200, "{text}");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while deadlocks(&house).await == before {
        assert!(tokio::time::Instant::now() < deadline, "there was no deadlock");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (status, text) = house.ask(&ana, Method::GET, "/apps/shop", None).await;
    assert_eq!(status, 200, "{text}");
    let (_, quota) = house
        .ask(&ana, Method::GET, "/1.0/users/ana@example.com/quota", None)
        .await;
    assert!(quota.contains("1"), "it counts once: {quota}");
}
