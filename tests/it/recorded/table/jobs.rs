//! Jobs, and what commands for apps do with jobs.

use crate::recorded::fixture::Sender::Bob;
use crate::recorded::shapes::AnswerShape::{Any, Env, Job, JobInfo, Jobs, Lines, Logs, Nothing, Words};
use crate::recorded::{ReplayRow, row};

use super::NO_IMAGES;

const NIGHTLY: &str = r#"-POST /1.13/jobs {"name":"nightly","schedule":"0 2 * * *","plan":"small","teamOwner":"web-team","platform":"procfile","tags":["x"]}"#;
const BY_HAND: &str = r#"-POST /1.13/jobs {"name":"by-hand","manual":true,"plan":"small","teamOwner":"web-team","platform":"procfile"}"#;
const NO_NIGHTLY: &str = "-DELETE /1.13/jobs/nightly";
/// A version that runs, with a line in the log.
const DEPLOYED: &str = "sql insert into version (app_id, version, host, state) select app_id, 1, 'elsewhere', 'ready' from app where kind = 'job' and name = 'nightly';
    insert into version_process (app_id, version, process, command) select app_id, 1, 'job', 'date' from app where kind = 'job' and name = 'nightly';
    insert into release (app_id, version, env, user_env)
    select app_id, 1, env, user_env from app, (select env, user_env from release limit 1) other where kind = 'job' and name = 'nightly';
    update app set current_release = (select release_id from release r where r.app_id = app.app_id) where kind = 'job' and name = 'nightly';
    insert into log_line (app_id, source, unit, message) select app_id, 'nightly', 'nightly-run-1', 'done' from app where kind = 'job' and name = 'nightly'";
const UNIT: &str = "sql insert into job_run (run_id, app_id, scheduled_at, due_at, origin, state, unit_id, host, version, started_at, launched)
    select gen_random_uuid(), app_id, now(), now(), 'trigger', 'started', 'nightly-1', 'elsewhere', 1, now(), true
    from app where kind = 'job' and name = 'nightly'";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const JOBS: &[ReplayRow] = &[
    row("job-list-empty", &[Nothing]),
    row("job-create", &[Any]),
    row("job-create-duplicate", &[Words]),
    row("job-create-bad-schedule", &[Words]),
    row("job-create-manual", &[Any]),
    row("job-create-all-flags", &[Words])
        .after(&[NO_NIGHTLY])
        .answering(400, NO_IMAGES),
    row("job-create-image-arguments", &[Words]).answering(400, NO_IMAGES),
    row("job-create-json-command", &[Words]).answering(400, NO_IMAGES),
    row("job-update-unknown", &[Words]),
    row("job-info-unknown", &[Words]),
    row("job-delete-unknown", &[Words]),
    row("job-trigger-unknown", &[Words]),
    row("job-deploy-unknown", &[Words]),
    row("job-info", &[JobInfo]).after(&[NIGHTLY, BY_HAND]),
    row("job-info-json", &[JobInfo]),
    row("job-info-manual-plain", &[JobInfo]),
    row("job-list", &[Jobs]),
    row("job-list-json", &[Jobs]),
    row("job-list-filters", &[Jobs]),
    row("job-list-names", &[Jobs]),
    row("completion-job", &[Jobs]),
    row("completion-job-flag", &[Jobs]),
    row("job-list-forbidden", &[Nothing])
        .sent_by(Bob)
        .answering(200, "without permission the list is empty"),
    row("env-set-job", &[Lines]),
    row("env-get-job", &[Env]),
    row("env-unset-job", &[Lines]),
    row("metadata-set-job", &[Job]),
    row("metadata-get-job", &[JobInfo]),
    row("metadata-unset-job", &[Job]),
    row("job-update-image-command", &[Words]).answering(400, NO_IMAGES),
    row("job-update-manual", &[Job]),
    row("job-deploy-image", &[Words]).answering(400, NO_IMAGES),
    row("job-deploy-failed", &[Words]).answering(400, NO_IMAGES),
    row("job-trigger", &[Any]).after(&[DEPLOYED]),
    row("job-log", &[Logs]),
    row("unit-kill-job", &[Any]).after(&[UNIT]),
    row("job-delete", &[Any])
        .after(&["sql update job_run set state = 'ended', ended_at = now() where state = 'started'"]),
    row("job-update", &[Job]).after(&[
        NIGHTLY,
        "-POST /1.0/plans name=large&memory=536870912&cpumilli=500",
    ]),
];
