//! The start of a saga: its row is part of the caller's transaction, and it runs once that commits. Its host follows
//! from its data then, and again when what it needs is moved.

use sqlx::PgConnection;

use crate::db::{self, Db, notices::NoticeChannel};
use crate::events::{self, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::ids::{EventId, SagaId};
use crate::kernel::request_context::RequestContext;
use crate::sagas::steps::decode_data;
use crate::sagas::store::{self, NewSagaRow};
use crate::sagas::{Saga, SagaStep};

/// Begins an event and the saga that ends it, in one transaction. `prepare` writes what belongs to both,
/// under the event's locks, and returns the data of the saga.
pub async fn start_saga<S: Saga>(
    db: &Db,
    request: &RequestContext,
    event: &NewEvent,
    prepare: impl AsyncFnOnce(&mut PgConnection, &EventId) -> Result<S::Data, Error>,
) -> Result<EventId, Error> {
    let mut tx = db.begin().await?;
    let event = events::begin_event(&mut tx, request, event).await?;
    let data = prepare(&mut tx, &event).await?;
    enqueue_saga::<S>(&mut tx, Some(&event), &data).await?;
    tx.commit().await?;
    Ok(event)
}

/// Inserts a saga in the caller's transaction, with the event that it ends, if it has one. Queue and host
/// follow from the kind and its data. Workers are shared by the user of the event; without an event, by the
/// owner of the app, or else by the key that the saga gives.
pub async fn enqueue_saga<S: Saga>(
    tx: &mut PgConnection,
    event: Option<&EventId>,
    data: &S::Data,
) -> Result<SagaId, Error> {
    let share_key = match (event, S::app(data)) {
        (Some(event), _) => store::find_event_share_key(tx, event).await?,
        (None, Some(app)) => store::find_app_share_key(tx, app).await?,
        (None, None) => S::share_key(data).map(str::to_owned),
    };
    let first = S::Step::ALL
        .first()
        .ok_or_else(|| Error::internal("a saga without steps"))?;
    let (id, queue) = (SagaId::new(), S::queue(data));
    let row = NewSagaRow {
        id,
        kind: S::KIND,
        queue,
        step: first.name(),
        event,
        host: S::host(data),
        share_key: &share_key.unwrap_or_else(|| format!("kind/{}", S::KIND)),
        data: &serde_json::to_value(data).map_err(Error::internal)?,
    };
    store::insert_saga(tx, &row).await?;
    db::send_notice(tx, NoticeChannel::Saga, queue.as_str()).await?;
    Ok(id)
}

/// Changes the data of a saga that has not ended because what it needs lies elsewhere now, and binds it to the host that
/// follows from the new data. For whoever holds what is moved, while nobody runs the saga. False: it has ended.
pub async fn move_saga<S: Saga>(
    tx: &mut PgConnection,
    id: SagaId,
    change: impl FnOnce(&mut S::Data),
) -> Result<bool, Error> {
    let Some(row) = store::lock_data(tx, id).await? else {
        return Ok(false);
    };
    let mut data: S::Data = decode_data(&row).map_err(Error::internal)?;
    change(&mut data);
    let value = serde_json::to_value(&data).map_err(Error::internal)?;
    store::save_data(tx, id, &value).await?;
    store::set_saga_host(tx, id, S::host(&data)).await?;
    db::send_notice(tx, NoticeChannel::Saga, S::queue(&data).as_str()).await?;
    Ok(true)
}
