//! Lists that cannot be read: 0.5.3 showed some of them as empty.

use reqwest::Method;

use crate::test_server::TestServer;

#[tokio::test]
async fn list_that_cannot_be_read_returns_an_error_instead_of_an_empty_list() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "red").await;
    for (path, table) in [
        ("/apps", "app"),
        ("/services", "service"),
        ("/services/instances", "service_instance"),
        ("/teams", "team"),
        ("/platforms", "platform"),
    ] {
        let rename = async |from: &str, to: &str| {
            let sql = sqlx::AssertSqlSafe(format!("alter table {from} rename to {to}"));
            sqlx::query(sql).execute(&tancho.running.core.db).await.unwrap();
        };
        assert_eq!(
            tancho.send_json(&ana, Method::GET, path, None).await.0,
            200,
            "{path}"
        );
        rename(table, "elsewhere").await;
        let (status, text) = tancho.send_json(&ana, Method::GET, path, None).await;
        rename("elsewhere", table).await;
        assert_eq!(status, 500, "{path}: {text}");
        assert!(!text.is_empty() && !text.contains("relation"), "{path}: {text}");
    }
    tancho.running.drain_and_stop().await;
}
