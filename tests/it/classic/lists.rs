//! Lists that cannot be read: 0.5.3 showed some of them as empty.

use reqwest::Method;

use crate::house::House;

#[tokio::test]
async fn a_list_that_cannot_be_read_is_a_failure_and_not_empty() {
    let house = House::start().await;
    let ana = house.person("ana").await;
    house.team(&ana, "red").await;
    for (path, table) in [
        ("/apps", "app"),
        ("/services", "service"),
        ("/services/instances", "service_instance"),
        ("/teams", "team"),
        ("/platforms", "platform"),
    ] {
        let rename = async |from: &str, to: &str| {
            let sql = sqlx::AssertSqlSafe(format!("alter table {from} rename to {to}"));
            sqlx::query(sql).execute(&house.running.core.db).await.unwrap();
        };
        assert_eq!(house.ask(&ana, Method::GET, path, None).await.0, 200, "{path}");
        rename(table, "elsewhere").await;
        let (status, text) = house.ask(&ana, Method::GET, path, None).await;
        rename("elsewhere", table).await;
        assert_eq!(status, 500, "{path}: {text}");
        assert!(!text.is_empty() && !text.contains("relation"), "{path}: {text}");
    }
    house.running.stop().await;
}
