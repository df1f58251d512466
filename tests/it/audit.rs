//! The audit trail: every changing route records an event, or gives a reason here; finished events cannot be
//! changed, not even by SQL; and events of removed resources stay readable.

use serde::Deserialize;
use serde_json::Value;
use sqlx::Row as _;

use crate::access_matrix::{AccessMatrix, read_rows};
use crate::catalog::platforms::{scripts_archive, with_parts};
use crate::test_server::TestServer;

/// A change, and the kind of the event that it records; see `tests/access/changes.jsonl`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AuditedChange {
    who: String,
    pub(crate) route: String,
    /// The path with its parameters filled in.
    path: String,
    sends: String,
    kind: String,
    /// Sends an archive of scripts as the platform of this name instead.
    #[serde(default)]
    platform: Option<String>,
}

#[tokio::test]
async fn every_changing_route_records_an_event() {
    let matrix = AccessMatrix::start().await;
    let mut wrong = Vec::new();
    for change in read_rows::<AuditedChange>("changes") {
        if let Err(what) = check_change(&matrix, &change).await {
            wrong.push(format!("{}: {what}", change.route));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    matrix.tancho.running.drain_and_stop().await;
}

async fn check_change(matrix: &AccessMatrix, change: &AuditedChange) -> Result<(), String> {
    let (method, _) = change.route.split_once(' ').unwrap();
    let id = uuid::Uuid::new_v4().simple().to_string();
    let tancho = &matrix.tancho;
    let mut request = tancho
        .request(method.parse().unwrap(), &change.path)
        .header("x-request-id", &id)
        .body(change.sends.clone());
    if let Some(name) = &change.platform {
        request = with_parts(request, Some(&scripts_archive("1")), &[("name", name)]);
    } else if !change.sends.starts_with('{') {
        request = request.header("content-type", "application/x-www-form-urlencoded");
    }
    let (mut owner, mut token_kind) = ("nobody".to_owned(), "none");
    if !change.who.is_empty() {
        let user = match matrix.users.get(change.who.as_str()) {
            Some(user) => user.clone(),
            None => tancho.create_user(&change.who).await,
        };
        request = request.header("authorization", format!("bearer {}", user.token));
        (owner, token_kind) = (user.email, "session");
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    if !status.is_success() {
        return Err(format!("{status} {text}"));
    }
    let found = sqlx::query(
        "select kind, owner_name, token_kind, source_ip, outcome, target_value, coalesce(start_data::text, '') as said
         from event where request_id = $1 order by started_at limit 1",
    )
    .bind(&id)
    .fetch_optional(&tancho.running.core.db)
    .await
    .unwrap()
    .ok_or_else(|| format!("{status}, but no event of request {id}"))?;
    let text = |column: &str| found.get::<Option<String>, _>(column).unwrap_or_default();
    let got = (
        text("kind"),
        text("owner_name"),
        text("token_kind"),
        text("source_ip"),
        text("outcome"),
    );
    let wanted = (
        change.kind.as_str(),
        owner.as_str(),
        token_kind,
        "127.0.0.1",
        "done",
    );
    if (
        got.0.as_str(),
        got.1.as_str(),
        got.2.as_str(),
        got.3.as_str(),
        got.4.as_str(),
    ) != wanted
    {
        return Err(format!("{got:?} for {wanted:?}"));
    }
    match text("target_value").is_empty() || text("said").contains("secret") {
        true => Err(format!("about {:?}: {}", text("target_value"), text("said"))),
        false => Ok(()),
    }
}

#[tokio::test]
async fn event_records_the_kind_of_token() {
    let matrix = AccessMatrix::start().await;
    let tancho = &matrix.tancho;
    let key = matrix.request_ok("ana", "POST /1.0/users/api-key", "").await;
    let mut ana = matrix.users["ana"].clone();
    ana.token = serde_json::from_str(&key).unwrap();
    tancho.create_team(&ana, "by-key").await;
    let events = tancho
        .read_json(&matrix.users["root"], "/1.1/events?target.type=team")
        .await;
    let kinds: Vec<(&str, &str)> = events
        .as_array()
        .unwrap()
        .iter()
        .map(|event| {
            (
                event["Target"]["Value"].as_str().unwrap(),
                event["TokenKind"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(kinds.contains(&("by-key", "api-key")), "{kinds:?}");
    assert!(kinds.contains(&("web-team", "session")), "{kinds:?}");
    matrix.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn finished_events_cannot_be_changed_or_deleted() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web-team").await;
    let db = &tancho.running.core.db;
    let line = "insert into event_line (event_id, message) select event_id, 'said' from event where kind = 'team.create'";
    sqlx::raw_sql(line).execute(db).await.unwrap();
    for sql in [
        "update event set owner_name = 'somebody@example.com' where kind = 'team.create'",
        "update event set ended_at = null, outcome = null where kind = 'team.create'",
        "delete from event where kind = 'team.create'",
        "delete from event",
        "truncate event cascade",
        "update event_line set message = 'said otherwise'",
        "delete from event_line",
        "truncate event_line",
    ] {
        let refused = sqlx::raw_sql(sql).execute(db).await.expect_err(sql);
        let code = refused
            .as_database_error()
            .and_then(|e| e.code().map(|c| c.into_owned()));
        assert_eq!(code.as_deref(), Some("23001"), "{sql}: {refused}");
    }
    // A running event can still get lines, end and be deleted.
    for sql in [
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
         values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com')",
        "insert into event_line (event_id, message) values ('5f3e8a1b9c4d2e0001a7b3d0', 'at work')",
        "update event set cancelable = true where event_id = '5f3e8a1b9c4d2e0001a7b3d0'",
        "delete from event where event_id = '5f3e8a1b9c4d2e0001a7b3d0'",
    ] {
        sqlx::raw_sql(sql).execute(db).await.expect(sql);
    }
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn events_remain_after_their_target_is_removed() {
    let matrix = AccessMatrix::start().await;
    let tancho = &matrix.tancho;
    matrix.request_ok("bob", "DELETE /1.0/apps/theirs", "").await;
    matrix.request_ok("bob", "DELETE /1.0/teams/other-team", "").await;
    matrix.request_ok("bob", "DELETE /1.0/users", "").await;
    let root = &matrix.users["root"];
    for (kind, name, made, removed) in [
        ("app", "theirs", "app.create", "app.delete"),
        ("team", "other-team", "team.create", "team.delete"),
        ("user", "bob@example.com", "user.create", "user.delete"),
    ] {
        let path = format!("/1.1/events?target.type={kind}&target.value={name}");
        let events: Value = tancho.read_json(root, &path).await;
        let events = events.as_array().unwrap();
        for wanted in [made, removed] {
            let event = events.iter().find(|event| event["Kind"]["Name"] == wanted);
            let event = event.unwrap_or_else(|| panic!("no {wanted} of {name}: {events:?}"));
            let id = event["UniqueID"].as_str().unwrap();
            let whole = tancho.read_json(root, &format!("/1.1/events/{id}")).await;
            assert_eq!(whole["Running"], false, "{whole}");
            if wanted == removed {
                assert_eq!(whole["Owner"]["Name"], "bob@example.com", "{whole}");
            }
        }
    }
    matrix.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn retention_deletes_only_expired_events() {
    let tancho = TestServer::start_with(|settings| settings.events.keep_days = 40).await;
    let ana = tancho.create_user("ana").await;
    tancho.create_team(&ana, "web-team").await;
    let db = &tancho.running.core.db;
    // More than one batch of expired events, and others that must stay: too young, running, or with
    // unfinished work.
    let rows = "
        insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, started_at, ended_at, outcome)
        select lpad(to_hex(n), 24, '0'), 'app', kind, 'app.create', 'user', 'ana@example.com', now() - age, now() - age, 'done'
        from (select n, 'old' as kind, interval '41 days' as age from generate_series(1, 1200) n
              union all values (2001, 'young', interval '39 days'), (2002, 'stuck', interval '90 days'),
                               (2003, 'given-up', interval '90 days')) rows;
        insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, started_at)
        values (lpad(to_hex(2004), 24, '0'), 'app', 'running', 'app.create', 'user', 'ana@example.com', now() - interval '90 days');
        insert into event_line (event_id, message) select event_id, 'said' from event where target_value in ('old', 'young');
        insert into saga (saga_id, kind, queue, step, event_id, data, state, ended_at, given_up_at)
        select gen_random_uuid(), 'of a test', 'interactive', 'first', event_id, '{}', 'stuck', now(),
               case target_value when 'given-up' then now() end
        from event where target_value in ('stuck', 'given-up')";
    sqlx::raw_sql(rows).execute(db).await.unwrap();
    // Nobody else can delete them, and the function deletes no younger ones.
    for sql in [
        "delete from event where target_value = 'old'",
        "select set_config('tancho.expiring', 'yes', false); delete from event where kind = 'team.create'",
        "select event_expire(29, 10)",
        "select event_expire(0, 10)",
    ] {
        let mut connection = db.acquire().await.unwrap();
        let refused = sqlx::raw_sql(sql).execute(&mut *connection).await.expect_err(sql);
        let code = refused
            .as_database_error()
            .and_then(|e| e.code().map(|c| c.into_owned()));
        assert_eq!(code.as_deref(), Some("23001"), "{sql}: {refused}");
        // The permission to delete ends with its connection.
        drop(connection.detach());
    }
    let mut said = String::new();
    for _ in 0..3 {
        said += &tancho
            .send_json(&ana, reqwest::Method::GET, "/healers/retention", None)
            .await
            .1;
    }
    assert!(said.contains("events that ended more than 40 days ago"), "{said}");
    let left: Vec<String> =
        sqlx::query_scalar("select target_value from event where kind = 'app.create' order by 1")
            .fetch_all(db)
            .await
            .unwrap();
    assert_eq!(left, ["running", "stuck", "young"]);
    let counts: (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from event_line), (select count(*) from saga where kind = 'of a test'),
                (select count(*) from event where kind = 'team.create')",
    )
    .fetch_one(db)
    .await
    .unwrap();
    assert_eq!(counts, (1, 1, 1));
    tancho.running.drain_and_stop().await;
}
