//! Migration of a database in which roles, events, quotas and addresses were not yet bound to ids.

use sqlx::{Connection, PgConnection, Row as _};

use crate::test_server::TestServer;

/// Returns the migrations in order, as number and SQL.
fn migrations() -> Vec<(u32, String)> {
    let folder = format!("{}/migrations", env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<(u32, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let number = name.split('_').next().unwrap().parse().unwrap();
            (number, std::fs::read_to_string(path).unwrap())
        })
        .collect();
    found.sort();
    found
}

async fn run(db: &mut PgConnection, text: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(text.to_owned()))
        .execute(db)
        .await
        .unwrap_or_else(|e| panic!("{e}: {text}"));
}

async fn pairs(db: &mut PgConnection, query: &'static str) -> Vec<(String, String)> {
    let rows = sqlx::query(query).fetch_all(db).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

const EARLIER: &str = "
    insert into user_account (user_id, email, password_hash, created_at, quota_in_use) values
        ('00000000-0000-0000-0000-00000000000a', 'ana@example.com', 'x', '2020-01-01', 5),
        ('00000000-0000-0000-0000-00000000000b', 'Ana@example.com', 'x', '2021-01-01', 0),
        ('00000000-0000-0000-0000-00000000000c', 'bob@example.com', 'x', '2022-01-01', 0);
    insert into team (name, created_at, quota_in_use) values ('red', '2020-01-01', 9), ('blue', '2023-01-01', 0);
    insert into app (app_id, name, label, platform, plan, pool, team_owner, owner, created_at) values
        ('00000000-0000-0000-0000-000000000001', 'shop', 'shop', 'python', 'default', 'local', 'red', 'ana@example.com', '2020-02-01'),
        ('00000000-0000-0000-0000-000000000002', 'old', 'old', 'python', 'default', 'local', 'red', 'bob@example.com', '2021-02-01');
    insert into role (name, context_kind) values
        ('on-app', 'app'), ('on-team', 'team'), ('on-user', 'user'), ('on-volume', 'volume');
    insert into user_role (user_id, role, context_value) values
        ('00000000-0000-0000-0000-00000000000a', 'AllowAll', ''),
        ('00000000-0000-0000-0000-00000000000a', 'AllowAll', 'whatever'),
        ('00000000-0000-0000-0000-00000000000c', 'on-app', 'shop'),
        ('00000000-0000-0000-0000-00000000000c', 'on-app', 'gone'),
        ('00000000-0000-0000-0000-00000000000c', 'on-team', 'red'),
        ('00000000-0000-0000-0000-00000000000c', 'on-user', 'Ana@example.com'),
        ('00000000-0000-0000-0000-00000000000c', 'on-volume', 'data');
    insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts, started_at, ended_at, outcome)
    values
        ('000000000000000000000001', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{app:shop,team:red}', '2020-03-01', '2020-03-01', 'done'),
        ('000000000000000000000002', 'team', 'blue', 'team.update', 'user', 'bob@example.com', '{team:blue}', '2021-03-01', '2021-03-01', 'done'),
        ('000000000000000000000003', 'team', 'gone', 'team.update', 'user', 'ana@example.com', '{team:gone}', '2021-03-01', '2021-03-01', 'done');";

#[tokio::test]
async fn migration_binds_old_roles_events_and_accounts_to_ids() {
    let tancho = TestServer::start().await;
    let options = tancho.running.core.db.connect_options();
    let mut db = PgConnection::connect_with(&options).await.unwrap();
    run(&mut db, "create schema earlier; set search_path = earlier").await;
    let (before, after): (Vec<_>, Vec<_>) = migrations().into_iter().partition(|(number, _)| *number < 105);
    for (_, text) in before {
        run(&mut db, &text).await;
    }
    run(&mut db, EARLIER).await;
    for (_, text) in after {
        run(&mut db, &text).await;
    }
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let roles = "select role, context_value from role_assignment order by 1, 2";
    assert_eq!(
        pairs(&mut db, roles).await,
        [
            pair("AllowAll", ""),
            pair("on-app", "shop"),
            pair("on-team", "red"),
            pair("on-user", "Ana@example.com"),
        ]
    );
    let readers = "select r.event_id, r.kind || ':' || o.name from event_reader r
                   left join context_object o using (object_id) order by 1, 2";
    assert_eq!(
        pairs(&mut db, readers).await,
        [
            pair("000000000000000000000001", "app:shop"),
            pair("000000000000000000000001", "owner:ana@example.com"),
            pair("000000000000000000000001", "team:red"),
            // The team and the user of that name are younger than the event.
            pair("000000000000000000000003", "owner:ana@example.com"),
        ]
    );
    let owners = "select name, coalesce(owner_id::text, '') from app order by name";
    assert_eq!(
        pairs(&mut db, owners).await,
        [
            pair("old", ""),
            pair("shop", "00000000-0000-0000-0000-00000000000a"),
        ]
    );
    let keys = "select email, coalesce(email_key, 'none') from user_account order by created_at";
    assert_eq!(
        pairs(&mut db, keys).await,
        [
            pair("ana@example.com", "ana@example.com"),
            pair("Ana@example.com", "none"),
            pair("bob@example.com", "bob@example.com"),
        ]
    );
    db.close().await.unwrap();
    tancho.running.drain_and_stop().await;
}
