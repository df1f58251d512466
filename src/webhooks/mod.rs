//! Webhooks: when an event ends, a request about it is sent to a server that a team has named.
//!
//! A webhook belongs to a team and ends with it. It has a filter for events, and a request: URL, method,
//! headers, and a body, which is a template or the event as JSON (`template`, `payload`). Each request is
//! signed with the secret of the webhook (`signature`), which is shown once.
//!
//! States of a delivery (`deliveries`): *waiting* → *sending* → *delivered* or *failed*; or *dropped*, if it was
//! never sent.
//!
//! Promises: there is one delivery for each webhook and each event that it matches, written in the transaction
//! that ends the event. It is attempted up to six times within about 15 minutes; the attempts are shown with
//! the event. A receiver may get a delivery twice, with the same id. A webhook is sent only what its team may
//! read, decided by ids, as for readers of events.
//!
//! URLs, headers, body and secret are stored encrypted, and are in no event, error or log. A private address is
//! called only where services may be at one. Each webhook has slots and a circuit breaker of its own
//! (`outbound`), and few open deliveries; workers are shared by the user who created it. So a receiver that
//! hangs delays only its own deliveries.

mod actions;
mod deliveries;
mod model;
pub mod modern;
mod payload;
mod signature;
mod store;
mod template;
mod url_check;
mod validation;

pub use deliveries::{DeliverWebhook, DeliveryAttempt, DeliveryReport, WebhookDispatcher, list_deliveries};
