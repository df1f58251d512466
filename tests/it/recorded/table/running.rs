//! An app that runs.

use crate::recorded::shapes::Shape::{
    Any, App, Apps, Deployed, Deploys, Env, Event, Events, Lines, LinesOrWords, Logs, Nothing, Words,
};
use crate::recorded::stage::Who::Bob;
use crate::recorded::{Row, row};

use super::{LOCK, UNLOCK};

/// In an order in which each record finds what it needs.
pub(in crate::recorded) const RUNNING: &[Row] = &[
    row("app-info-rich", &[App]),
    row("app-info-simplified", &[App]),
    row("app-info-json", &[App]),
    // Logs.
    row("log", &[Logs]),
    row("log-by-argument-shorthand", &[Logs]),
    row("log-all-filters", &[Logs]),
    row("log-no-date-no-source", &[Logs]),
    row("log-no-date", &[Logs]),
    row("log-source-not-escaped", &[Any]),
    row("log-unknown-app", &[Words]),
    // The environment.
    row("env-get", &[Env]),
    row("env-get-names", &[Env]),
    row("env-get-json", &[Env]),
    row("env-get-unknown-app", &[Words]),
    row("env-get-forbidden", &[Words]).by(Bob).answering(404, super::UNSEEN),
    row("env-set-one", &[Lines]),
    row("env-set-several", &[Lines]),
    row("env-set-private", &[Lines]),
    row("env-set-private-hint", &[Lines]),
    row("env-set-no-restart", &[Lines]),
    row("env-set-special", &[Lines]),
    row("env-set-protected", &[Words]),
    row("env-set-locked", &[Words]).after(&[LOCK]),
    row("env-unset", &[Lines]).after(&[UNLOCK]),
    row("env-unset-no-restart", &[Lines]).after(&["POST /1.0/apps/shop/env Envs.0.Name=GREETING&Envs.0.Value=x&NoRestart=true"]),
    // Units.
    row("unit-set-same", &[App]),
    row("unit-set-process-missing", &[App]),
    row("unit-set-version-missing", &[App]),
    row("unit-add", &[Lines]),
    row("unit-add-process-version", &[Lines]),
    row("unit-remove", &[Lines]),
    row("unit-remove-process-version", &[Lines]),
    row("unit-set-more", &[App, Lines]),
    row("unit-set-fewer", &[App, Lines]),
    row("unit-set-process", &[App, Lines]),
    row("unit-add-quota", &[LinesOrWords]),
    row("unit-add-unknown-app", &[Words]),
    row("unit-add-locked", &[Words]).after(&[LOCK]),
    row("app-restart-locked", &[Words]),
    row("deploy-locked", &[App, Words]),
    row("unit-kill-app", &[Any]).after(&[UNLOCK]),
    row("unit-kill-app-force", &[Any]),
    row("unit-kill-unknown", &[Words]),
    // Restart, start, stop.
    row("app-restart", &[Lines]),
    row("app-restart-process-version", &[Lines]),
    row("app-restart-by-argument", &[Lines]),
    row("app-restart-hidden-shorthand", &[Lines]),
    row("app-restart-keep-alive", &[Lines]),
    row("app-restart-no-timestamp", &[Lines]),
    row("app-stop-process-version", &[Lines]),
    row("app-start-process-version", &[Lines]),
    row("app-stop", &[Lines]),
    row("app-start", &[Lines]),
    // Deploys.
    row("deploy-list", &[Deploys]),
    row("deploy-list-json", &[Deploys]),
    row("deploy-list-unknown-app", &[Words]),
    row("rollback", &[Lines]),
    row("rollback-override", &[Lines]),
    row("rollback-unknown-version", &[LinesOrWords]),
    row("deploy-directory", &[App, Deployed]),
    row("deploy-forbidden", &[Words]).by(Bob).answering(404, super::UNSEEN),
    row("event-list-empty", &[Nothing]).by(Bob),
    row("event-list", &[Events]),
    row("event-info", &[Event]),
    row("app-list-filter-all", &[Apps]),
];
