//! The description of an app shows what was written before it was asked for, whatever was kept of it.

use serde_json::Value;

use super::AppFixture;
use crate::accounts::RequestBody;

/// Each changes something that the description shows.
const CHANGES: [&str; 23] = [
    "update app set description = 'another'",
    "insert into app_cname (app_id, cname) select app_id, 'www.shop.test' from app",
    "delete from app_cname",
    "insert into app_team (app_id, team) select app_id, 'blue' from app",
    "update team set name = 'green' where name = 'blue'",
    "delete from app_team where team = 'green'",
    "update app_process set units = units + 3 where process = 'worker'",
    "insert into process_plan (app_id, process, plan) select app_id, 'web', 'large' from app",
    "update process_plan set plan = 'small'",
    "delete from process_plan",
    "update unit set created_at = created_at - interval '1 hour'",
    "update release set routable = false",
    "update plan set memory_bytes = memory_bytes * 2 where name = 'small'",
    "insert into service_instance (instance_id, service_id, name, team_owner, state)
     select gen_random_uuid(), service_id, 'one', 'red', 'ready' from service;
     insert into bind (bind_id, instance_id, app_id, state)
     select gen_random_uuid(), instance_id, app_id, 'bound' from service_instance, app",
    "update service_instance set plan = 'huge'",
    "update service set name = 'records'",
    "delete from bind",
    "insert into volume (volume_id, name, pool, plan, team_owner, options)
     select gen_random_uuid(), 'data', pool, 'folder', 'red', '{}' from app;
     insert into volume_bind (volume_id, app_id, mount_point, read_only) select volume_id, app_id, '/data', false from volume, app",
    "delete from volume_bind",
    "insert into autoscale (app_id, side, process, rule)
     select app_id, 0, 'web', '{\"process\": \"web\", \"version\": 0, \"minUnits\": 1, \"maxUnits\": 3, \"behavior\": {}}' from app",
    "update autoscale set rule = jsonb_set(rule, '{maxUnits}', '4')",
    "update app set plan = 'large'",
    "update app set quota_limit = 77",
];

impl AppFixture {
    async fn run_sql(&self, sql: &str) {
        let db = &self.tancho.running.core.db;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
            .execute(db)
            .await
            .unwrap();
    }

    async fn read_both(&self) -> (Value, Value) {
        (self.info().await, self.read("/apps/shop").await)
    }
}

#[tokio::test]
async fn description_shows_every_change_at_once() {
    let app = AppFixture::start().await;
    app.deploy_ok("web: serve\nworker: work\n").await;
    app.tancho.create_team(&app.ana, "blue").await;
    let service = [
        ("id", "notes"),
        ("endpoint", "http://127.0.0.1:9"),
        ("password", "secret-123"),
        ("team", "red"),
    ];
    app.send("POST /1.0/services", RequestBody::Form(&service))
        .await
        .expect_status(201);
    for change in CHANGES {
        // The second read of each uses what the first one has kept.
        app.info().await;
        let (before, _) = app.read_both().await;
        app.run_sql(change).await;
        let (after, classic) = app.read_both().await;
        assert_ne!(before, after, "{change}");
        assert_eq!(after["description"], classic["description"], "{change}");
        assert_eq!(after, app.info().await, "{change}");
    }
    app.stop().await;
}

#[tokio::test]
async fn description_shows_what_was_committed_after_it_was_kept() {
    let app = AppFixture::start().await;
    let mut first = app.tancho.running.core.db.begin().await.unwrap();
    sqlx::query("update app set description = 'first'")
        .execute(&mut *first)
        .await
        .unwrap();
    // Another transaction begins later and is committed earlier.
    app.run_sql("insert into app_cname (app_id, cname) select app_id, 'www.shop.test' from app")
        .await;
    for _ in 0..2 {
        let info = app.info().await;
        assert_eq!(
            (&info["description"], &info["cname"][0]),
            (&"".into(), &"www.shop.test".into())
        );
    }
    first.commit().await.unwrap();
    assert_eq!(app.info().await["description"], "first");
    let mut second = app.tancho.running.core.db.begin().await.unwrap();
    sqlx::query("update app set description = 'second'")
        .execute(&mut *second)
        .await
        .unwrap();
    assert_eq!(app.info().await["description"], "first");
    second.rollback().await.unwrap();
    assert_eq!(app.info().await["description"], "first");
    app.stop().await;
}

#[tokio::test]
async fn description_is_not_shown_to_who_may_not_read_it_and_goes_with_the_app() {
    let app = AppFixture::start().await;
    app.info().await;
    app.info().await;
    let get = "GET /1.0/apps/shop";
    let of_bob = crate::accounts::send_request(&app.tancho, Some(&app.bob), get, RequestBody::None).await;
    of_bob.expect_status(403);
    app.change("DELETE /1.0/apps/shop", RequestBody::None).await;
    app.send(get, RequestBody::None).await.expect_status(404);
    app.create_app("shop").await;
    app.run_sql("update app set description = 'anew'").await;
    assert_eq!(app.info().await["description"], "anew");
    app.stop().await;
}
