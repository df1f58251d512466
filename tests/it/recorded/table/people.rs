//! Sessions, users, teams, roles.

use crate::recorded::shapes::Shape::{
    Any, Key, Nothing, Permissions, Plans, Platforms, Pools, Quota, Role, Roles, Routers, Schemes, Teams,
    Token, User, Users, Version, Words,
};
use crate::recorded::stage::Who::{Bob, Former, Root};
use crate::recorded::{Row, row};

const BEHIND_A_TOKEN: &str = "the version is told to those who have logged in";

/// In an order in which each record finds what it needs.
pub(in crate::recorded) const PEOPLE: &[Row] = &[
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
    row("session-expired-relogin", &[Words, Schemes, Token, Nothing]).by(Former),
    row("session-expired-no-input", &[Words, Schemes]).by(Former),
    row("token-in-environment", &[Nothing]),
    row("token-in-environment-refused", &[Words]).by(Former),
    row("not-logged-in", &[Words, Schemes]),
    row("logout-not-logged-in", &[Words]),
    row("app-list-empty", &[Nothing]).by(Bob),
    row("app-list-hidden-shorthand", &[Nothing]),
    row("tag-list-empty", &[Nothing]),
    row("service-list-empty", &[Nothing]),
    row("event-list-empty", &[Nothing]).by(Bob).after(&[
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
    row("team-list-empty", &[Nothing]).by(Bob),
    row("team-info-unknown", &[Words]),
    row("team-quota-view", &[Quota]),
    row("team-quota-change", &[Any]).by(Root),
    row("team-quota-change-unlimited", &[Any]).by(Root),
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
    row("user-info-plain", &[User]).by(Bob),
    row("user-list", &[Users]).by(Root),
    row("user-list-by-email", &[Users]).by(Root),
    row("user-list-by-role", &[Users]).by(Root),
    row("user-list-forbidden", &[Words]).by(Bob),
    row("user-remove-other", &[Any]).by(Root),
    row("user-remove-unknown", &[Words]).by(Root),
    row("user-quota-view-unlimited", &[Quota]),
    row("user-quota-view-unknown", &[Words]).by(Root),
    row("user-quota-change", &[Any]).by(Root),
    row("user-quota-view", &[Quota]),
    row("user-quota-change-unlimited", &[Any]).by(Root),
    row("user-quota-change-too-low", &[Words])
        .by(Root)
        .after(&["sql update user_account set quota_in_use = 3 where email = 'ana@example.com'"]),
    row("token-show", &[Key]),
    row("token-show-user", &[Key]).by(Root),
    row("token-regenerate", &[Key]),
    row("token-regenerate-user", &[Key]).by(Root),
    // Roles.
    row("permission-list", &[Permissions]),
    row("permission-list-tree", &[Permissions]),
    row("role-add", &[Any]).by(Root),
    row("role-add-duplicate", &[Words]).by(Root),
    row("role-add-description", &[Any])
        .by(Root)
        .after(&["DELETE /1.0/roles/deployer"]),
    row("role-add-bad-context", &[Words]).by(Root),
    row("role-list", &[Roles]).by(Root),
    row("role-list-forbidden", &[Words]).by(Bob),
    row("role-info", &[Role]).by(Root),
    row("role-info-dynamic", &[Role]).by(Root),
    row("role-info-unknown", &[Words]).by(Root),
    row("role-permission-add", &[Any]).by(Root),
    row("role-permission-add-invalid", &[Words]).by(Root),
    row("role-permission-remove", &[Any]).by(Root),
    row("role-permission-add-all", &[Any])
        .by(Root)
        .after(&["POST /1.0/roles name=super&context=global"]),
    row("role-permission-remove-all", &[Any]).by(Root),
    row("role-assign-forbidden", &[Words])
        .after(&["POST /1.0/roles/deployer/permissions permission=app.deploy"]),
    row("role-assign-user", &[Any]).by(Root),
    row("role-remove-assigned", &[Words]).by(Root),
    row("role-dissociate-user", &[Any]).by(Root),
    row("role-assign-user-global", &[Any]).by(Root),
    row("role-update-description", &[Any])
        .by(Root)
        .after(&["DELETE /1.0/roles/AllowAll/user/ana@example.com"]),
    row("role-update", &[Any]).by(Root),
    row("role-remove", &[Any])
        .by(Root)
        .after(&["POST /1.0/roles name=deployer&context=team"]),
    row("role-default-add", &[Any])
        .by(Root)
        .after(&["POST /1.0/roles name=newcomer&context=global"]),
    row("role-default-list", &[Roles]).by(Root),
    row("role-default-remove", &[Any]).by(Root),
    // What ends a session comes last.
    row("change-password-wrong-old", &[Words]),
    row("change-password", &[Any]),
    row("user-remove-self", &[User, Any]).after(&[
        "sql update user_account set quota_in_use = 0",
        "DELETE /1.0/teams/web-team",
    ]),
    row("logout", &[Any]).by(Bob),
];
