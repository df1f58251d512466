//! What the saga engine promises to every kind: checkpoints are atomic, and a saga that a replica cannot
//! decode is left to others.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tancho::kernel::error::Error;
use tancho::sagas::{Saga, SagaRegistry, SagaRunner, SagaStep, StepContext, StepError};
use uuid::Uuid;

use crate::fairness::wait_until;
use crate::test_server::TestServer;

/// A saga of one step, whose first attempt fails during its checkpoint.
struct CountSaga;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CountStep;

impl SagaStep for CountStep {
    const ALL: &'static [Self] = &[Self];

    fn name(self) -> &'static str {
        "count"
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct CountData {
    count: u32,
    /// Whether the first attempt fails.
    fails: bool,
}

#[async_trait::async_trait]
impl Saga for CountSaga {
    const KIND: &'static str = "test.count";
    type Step = CountStep;
    type Data = CountData;

    async fn run_step(
        &self,
        _step: CountStep,
        data: &mut CountData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        ctx.checkpoint(data, async |_, data: &mut CountData| {
            data.count += 1;
            match data.fails && ctx.attempts() == 0 {
                true => Err(StepError::Retry {
                    why: Error::unavailable("not yet"),
                    after: Duration::from_millis(10),
                }),
                false => Ok(()),
            }
        })
        .await
    }

    async fn undo_step(
        &self,
        _step: CountStep,
        _data: &mut CountData,
        _ctx: &StepContext,
    ) -> Result<(), StepError> {
        Ok(())
    }
}

/// Makes a server run sagas of this kind, beside all others.
fn run_count_sagas(tancho: &TestServer) {
    let core = tancho.running.core.clone();
    let (db, notices, stop) = (core.db.clone(), core.notices.clone(), core.stop.clone());
    let registry = SagaRegistry::default().with_saga(CountSaga);
    SagaRunner::new(db, notices, registry, "test", core.replica, stop).start_workers(&core.tasks);
}

async fn insert_saga(tancho: &TestServer, step: &str, data: Value) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into saga (saga_id, kind, queue, step, data) values ($1, 'test.count', 'interactive', $2, $3)",
    )
    .bind(id)
    .bind(step)
    .bind(data)
    .execute(&tancho.running.core.db)
    .await
    .unwrap();
    id
}

/// Gives a saga a running event that locks an app.
async fn give_event(tancho: &TestServer, saga: Uuid, number: u8) {
    let sql = format!(
        "insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name)
             values (lpad('{number}', 24, '0'), 'app', 'app{number}', 'app.deploy', 'user', 'ana@example.com');
         insert into event_lock values ('app', 'app{number}', lpad('{number}', 24, '0'));
         update saga set event_id = lpad('{number}', 24, '0') where saga_id = '{saga}'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
}

async fn is_true(tancho: &TestServer, condition: &str) -> bool {
    let sql = format!("select {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap()
}

#[tokio::test]
async fn failed_checkpoint_changes_neither_row_nor_data() {
    let tancho = TestServer::start().await;
    for fails in [true, false] {
        insert_saga(&tancho, "count", json!({ "count": 0, "fails": fails })).await;
    }
    run_count_sagas(&tancho);
    let done = "(select count(*) from saga where kind = 'test.count' and state = 'done') = 2";
    wait_until("both sagas end", async || is_true(&tancho, done).await).await;
    let once = "(select bool_and(data ->> 'count' = '1') from saga where kind = 'test.count')";
    assert!(is_true(&tancho, once).await, "each was counted once");
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn saga_with_unknown_step_or_data_keeps_its_lock_until_a_replica_can_run_it() {
    let tancho = TestServer::start().await;
    let ana = tancho.create_user("ana").await;
    let later = insert_saga(&tancho, "later-step", json!({ "count": 0, "fails": false })).await;
    let wider = insert_saga(
        &tancho,
        "count",
        json!({ "count": 0, "fails": false, "added": 1 }),
    )
    .await;
    for (saga, number) in [(later, 1), (wider, 2)] {
        give_event(&tancho, saga, number).await;
    }
    let known = insert_saga(&tancho, "count", json!({ "count": 0, "fails": false })).await;
    run_count_sagas(&tancho);
    let left = "(select count(*) from saga where last_error like '%this version does not know%'
                 and state = 'forward' and attempts = 0 and ended_at is null and lease_until is null) = 2";
    wait_until("both are released", async || is_true(&tancho, left).await).await;
    let done = format!("(select state = 'done' from saga where saga_id = '{known}')");
    wait_until("a decodable saga continues", async || {
        is_true(&tancho, &done).await
    })
    .await;
    let locked = "(select count(*) from event_lock) = 2
                  and (select count(*) from event where ended_at is null and event_id like '0%') = 2";
    assert!(
        is_true(&tancho, locked).await,
        "the events keep running and hold their locks"
    );
    // What they are about is for administrators.
    let root = tancho.login_admin().await;
    for (user, is_told) in [(&root, true), (&ana, false)] {
        let (_, text) = tancho
            .send_json(user, reqwest::Method::GET, "/healers/leases", None)
            .await;
        assert_eq!(text.contains("later-step"), is_told, "{text}");
        assert_eq!(text.contains("added"), is_told, "{text}");
    }

    // Another replica can decode them.
    sqlx::query("update saga set step = 'count', data = data - 'added' where kind = 'test.count'")
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
    let newer = tancho.start_replica(|_| {}).await;
    run_count_sagas(&newer);
    let done = "(select bool_and(state = 'done') from saga where kind = 'test.count')
                and (select count(*) from event_lock) = 0";
    wait_until("the newer replica ends them", async || {
        is_true(&newer, done).await
    })
    .await;
    newer.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}
