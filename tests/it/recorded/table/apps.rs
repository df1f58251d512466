//! Apps that run nothing yet, and what they choose from.

use crate::recorded::shapes::Shape::{
    Any, AppRouters, Apps, BareApp, Created, Lines, NoLogs, Nothing, Platform, Platforms, Pool, Pools,
    Routers, User, Words,
};
use crate::recorded::stage::Who::Bob;
use crate::recorded::{Row, row};

use super::{CONFLICT, LOCK, UNLOCK};

const NO_SHOP: &str = "-DELETE /1.0/apps/shop";

/// In an order in which each record finds what it needs.
pub(in crate::recorded) const APPS: &[Row] = &[
    row("app-list", &[Apps]),
    row("app-list-json", &[Apps]),
    row("app-list-names", &[Apps]),
    row("app-list-filter-name", &[Apps]),
    row("app-list-filter-platform", &[Apps]),
    row("app-list-filter-team", &[Apps]),
    row("app-list-filter-pool", &[Apps]),
    row("app-list-filter-tag", &[Apps]),
    row("app-list-filter-me", &[User, Apps]),
    row("completion-app-name", &[Apps]),
    row("app-info-plain", &[BareApp]),
    row("app-info-shorthand", &[BareApp]),
    row("app-info-alias", &[BareApp]),
    row("app-info-unknown", &[Words]),
    row("app-info-forbidden", &[Words]).by(Bob),
    row("app-list-forbidden", &[Nothing])
        .by(Bob)
        .answering(200, "who may see no app sees an empty list"),
    row("app-list-filter-status", &[Nothing]),
    row("log-empty", &[NoLogs]),
    row("deploy-list-empty", &[Nothing]),
    row("deploy-unknown-app", &[Words]),
    row("deploy-dockerfile-missing", &[BareApp]),
    row("app-router-list", &[AppRouters]),
    row("app-router-list-json", &[AppRouters]),
    row("app-router-list-unknown-app", &[Words]),
    row("router-list", &[Routers]),
    row("router-list-json", &[Routers]),
    row("router-list-names-filter", &[Routers]),
    row("pool-list", &[Pools]),
    row("pool-list-json", &[Pools]),
    row("pool-list-names-filters", &[Pools]),
    row("pool-info", &[Pool]),
    row("pool-info-labels", &[Pool]),
    row("pool-info-json", &[Pool]),
    row("pool-info-unknown", &[Words]),
    row("platform-list", &[Platforms]),
    row("platform-list-json", &[Platforms]),
    row("platform-list-names", &[Platforms]),
    row("platform-info", &[Platform]),
    row("platform-info-json", &[Platform]),
    row("platform-info-unknown", &[Words]),
    row("app-update-description", &[Lines]),
    row("app-update-plan", &[Lines]),
    row("app-update-tags-empty", &[Lines]),
    row("app-update-nothing", &[Words]),
    row("app-update-other-pool", &[Words]),
    row("app-grant", &[Any]),
    row("app-grant-again", &[Words]),
    row("app-revoke", &[Any]),
    row("app-revoke-last", &[Words]),
    row("cname-add", &[Any]),
    row("cname-add-duplicate", &[Words]).answering(409, CONFLICT),
    row("cname-add-two", &[Any]).after(&["DELETE /1.0/apps/shop/cname?cname=www.shop.example.test"]),
    row("cname-add-invalid", &[Words]),
    row("cname-remove", &[Any]).after(&["POST /1.0/apps/shop/cname cname=shop.example.test"]),
    row("team-remove-in-use", &[Words]),
    row("app-create-duplicate", &[Words]),
    row("app-create-invalid-name", &[Words]),
    row("app-remove-locked", &[Words]).after(&[LOCK]),
    row("app-remove", &[Lines]).after(&[UNLOCK]),
    row("app-create", &[Created]),
    row("app-create-dashed-spelling", &[Created]).after(&[NO_SHOP]),
    row("app-remove-asked-yes", &[Lines]),
    row("app-create-quota", &[Words])
        .after(&["sql update user_account set quota_limit = quota_in_use where email = 'ana@example.com'"]),
    row("app-create-no-team", &[Words]).after(&[
        "sql update user_account set quota_limit = -1",
        "POST /1.0/roles/team-member/user email=ana%40example.com&context=data-team",
    ]),
];
