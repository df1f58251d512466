//! A running app.

use crate::recorded::fixture::Sender::Bob;
use crate::recorded::shapes::AnswerShape::{
    Any, App, Apps, Deployed, Deploys, Env, Event, Events, Following, Lines, LinesOrWords, Logs, NotDeployed,
    Team, Words,
};
use crate::recorded::{ReplayRow, row};

use super::{LOCK, UNLOCK};

/// A failed event and a cancelled one.
const ENDED: &str = "sql insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name,
        contexts, ended_at, outcome, error, cancel_asked_at, cancel_by, cancel_reason)
    values ('5f3e8a1b9c4d2e0001a7b3c2', 'app', 'shop', 'app.deploy', 'user', 'bob@example.com',
        '{team:web-team}', now(), 'failed', 'build failed', null, '', ''),
        ('5f3e8a1b9c4d2e0001a7b3c3', 'app', 'shop', 'app.deploy', 'user', 'bob@example.com',
        '{team:web-team}', now(), 'cancelled', 'canceled by user request', now(), 'ana@example.com', 'wrong branch')";

/// A running event that can be cancelled.
const CANCELABLE: &str = "sql delete from event where event_id = '5f3e8a1b9c4d2e0001a7b3c5';
    insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts, cancelable)
    values ('5f3e8a1b9c4d2e0001a7b3c5', 'app', 'blog', 'app.deploy', 'user', 'ana@example.com',
        '{team:web-team}', true)";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const RUNNING: &[ReplayRow] = &[
    row("app-info-rich", &[App]),
    row("app-info-simplified", &[App]),
    row("app-info-json", &[App]),
    row("metadata-get-app-rich", &[App]),
    row("team-info", &[Team]),
    // Logs.
    row("log", &[Logs]),
    row("log-by-argument-shorthand", &[Logs]),
    row("log-all-filters", &[Logs]),
    row("log-follow", &[Following]),
    row("log-no-date-no-source", &[Logs]),
    row("log-no-date", &[Logs]),
    row("log-source-not-escaped", &[Any]),
    row("log-unknown-app", &[Words]),
    // The environment.
    row("env-get", &[Env]),
    row("env-get-names", &[Env]),
    row("env-get-json", &[Env]),
    row("env-get-unknown-app", &[Words]),
    row("env-get-forbidden", &[Words]).sent_by(Bob),
    row("env-set-one", &[Lines]),
    row("env-set-several", &[Lines]),
    row("env-set-private", &[Lines]),
    row("env-set-private-hint", &[Lines]),
    row("env-set-no-restart", &[Lines]),
    row("env-set-special", &[Lines]),
    row("env-set-protected", &[Words]),
    row("env-set-locked", &[Words]).after(&[LOCK]),
    row("env-unset", &[Lines]).after(&[UNLOCK]),
    row("env-unset-no-restart", &[Lines])
        .after(&["POST /1.0/apps/shop/env Envs.0.Name=GREETING&Envs.0.Value=x&NoRestart=true"]),
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
    row("unit-set-process-version", &[App, Words])
        .answering(400, "one version runs at a time, the third here"),
    row("unit-add-quota", &[LinesOrWords])
        .answering(403, super::EARLY)
        .after(&["sql update app set quota_limit = 10 where name = 'shop'"]),
    row("unit-add-unknown-app", &[Words]),
    row("unit-add-locked", &[Words]).after(&[LOCK]),
    row("app-restart-locked", &[Words]),
    row("deploy-locked", &[App, Words]),
    row("unit-kill-app", &[Any]).after(&[UNLOCK]),
    row("unit-kill-app-force", &[Any]),
    row("unit-kill-unknown", &[Words]),
    // Commands and shells in units.
    row("run", &[Lines]),
    row("run-quoted", &[Lines]),
    row("run-once", &[Lines]),
    row("run-isolated", &[Lines]),
    row("run-failing", &[LinesOrWords]),
    row("run-json-output-split", &[Lines]),
    row("shell", &[App, Any]),
    row("shell-unit", &[App, Any]),
    row("shell-isolated-debug-term", &[App, Any]),
    row("shell-unknown-app", &[Words]),
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
    row("run-no-units", &[LinesOrWords]).answering(409, super::CONFLICT),
    row("app-start", &[Lines]),
    // Deploys.
    row("deploy-list", &[Deploys]),
    row("deploy-list-json", &[Deploys]),
    row("deploy-list-unknown-app", &[Words]),
    row("rollback-update-missing-image", &[Words]),
    row("rollback-update-disable", &[Any]),
    row("rollback-update-enable", &[Any]),
    row("rollback", &[Lines]),
    row("rollback-override", &[Lines]),
    row("rollback-shorthand-new-version", &[Lines]),
    row("rollback-unknown-version", &[LinesOrWords]).answering(404, super::EARLY),
    row("deploy-directory", &[App, Deployed]),
    row("app-version-remove", &[Lines]),
    row("deploy-both-version-flags", &[App, Words]).answering(400, "both flags are a mistake of the caller"),
    row("deploy-shorthand-subdirectory", &[App, Deployed]),
    row("deploy-tsuruignore", &[App, Deployed]),
    row("deploy-tsuruignore-in-subdirectory", &[App, Deployed]),
    row("deploy-files", &[App, Deployed]),
    row("deploy-files-nested", &[App, NotDeployed]),
    row("deploy-files-only", &[App, Deployed]),
    row("deploy-symlink", &[App, Deployed]),
    row("deploy-message", &[App, Deployed]),
    row("deploy-new-version", &[App, Deployed]),
    row("deploy-override-old-versions", &[App, Deployed]),
    row("app-build", &[App, Deployed]),
    row("app-build-files-only", &[App, Deployed]),
    row("deploy-failed-in-stream", &[App, NotDeployed]).after(&["sql update app set platform = 'go'"]),
    row("app-build-failed", &[App, NotDeployed]),
    row("deploy-forbidden", &[App, Words]).sent_by(Bob).after(&[
        "sql update app set platform = 'procfile'",
        "POST /1.0/roles name=reader&context=team",
        "POST /1.0/roles/reader/permissions permission=app.read",
        "POST /1.0/roles/reader/user email=bob%40example.com&context=web-team",
    ]),
    row("shell-refused", &[App, Any]).sent_by(Bob),
    row("shell-handshake-refused", &[App, Any])
        .sent_by(Bob)
        .answering(
            101,
            "the refusal is sent over the WebSocket, where the client shows it",
        ),
    // Events.
    row("event-list", &[Events]),
    row("event-list-json", &[Events]),
    row("event-list-filters", &[Events]).after(&[LOCK]),
    row("event-info", &[Event]),
    row("event-info-plain-log", &[Event]),
    row("event-info-json", &[Event]),
    row("event-info-failed", &[Event]).after(&[ENDED]),
    row("event-info-canceled", &[Event]),
    row("event-info-unknown", &[Words]),
    row("event-info-bad-id", &[Words]),
    row("event-cancel", &[Any]).after(&[CANCELABLE]),
    row("event-cancel-again", &[Words]).answering(409, super::CONFLICT),
    row("event-cancel-asked-yes", &[Any]).after(&[CANCELABLE]),
    row("event-cancel-not-cancelable", &[Words]).after(&[
        CANCELABLE,
        "sql update event set cancelable = false where event_id = '5f3e8a1b9c4d2e0001a7b3c5'",
    ]),
    row("app-list-filter-all", &[Apps]).after(&[UNLOCK, "sql update app set platform = 'python'"]),
];
