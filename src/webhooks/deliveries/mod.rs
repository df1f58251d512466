//! Deliveries: what is to be sent to a webhook about an event, and the attempts to send it.
//!
//! A delivery is written by the database in the transaction that ends the event (migration 0270). The
//! dispatcher gives it to a saga when the webhook has fewer than its share of open deliveries; the saga attempts
//! to send it. It is deleted with its event.
//!
//! Promises: no delivery is lost, whatever process dies. An attempt whose result was not recorded, because the
//! process died, is made again. Every recorded attempt is shown with the event to users who may read events of
//! the webhook's team.

mod dispatcher;
mod model;
mod saga;
mod store;

use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::{EventId, WebhookId};
use crate::kernel::permission::{ContextKind, Permission};
use crate::kernel::request_context::RequestContext;

pub use dispatcher::WebhookDispatcher;
pub use model::{DeliveryAttempt, DeliveryReport};
pub use saga::DeliverWebhook;

/// Returns the deliveries of an event to the webhooks of teams whose webhooks' events the caller may read.
pub async fn list_deliveries(
    core: &Core,
    call: &RequestContext,
    event: &EventId,
) -> Result<Vec<DeliveryReport>, Error> {
    let teams = call.visible_scopes(Permission::WEBHOOK_READ_EVENTS, ContextKind::Team);
    Ok(store::list_deliveries(&core.db, event, teams.as_deref()).await?)
}

/// Deletes what is still to be sent to a webhook.
pub(super) async fn delete_open_deliveries(tx: &mut PgConnection, webhook: WebhookId) -> Result<(), Error> {
    Ok(store::delete_open_deliveries(tx, webhook).await?)
}
