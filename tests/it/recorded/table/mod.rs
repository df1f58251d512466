//! Every recording: how it is replayed, or why not.

mod apps;
mod autoscale;
mod catalog;
mod certificates;
mod events;
mod jobs;
mod operator;
mod running;
mod services;
mod users;
mod volumes;

pub(super) use apps::APPS;
pub(super) use autoscale::AUTOSCALE;
pub(super) use catalog::CATALOG;
pub(super) use certificates::CERTIFICATES;
pub(super) use events::EVENTS;
pub(super) use jobs::JOBS;
pub(super) use operator::OPERATOR;
pub(super) use running::RUNNING;
pub(super) use services::SERVICES;
pub(super) use users::USERS;
pub(super) use volumes::VOLUMES;

use super::ReplayRow;

/// Returns all rows of all chapters.
pub(super) fn all() -> impl Iterator<Item = &'static ReplayRow> {
    let others = CERTIFICATES.iter().chain(VOLUMES).chain(AUTOSCALE);
    [USERS, APPS, RUNNING, SERVICES, OPERATOR, CATALOG, EVENTS, JOBS]
        .into_iter()
        .flatten()
        .chain(others)
}

/// A lock on `shop` held by another event.
const LOCK: &str = "sql insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
    values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{team:web-team}');
    insert into event_lock values ('app', 'shop', '5f3e8a1b9c4d2e0001a7b3d0')";
const UNLOCK: &str = "sql delete from event where event_id = '5f3e8a1b9c4d2e0001a7b3d0'";
const CONFLICT: &str = "409 as other conflicts here; users see the same text";
const EARLY: &str =
    "refused before the stream begins, with the message in the body: the client shows the same";

const NO_204: &str = "an empty list is returned as 200 []; the recording of that is replayed";
const BROKEN: &str = "an internal error: the same request is replayed with success";
const ALWAYS_SOME: &str = "this list is never empty: the binary has built-in entries";
const NO_IMAGES: &str = "the local provisioner runs no images and builds no Dockerfiles";
const ONE_ROUTER: &str = "every app has the built-in router and no other";
const NO_CLUSTERS: &str = "no provisioner of this server uses clusters";
const NO_ISSUERS: &str = "needs an authority: the tests of orders send the same requests";
const NO_RESET: &str = "passwords are not reset by mail yet";
const NO_PLANS: &str =
    "a service whose plans request fails counts as one without plans: those of 2012 respond with anything";
const UNITS_FAIL: &str = "needs units that never become ready; tests of units and releases cover it";

/// Recordings that are not replayed, and why.
pub(super) const NOT_REPLAYED: &[(&str, &str)] = &[
    ("app-list-no-content", NO_204),
    (
        "job-log-follow",
        "needs a follower that ends; the log of an app that is followed covers it",
    ),
    ("tag-list-no-content", NO_204),
    ("deploy-list-no-content", NO_204),
    ("log-no-content", NO_204),
    ("event-list-no-content", NO_204),
    ("event-block-list-no-content", NO_204),
    ("webhook-list-no-content", NO_204),
    ("service-list-no-content", NO_204),
    ("team-list-no-content", NO_204),
    ("token-list-no-content", NO_204),
    ("plan-list-no-content", NO_204),
    ("platform-list-no-content", NO_204),
    ("pool-list-no-content", NO_204),
    ("app-router-list-no-content", NO_204),
    ("cluster-list-no-content", NO_204),
    ("volume-list-no-content", NO_204),
    ("volume-plan-list-no-content", NO_204),
    ("provisioner-list-empty", NO_204),
    ("app-list-error", BROKEN),
    ("login-schemes-failed", BROKEN),
    ("logout-server-error", BROKEN),
    ("version-server-error", BROKEN),
    ("event-list-error", BROKEN),
    ("service-list-error", BROKEN),
    ("team-list-error", BROKEN),
    ("token-list-error", BROKEN),
    ("plan-list-error", BROKEN),
    ("platform-list-error", BROKEN),
    ("app-info-error-field", BROKEN),
    ("plan-list-empty", ALWAYS_SOME),
    ("platform-list-empty", ALWAYS_SOME),
    ("pool-list-empty", ALWAYS_SOME),
    ("router-list-empty", ALWAYS_SOME),
    ("app-router-list-empty", ALWAYS_SOME),
    ("role-list-empty", ALWAYS_SOME),
    ("user-list-empty", ALWAYS_SOME),
    ("env-get-empty", ALWAYS_SOME),
    ("env-get-null", ALWAYS_SOME),
    ("service-plan-list-empty", ALWAYS_SOME),
    ("pool-list-forbidden", "every user may read this list"),
    ("router-list-forbidden", "every user may read this list"),
    (
        "volume-list-forbidden",
        "every user may read this list, which has the volumes of their teams",
    ),
    ("certificate-list-no-router", ALWAYS_SOME),
    ("certificate-issuer-set", NO_ISSUERS),
    ("certificate-issuer-set-refused", NO_ISSUERS),
    ("certificate-issuer-unset", NO_ISSUERS),
    ("cluster-list", NO_CLUSTERS),
    ("cluster-list-json-filter", NO_CLUSTERS),
    ("cluster-update", NO_CLUSTERS),
    ("app-create-all-flags", ONE_ROUTER),
    ("app-update-all-flags", ONE_ROUTER),
    ("app-routes-rebuild-error", ONE_ROUTER),
    ("app-create-no-platform", NO_IMAGES),
    ("deploy-image", NO_IMAGES),
    ("deploy-image-all-flags", NO_IMAGES),
    ("deploy-image-override", NO_IMAGES),
    ("deploy-dockerfile-directory", NO_IMAGES),
    ("deploy-dockerfile-file", NO_IMAGES),
    ("deploy-dockerfile-other-context", NO_IMAGES),
    ("deploy-dockerfile-by-app-name", NO_IMAGES),
    ("deploy-keep-alive", NO_IMAGES),
    ("deploy-interrupted", NO_IMAGES),
    ("reset-password-ask", NO_RESET),
    ("reset-password-with-token", NO_RESET),
    ("reset-password-unknown", NO_RESET),
    ("service-info-plans-failing", NO_PLANS),
    ("app-restart-stream-error", UNITS_FAIL),
    ("app-update-stream-error", UNITS_FAIL),
];

/// Recorded responses that are empty or cut, or whose server was less strict, so that the shape of their row
/// rejects them.
pub(super) const BRIEF: &[&str] = &[
    "completion-app-name",
    "app-list-filter-status",
    // The files do not define how to run them.
    "deploy-files-nested",
];
