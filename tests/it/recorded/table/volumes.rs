//! Volumes, with the plans `disk` and `fast`.

use crate::recorded::shapes::AnswerShape::{Any, Lines, Nothing, Volume, VolumePlans, Volumes, Words};
use crate::recorded::{ReplayRow, row};

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const VOLUMES: &[ReplayRow] = &[
    row("volume-plan-list", &[VolumePlans]),
    row("volume-list-empty", &[Nothing]),
    row("volume-create", &[Any]),
    row("volume-create-duplicate", &[Words]),
    row("volume-create-all-flags", &[Words]).answering(
        400,
        "its plan has no option mode; options that mean nothing are refused",
    ),
    row("volume-bind", &[Lines]),
    row("volume-bind-again", &[Words]),
    row("volume-list", &[Volumes]),
    row("volume-list-json", &[Volumes]),
    row("volume-list-filters", &[Volumes]),
    row("volume-list-names", &[Volumes]),
    row("volume-info", &[Volume]),
    row("volume-info-json", &[Volume]),
    row("volume-info-unknown", &[Words]),
    row("volume-delete-bound", &[Words]),
    row("volume-unbind", &[Lines]),
    row("volume-bind-readonly-no-restart", &[Lines]),
    row("volume-unbind-no-restart", &[Lines]),
    row("volume-update", &[Any]),
    row("volume-delete", &[Any]),
];
