//! Every record: how it is replayed, or why not.

mod apps;
mod people;
mod running;
mod services;

pub(super) use apps::APPS;
pub(super) use people::PEOPLE;
pub(super) use running::RUNNING;
pub(super) use services::SERVICES;

use super::Row;

/// All rows of all chapters.
pub(super) fn all() -> impl Iterator<Item = &'static Row> {
    [PEOPLE, APPS, RUNNING, SERVICES].into_iter().flatten()
}

/// Something else is at work on `shop`.
const LOCK: &str = "sql insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
    values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{team:web-team}');
    insert into event_lock values ('app', 'shop', '5f3e8a1b9c4d2e0001a7b3d0')";
const UNLOCK: &str = "sql delete from event where event_id = '5f3e8a1b9c4d2e0001a7b3d0'";
const CONFLICT: &str = "the world disagrees: 409 here; the text is what a user sees";
const EARLY: &str = "refused before the stream begins, with the words in the body: the client shows the same";

const NO_204: &str = "an empty list is answered 200 []; the record of that is replayed";
const BROKEN: &str = "a server in trouble: the same request is replayed where all is well";
const ALWAYS_SOME: &str = "this list is never empty: the binary brings some";
const NO_IMAGES: &str = "the local provisioner runs no images and builds no Dockerfiles";
const ONE_ROUTER: &str = "there is one router, and platforms of the binary have no versions";
const NO_QUOTA: &str = "quotas of apps are not offered yet";
const NO_PARTS: &str = "plans of single processes and changes to a plan are not offered yet";
const NO_RESET: &str = "passwords are not reset by mail yet";
const NO_PLANS: &str =
    "a service that refuses to tell its plans counts as one without: those of 2012 answer anything";
const NOT_YET: &str = "not offered yet";
const UNITS_FAIL: &str = "needs units that never get ready; the tests of units and releases have them";

/// Records that are not replayed, and why.
pub(super) const NOT_REPLAYED: &[(&str, &str)] = &[
    ("app-list-no-content", NO_204),
    ("tag-list-no-content", NO_204),
    ("deploy-list-no-content", NO_204),
    ("log-no-content", NO_204),
    ("event-list-no-content", NO_204),
    ("service-list-no-content", NO_204),
    ("team-list-no-content", NO_204),
    ("plan-list-no-content", NO_204),
    ("platform-list-no-content", NO_204),
    ("pool-list-no-content", NO_204),
    ("app-router-list-no-content", NO_204),
    ("app-list-error", BROKEN),
    ("login-schemes-failed", BROKEN),
    ("logout-server-error", BROKEN),
    ("version-server-error", BROKEN),
    ("event-list-error", BROKEN),
    ("service-list-error", BROKEN),
    ("team-list-error", BROKEN),
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
    ("pool-list-forbidden", "anybody may read this list"),
    ("router-list-forbidden", "anybody may read this list"),
    ("app-create-all-flags", ONE_ROUTER),
    ("app-update-all-flags", ONE_ROUTER),
    ("app-routes-rebuild", ONE_ROUTER),
    ("app-routes-rebuild-error", ONE_ROUTER),
    ("app-create-no-platform", NO_IMAGES),
    ("app-update-image-reset", NO_IMAGES),
    ("deploy-image", NO_IMAGES),
    ("deploy-image-all-flags", NO_IMAGES),
    ("deploy-image-override", NO_IMAGES),
    ("deploy-dockerfile-directory", NO_IMAGES),
    ("deploy-dockerfile-file", NO_IMAGES),
    ("deploy-dockerfile-other-context", NO_IMAGES),
    ("deploy-dockerfile-by-app-name", NO_IMAGES),
    ("deploy-keep-alive", NO_IMAGES),
    ("deploy-interrupted", NO_IMAGES),
    ("app-quota-view", NO_QUOTA),
    ("app-quota-view-json", NO_QUOTA),
    ("app-quota-view-unlimited", NO_QUOTA),
    ("app-quota-change", NO_QUOTA),
    ("app-quota-change-unlimited", NO_QUOTA),
    ("app-quota-change-forbidden", NO_QUOTA),
    ("app-process-update", NO_PARTS),
    ("app-process-update-default", NO_PARTS),
    ("app-update-override-reset", NO_PARTS),
    ("reset-password-ask", NO_RESET),
    ("reset-password-with-token", NO_RESET),
    ("reset-password-unknown", NO_RESET),
    ("service-info-plans-failing", NO_PLANS),
    ("app-version-remove", NOT_YET),
    ("rollback-update-disable", NOT_YET),
    ("rollback-update-enable", NOT_YET),
    ("rollback-update-missing-image", NOT_YET),
    ("app-restart-stream-error", UNITS_FAIL),
    ("app-update-stream-error", UNITS_FAIL),
    (
        "deploy-both-version-flags",
        "a deploy replaces the version that runs, whichever flag says so",
    ),
];

/// Recorded answers that are empty or cut short, or whose server was easier to please, so that the shape of
/// their row refuses them.
pub(super) const BRIEF: &[&str] = &[
    "completion-app-name",
    "app-list-filter-status",
    // Nothing in the files says how to run them.
    "deploy-files-nested",
];
