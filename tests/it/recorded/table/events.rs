//! Event blocks and webhooks.

use crate::recorded::fixture::Sender::{Bob, Root};
use crate::recorded::shapes::AnswerShape::{Any, EventBlocks, Nothing, Webhook, Webhooks, Words};
use crate::recorded::{ReplayRow, row};

/// The two blocks that the recordings list.
const BLOCKS: &str = "sql insert into event_block (block_id, started_at, ended_at, kind_name, owner_name, target_kind,
        target_value, conditions, reason)
    values ('5f3e8a1b9c4d2e0001a7b401', '2026-03-10T14:00:00Z', null, 'app.deploy', '', 'app', 'shop',
        '{\"pool\": \"local\"}', 'moving house'),
        ('5f3e8a1b9c4d2e0001a7b400', '2026-03-09T14:00:00Z', '2026-03-09T15:30:00Z', '', 'bob@example.com', '', '',
        '{}', 'holiday')";
const NO_BLOCKS: &str = "sql delete from event_block";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const EVENTS: &[ReplayRow] = &[
    row("event-block-list-empty", &[Nothing]).sent_by(Root),
    row("event-block-list", &[EventBlocks])
        .sent_by(Root)
        .after(&[BLOCKS]),
    row("event-block-list-active", &[EventBlocks]).sent_by(Root),
    row("event-block-remove", &[Any]).sent_by(Root),
    row("event-block-remove-unknown", &[Words]).sent_by(Root),
    row("event-block-add", &[Any]).sent_by(Root).after(&[NO_BLOCKS]),
    row("event-block-add-plain", &[Any]).sent_by(Root),
    row("webhook-list-empty", &[Nothing]),
    row("webhook-list-forbidden", &[Words]).sent_by(Bob),
    row("webhook-create", &[Any]).after(&[NO_BLOCKS]),
    row("webhook-create-all-flags", &[Any]),
    row("webhook-create-success-only", &[Any]),
    row("webhook-create-duplicate", &[Words]),
    row("webhook-list", &[Webhooks]),
    row("webhook-update", &[Webhook, Any]),
    row("webhook-update-clear", &[Webhook, Any]),
    row("webhook-update-unknown", &[Words]),
    row("webhook-delete", &[Any]),
    row("webhook-delete-unknown", &[Words]),
];
