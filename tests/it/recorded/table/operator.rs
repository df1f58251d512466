//! What operators manage: pools and their constraints.

use crate::recorded::fixture::Sender::Root;
use crate::recorded::shapes::AnswerShape::{Any, Constraints, Nothing, Pool, Words};
use crate::recorded::{ReplayRow, row};

const NO_DOCKER: &str = "this server has no provisioner docker";
const NO_APPS: &[&str] = &["DELETE /1.0/apps/shop", "DELETE /1.0/apps/blog"];

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const OPERATOR: &[ReplayRow] = &[
    row("pool-constraint-set", &[Any]).sent_by(Root),
    row("pool-constraint-set-append", &[Any]).sent_by(Root),
    row("pool-constraint-set-denylist", &[Any]).sent_by(Root),
    row("pool-constraint-list", &[Constraints]).sent_by(Root),
    row("pool-constraint-set-no-values", &[Any]).sent_by(Root),
    row("pool-constraint-list-empty", &[Nothing])
        .sent_by(Root)
        .after(&["sql delete from pool_constraint"]),
    row("pool-update", &[Any]).sent_by(Root),
    row("pool-update-force-default", &[Any]).sent_by(Root),
    row("pool-update-labels", &[Pool, Any]).sent_by(Root),
    row("pool-update-unknown", &[Words]).sent_by(Root),
    row("pool-add-duplicate", &[Words]).sent_by(Root),
    row("pool-add-second-default", &[Words]).sent_by(Root),
    row("pool-remove-with-apps", &[Words]).sent_by(Root),
    row("pool-remove", &[Any]).sent_by(Root).after(NO_APPS),
    row("pool-add", &[Any]).sent_by(Root),
    row("pool-add-all-flags", &[Words])
        .sent_by(Root)
        .answering(400, NO_DOCKER),
];
