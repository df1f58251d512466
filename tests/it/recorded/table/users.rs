//! Sessions, users, teams, roles.

use crate::recorded::fixture::Sender::{Bob, Former, Root};
use crate::recorded::shapes::AnswerShape::{
    Any, Key, Nothing, Permissions, Plans, Platforms, Pools, Quota, Role, Roles, Routers, Schemes, TeamToken,
    TeamTokens, Teams, Token, User, Users, Version, Words,
};
use crate::recorded::{ReplayRow, row};

const BEHIND_A_TOKEN: &str = "the version is shown after login only";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const USERS: &[ReplayRow] = &[
    row("login-email-argument", &[Schemes, Token]),
    row("login-email-asked", &[Schemes, Token]),
    row("login-scheme-flag", &[Schemes, Token]),
    row("login-scheme-unknown", &[Schemes]),
    row("login-no-password", &[Schemes]),
    row("login-wrong-password", &[Schemes, Words]),
    row("login-unknown-user", &[Schemes, Words]),
    row("version", &[Version]),
    row("version-without-token", &[Words]).answering(401, BEHIND_A_TOKEN),
    row("target-by-label-environment", &[Version]),
    row("target-by-url-environment", &[Version]),
    row("target-by-flag", &[Version]),
    row("session-expired-relogin", &[Words, Schemes, Token, Nothing]).sent_by(Former),
    row("session-expired-no-input", &[Words, Schemes]).sent_by(Former),
    row("token-in-environment", &[Nothing]),
    row("token-in-environment-refused", &[Words]).sent_by(Former),
    row("not-logged-in", &[Words, Schemes]),
    row("logout-not-logged-in", &[Words]),
    row("app-list-empty", &[Nothing]).sent_by(Bob),
    row("app-list-hidden-shorthand", &[Nothing]),
    row("tag-list-empty", &[Nothing]),
    row("service-list-empty", &[Nothing]),
    row("event-list-empty", &[Nothing]).sent_by(Bob).after(&[
        "sql alter table event disable trigger event_is_kept;
                  delete from event where target_value = 'bob@example.com';
                  alter table event enable trigger event_is_kept",
    ]),
    row("verbosity-flag-1", &[Teams]),
    row("verbosity-environment-2", &[Teams]),
    row("completion-team", &[Teams]),
    row("completion-pool", &[Pools]),
    row("completion-plan", &[Plans]),
    row("completion-platform", &[Platforms]),
    row("completion-router", &[Routers]),
    row("plan-list", &[Plans]),
    row("plan-list-bytes", &[Plans]),
    row("plan-list-kubernetes-friendly", &[Plans]),
    // Teams.
    row("team-list", &[Teams]),
    row("team-list-names", &[Teams]),
    row("team-list-empty", &[Nothing]).sent_by(Bob),
    row("team-info-unknown", &[Words]),
    row("team-quota-view", &[Quota]),
    row("team-quota-change", &[Any]).sent_by(Root),
    row("team-quota-change-unlimited", &[Any]).sent_by(Root),
    row("team-create", &[Any]).after(&["DELETE /1.0/teams/web-team"]),
    row("team-create-duplicate", &[Words]),
    row("team-create-tags", &[Any]).after(&["DELETE /1.0/teams/web-team"]),
    row("team-create-invalid", &[Words]),
    row("team-update-unknown", &[Words]),
    row("team-update-tags", &[Any]),
    row("team-update-name", &[Any]),
    row("team-remove", &[Any]).after(&[r#"PUT /1.6/teams/front-team {"newname":"web-team"}"#]),
    // Users.
    row("user-create", &[Any]).after(&[r#"ana POST /1.0/teams {"name":"web-team"}"#]),
    row("user-create-duplicate", &[Words]),
    row("user-create-invalid", &[Words]),
    row("user-info", &[User]),
    row("user-info-plain", &[User]).sent_by(Bob),
    row("user-list", &[Users]).sent_by(Root),
    row("user-list-by-email", &[Users]).sent_by(Root),
    row("user-list-by-role", &[Users]).sent_by(Root),
    row("user-list-forbidden", &[Users])
        .sent_by(Bob)
        .answering(200, "every user sees at least themselves"),
    row("user-remove-other", &[Any]).sent_by(Root),
    row("user-remove-unknown", &[Words]).sent_by(Root),
    row("user-quota-view-unlimited", &[Quota]),
    row("user-quota-view-unknown", &[Words]).sent_by(Root),
    row("user-quota-change", &[Any]).sent_by(Root),
    row("user-quota-view", &[Quota]),
    row("user-quota-change-unlimited", &[Any]).sent_by(Root),
    row("user-quota-change-too-low", &[Words]).sent_by(Root).after(&[
        "sql insert into app (app_id, name, label, platform, plan, pool, team_owner, owner)
             select gen_random_uuid(), name, name, 'python', 'default', 'local', 'web-team', 'ana@example.com'
             from unnest(array['one', 'two']) as name",
    ]),
    row("token-show", &[Key]),
    row("token-show-user", &[Key]).sent_by(Root),
    row("token-regenerate", &[Key]),
    row("token-regenerate-user", &[Key]).sent_by(Root),
    // Team tokens.
    row("token-list-empty", &[Nothing]),
    row("token-create", &[TeamToken]),
    row("token-create-duplicate", &[Words]),
    row("token-create-plain", &[TeamToken]),
    row("token-update", &[TeamToken]),
    row("token-update-no-expiry", &[TeamToken]),
    row("token-list", &[TeamTokens]),
    row("token-info", &[TeamToken]),
    row("token-info-unknown", &[Words]),
    row("token-delete-unknown", &[Words]),
    // Roles.
    row("permission-list", &[Permissions]),
    row("permission-list-tree", &[Permissions]),
    row("role-add", &[Any]).sent_by(Root),
    row("role-add-duplicate", &[Words]).sent_by(Root),
    row("role-add-description", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/roles/deployer"]),
    row("role-add-bad-context", &[Words]).sent_by(Root),
    row("role-list", &[Roles]).sent_by(Root),
    row("role-list-forbidden", &[Words]).sent_by(Bob),
    row("role-info", &[Role]).sent_by(Root),
    row("role-info-dynamic", &[Role]).sent_by(Root),
    row("role-info-unknown", &[Words]).sent_by(Root),
    row("role-permission-add", &[Any]).sent_by(Root),
    row("role-permission-add-invalid", &[Words]).sent_by(Root),
    row("role-permission-remove", &[Any]).sent_by(Root),
    row("role-permission-add-all", &[Any])
        .sent_by(Root)
        .after(&["POST /1.0/roles name=super&context=global"]),
    row("role-permission-remove-all", &[Any]).sent_by(Root),
    row("role-assign-forbidden", &[Words])
        .after(&["POST /1.0/roles/deployer/permissions permission=app.deploy"]),
    row("role-assign-user", &[Any]).sent_by(Root),
    row("role-remove-assigned", &[Words]).sent_by(Root),
    row("role-assign-token", &[Any]).sent_by(Root),
    row("role-assign-group", &[Any]).sent_by(Root),
    row("role-dissociate-token", &[Any]).sent_by(Root),
    row("token-delete", &[Any]).after(&["DELETE /1.9/roles/deployer/group/developers?context=web-team"]),
    row("role-dissociate-user", &[Any]).sent_by(Root),
    row("role-assign-user-global", &[Any]).sent_by(Root),
    row("role-update-description", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/roles/AllowAll/user/ana@example.com"]),
    row("role-update", &[Any]).sent_by(Root),
    row("role-remove", &[Any])
        .sent_by(Root)
        .after(&["POST /1.0/roles name=deployer&context=team"]),
    row("role-default-add", &[Any])
        .sent_by(Root)
        .after(&["POST /1.0/roles name=newcomer&context=global"]),
    row("role-default-list", &[Roles]).sent_by(Root),
    row("role-default-remove", &[Any]).sent_by(Root),
    // Recordings that end the session come last.
    row("change-password-wrong-old", &[Words]),
    row("change-password", &[Any]),
    row("user-remove-self", &[User, Any]).after(&["sql delete from app", "DELETE /1.0/teams/web-team"]),
    row("logout", &[Any]).sent_by(Bob),
];
