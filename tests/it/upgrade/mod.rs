//! A database whose schema numbers saga steps is migrated with unfinished sagas, and all of them end.

use std::path::Path;

use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool};

use crate::fairness::wait_until;
use crate::test_server::TestServer;

/// The last schema in which a saga's row had the number of its step.
const NUMBERED_STEPS: i64 = 140;

/// Kinds of sagas that the old schema did not have.
const NEWER_KINDS: [&str; 2] = ["webhook.deliver", "certificate.order"];

/// The steps of each kind in their numbered order, by their present names.
const STEPS: [(&str, &[&str]); 12] = [
    (
        "app.deploy",
        &[
            "build",
            "create-candidate",
            "wait-for-units",
            "promote",
            "wait-for-routers",
            "clean-up",
        ],
    ),
    (
        "app.rollback",
        &[
            "create-candidate",
            "wait-for-units",
            "promote",
            "wait-for-routers",
        ],
    ),
    (
        "app.rollout",
        &[
            "create-candidate",
            "wait-for-units",
            "promote",
            "wait-for-routers",
        ],
    ),
    ("app.scale", &["wait-for-units", "wait-for-routers"]),
    (
        "app.remove",
        &["unbind", "stop-units", "remove-files", "delete-app"],
    ),
    (
        "app.bind",
        &["call-service", "create-candidate", "wait-for-units", "promote"],
    ),
    (
        "app.unbind",
        &[
            "unbind-units",
            "call-service",
            "create-candidate",
            "wait-for-units",
            "promote",
        ],
    ),
    ("service-instance.create", &["call-service", "mark-ready"]),
    ("service-instance.update", &["call-service", "record-change"]),
    (
        "service-instance.delete",
        &[
            "unbind-apps",
            "create-candidate",
            "wait-for-units",
            "promote",
            "call-service",
            "delete-instance",
        ],
    ),
    ("forge.deploy", &["fetch", "deploy"]),
    ("mail.send", &["send"]),
];

/// Migrates an empty database to the old schema.
async fn make_old_schema(db: &PgPool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut old = Migrator::new(folder).await.unwrap();
    old.migrations.to_mut().retain(|m| m.version <= NUMBERED_STEPS);
    old.run(db).await.unwrap();
}

async fn run_sql(db: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(db)
        .await
        .unwrap();
}

async fn list_rows(db: &PgPool, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(db)
        .await
        .unwrap()
}

#[tokio::test]
async fn unfinished_saga_of_each_kind_ends_after_upgrade() {
    let tancho = TestServer::start_upgraded(async |db| {
        make_old_schema(db).await;
        run_sql(db, include_str!("sagas.sql")).await;
    })
    .await;
    let db = &tancho.running.core.db;
    let ended = "select kind || ' ' || step || ': ' || last_error from saga where ended_at is null";
    wait_until("every saga ends", async || list_rows(db, ended).await.is_empty()).await;
    let wrong = "select kind || ' ' || state || ': ' || error from saga
                 where state <> case when error = 'It did not start.' then 'undone' else 'done' end";
    assert_eq!(list_rows(db, wrong).await, [""; 0]);
    let open =
        "select target_value from event where ended_at is null union all select target_value from event_lock";
    assert_eq!(list_rows(db, open).await, [""; 0]);
    // Each has done its remaining steps.
    let promoted = "select name from app join release on release_id = current_release
                    where release.version = 2 and candidate_release is null order by name";
    assert_eq!(
        list_rows(db, promoted).await,
        ["binding", "deploying", "restarting", "returning", "unbinding"]
    );
    let discarded = "select name from app where name = 'abandoned' and candidate_release is null";
    assert_eq!(list_rows(db, discarded).await, ["abandoned"]);
    assert_eq!(
        list_rows(db, "select name from app where name = 'leaving'").await,
        [""; 0]
    );
    let instances = "select name || ' ' || state || ' ' || description from service_instance order by name";
    assert_eq!(
        list_rows(db, instances).await,
        ["changing ready new", "fresh ready old", "shared ready old"]
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn every_numbered_step_has_a_name_after_upgrade() {
    let tancho = TestServer::start_upgraded(async |db| {
        make_old_schema(db).await;
        for (kind, steps) in STEPS {
            // A finished saga is beyond its last step, an undone one before its first.
            for step in -1..=i64::try_from(steps.len()).unwrap() {
                let row = format!(
                    "insert into saga (saga_id, kind, lane, state, step, data, ended_at)
                     values (gen_random_uuid(), '{kind}', 'people', 'done', {step}, jsonb_build_object('was', {step}), now())"
                );
                run_sql(db, &row).await;
            }
        }
    })
    .await;
    let db = &tancho.running.core.db;
    let known = tancho::server::register_sagas(&tancho.running.core).list_kinds();
    // Kinds that are newer than the names of steps.
    let newer = known.iter().filter(|(kind, _)| NEWER_KINDS.contains(kind));
    assert_eq!(known.len() - newer.count(), STEPS.len());
    for (kind, steps) in STEPS {
        let first = steps.first().unwrap();
        let last = steps.last().unwrap();
        let named: Vec<&str> = [first].into_iter().chain(steps).chain([last]).copied().collect();
        let rows = format!("select step from saga where kind = '{kind}' order by (data ->> 'was')::integer");
        assert_eq!(list_rows(db, &rows).await, named, "{kind}");
        let (_, today) = known.iter().find(|(name, _)| *name == kind).unwrap();
        for step in steps {
            assert!(today.contains(step), "{kind} has no step {step}");
        }
    }
    tancho.running.drain_and_stop().await;
}
