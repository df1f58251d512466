//! Services are notified of addresses, without a port: once for the first and once for the last of the units
//! that have one.

use super::*;

/// Creates the app shop, bound to my-db, with a release on another host, so that this host's reconciler
/// leaves its units alone.
async fn bound_app(flask: &ServiceProcess) -> (ServiceFixture, Uuid) {
    let fixture = ServiceFixture::new().await;
    let app = fixture.app("shop", "red").await;
    fixture.service("mysql", flask).await;
    let new = r#"{"name":"my-db","service_name":"mysql"}"#;
    fixture.request_ok("POST", "/services/instances", new).await;
    fixture
        .request_ok("PUT", "/services/instances/my-db/shop", "")
        .await;
    for statement in [
        "insert into version (app_id, version, host) values ($1, 1, 'elsewhere')",
        "insert into release (app_id, version, env, user_env) values ($1, 1, '', '')",
    ] {
        run(&fixture, statement, app).await;
    }
    (fixture, app)
}

async fn run(fixture: &ServiceFixture, statement: &str, app: Uuid) {
    let query = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).bind(app);
    query.execute(fixture.db()).await.unwrap();
}

async fn unit(fixture: &ServiceFixture, app: Uuid, id: &str, address: &str) {
    let statement = format!(
        "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
         select '{id}', $1, release_id, 'web', 1, 'elsewhere', 'serving', '{address}' from release"
    );
    run(fixture, &statement, app).await;
}

/// Returns the calls about units so far: verb and address.
async fn list_unit_calls(flask: &ServiceProcess) -> Vec<String> {
    let log = flask.get("/__log").await;
    let unit_calls = log.as_array().unwrap().iter().filter_map(|call| {
        let line = call["call"].as_str().unwrap();
        let (verb, path) = line.split_once(' ')?;
        let host = call["form"]["unit-host"][0].as_str()?;
        (path == "/resources/my-db/bind").then(|| format!("{verb} {host}"))
    });
    unit_calls.collect()
}

#[tokio::test]
async fn units_sharing_an_address_are_bound_with_the_first_and_unbound_with_the_last() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, app) = bound_app(&flask).await;
    unit(&fixture, app, "a", "10.0.0.1:4001").await;
    unit(&fixture, app, "b", "10.0.0.1:4002").await;
    unit(&fixture, app, "c", "[2001:db8::1:80]:4001").await;
    fixture.wait_for_rows("unit_bind where state = 'bound'", 2).await;
    unit(&fixture, app, "d", "10.0.0.1:4003").await;
    run(
        &fixture,
        "delete from unit where unit_id in ('a', 'b') and app_id = $1",
        app,
    )
    .await;
    // The other address is removed and added: by then the rest has been processed, too.
    run(
        &fixture,
        "delete from unit where unit_id = 'c' and app_id = $1",
        app,
    )
    .await;
    fixture.wait_for_rows("unit_bind", 1).await;
    unit(&fixture, app, "c", "[2001:db8::1:80]:5001").await;
    fixture.wait_for_rows("unit_bind where state = 'bound'", 2).await;
    let mut calls = list_unit_calls(&flask).await;
    calls[..2].sort();
    let v6 = "2001:db8::1:80";
    let expected = [
        "POST 10.0.0.1".to_owned(),
        format!("POST {v6}"),
        format!("DELETE {v6}"),
        format!("POST {v6}"),
    ];
    assert_eq!(calls, expected);
    run(&fixture, "delete from unit where app_id = $1", app).await;
    fixture.wait_for_rows("unit_bind", 0).await;
    let mut calls = list_unit_calls(&flask).await.split_off(4);
    calls.sort();
    assert_eq!(calls, ["DELETE 10.0.0.1".to_owned(), format!("DELETE {v6}")]);
    assert_eq!(flask.get("/__state").await["units"]["my-db"], json!([]));
    fixture.end().await;
}

/// The table as it was when services were notified of addresses with ports.
const OLD_TABLE: &str = "
    drop function address_host;
    alter table unit_bind drop constraint unit_bind_pkey;
    alter table unit_bind add column unit_id text not null default '';
    alter table unit_bind add constraint unit_bind_pkey primary key (bind_id, unit_id);
    insert into unit_bind (bind_id, unit_id, unit_host, state, attempts)
        select bind_id, n.unit_id, n.unit_host, n.state, n.attempts
        from bind cross join (values ('a', '10.0.0.1:4001', 'bound', 0), ('b', '10.0.0.1:4002', 'wanted', 3),
                                     ('x', '10.0.0.1:4001', 'bound', 0), ('c', '10.0.0.1:4003', 'wanted', 0))
                   as n (unit_id, unit_host, state, attempts);";

#[tokio::test]
async fn addresses_bound_with_a_port_are_unbound_before_the_plain_address_is_bound() {
    let flask = ServiceProcess::start("today.py");
    let (fixture, app) = bound_app(&flask).await;
    let mut tx = fixture.db().begin().await.unwrap();
    sqlx::raw_sql(OLD_TABLE).execute(&mut *tx).await.unwrap();
    sqlx::raw_sql(include_str!("../../../migrations/0136_unit_hosts.sql"))
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query(
        "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
         select 'a', $1, release_id, 'web', 1, 'elsewhere', 'serving', '10.0.0.1:4001' from release",
    )
    .bind(app)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    fixture
        .wait_for_rows("unit_bind where state = 'bound' and unit_host = '10.0.0.1'", 1)
        .await;
    fixture.wait_for_rows("unit_bind", 1).await;
    let mut calls = list_unit_calls(&flask).await;
    calls[..2].sort();
    // 4003 was never sent.
    assert_eq!(
        calls,
        ["DELETE 10.0.0.1:4001", "DELETE 10.0.0.1:4002", "POST 10.0.0.1"]
    );
    fixture.end().await;
}
