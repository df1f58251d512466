//! A transaction that Postgres aborts because of a deadlock is retried; the caller does not notice.

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::test_server::TestServer;

/// Returns the number of deadlocks that Postgres has detected in the database of a server.
async fn deadlocks(tancho: &TestServer) -> i64 {
    let count = "select deadlocks from pg_stat_database where datname = current_database()";
    sqlx::query_scalar(count)
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap()
}

async fn run(conn: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::query(sql).execute(conn).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn app_creation_aborted_by_a_deadlock_is_retried() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    let mut other = PgConnection::connect_with(&tancho.running.core.db.connect_options())
        .await
        .unwrap();
    // So that Postgres aborts the server's transaction after a second, and not this one.
    run(&mut other, "set deadlock_timeout = '60s'").await.unwrap();
    let before = deadlocks(&tancho).await;
    run(&mut other, "begin").await.unwrap();
    run(&mut other, "update team set name = name where name = 'red'")
        .await
        .unwrap();
    // Locks in the reverse order of a creation, which counts for the user first.
    let body = json!({ "name": "shop", "platform": "go", "teamOwner": "red" });
    let creating = tancho.send_json(&ana, Method::POST, "/apps", Some(body));
    let meeting = async {
        tancho.wait_for_blocked_query("select team_id from team %").await;
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
    while deadlocks(&tancho).await == before {
        assert!(tokio::time::Instant::now() < deadline, "there was no deadlock");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let (status, text) = tancho.send_json(&ana, Method::GET, "/apps/shop", None).await;
    assert_eq!(status, 200, "{text}");
    let (_, quota) = tancho
        .send_json(&ana, Method::GET, "/1.0/users/ana@example.com/quota", None)
        .await;
    assert!(quota.contains("1"), "it counts once: {quota}");
}
