//! What operators offer to apps: plans, platforms, routers, clusters.

use crate::recorded::fixture::Sender::Root;
use crate::recorded::shapes::AnswerShape::{Any, Lines, Nothing, Provisioners, Routers, Words};
use crate::recorded::{ReplayRow, row};

const NO_IMAGES: &str = "no pool of this server builds images";
const NEEDS_URL: &str = "a router of the type api is useless without its URL";
const ONE_ROUTER: &str = "every app has the built-in router and no other";
const NO_CLUSTERS: &str = "no provisioner of this server uses clusters";
const NO_APPS: &[&str] = &["DELETE /1.0/apps/shop", "DELETE /1.0/apps/blog"];
const ADDED: &[&str] = &["sql update platform set shipped = false where name = 'python'"];

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const CATALOG: &[ReplayRow] = &[
    row("app-router-add", &[Words]).answering(404, ONE_ROUTER),
    row("app-router-add-opts", &[Words]).answering(404, ONE_ROUTER),
    row("app-router-update", &[Words]).answering(404, ONE_ROUTER),
    row("app-router-remove", &[Words]).answering(404, ONE_ROUTER),
    row("app-router-remove-unknown", &[Words]),
    row("router-add", &[Any]).sent_by(Root),
    row("app-router-add-again", &[Words]).answering(400, ONE_ROUTER),
    row("router-add-duplicate", &[Words])
        .sent_by(Root)
        .answering(400, NEEDS_URL),
    row("router-add-plain", &[Words])
        .sent_by(Root)
        .answering(400, NEEDS_URL),
    row("router-info", &[Routers]).sent_by(Root),
    row("router-info-unknown", &[Routers]).sent_by(Root),
    row("router-update", &[Any]).sent_by(Root),
    row("router-update-unknown", &[Words]).sent_by(Root),
    row("router-remove", &[Any]).sent_by(Root),
    row("cluster-list-empty", &[Nothing]).sent_by(Root),
    row("cluster-info", &[Words])
        .sent_by(Root)
        .answering(404, NO_CLUSTERS),
    row("cluster-add", &[Words])
        .sent_by(Root)
        .answering(400, NO_CLUSTERS),
    row("cluster-add-cacert-default", &[Words])
        .sent_by(Root)
        .answering(400, NO_CLUSTERS),
    row("cluster-remove", &[Words])
        .sent_by(Root)
        .answering(404, NO_CLUSTERS),
    row("cluster-remove-unknown", &[Words]).sent_by(Root),
    row("provisioner-list", &[Provisioners]).sent_by(Root),
    row("provisioner-info", &[Provisioners]).sent_by(Root),
    row("platform-add-image", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-add-implicit-image", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-add-dockerfile", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-add-duplicate", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-add-failing", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-update-image", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-update-implicit-image", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-update-dockerfile", &[Words])
        .sent_by(Root)
        .answering(400, NO_IMAGES),
    row("platform-update-disable", &[Lines]).sent_by(Root),
    row("platform-update-enable", &[Lines]).sent_by(Root),
    row("platform-update-unknown", &[Words]).sent_by(Root),
    row("platform-remove-in-use", &[Words]).sent_by(Root).after(ADDED),
    row("plan-create-duplicate", &[Words]).sent_by(Root),
    row("platform-remove", &[Any]).sent_by(Root).after(NO_APPS),
    row("plan-remove", &[Any]).sent_by(Root),
    row("plan-remove-unknown", &[Words]).sent_by(Root),
    row("plan-create", &[Any]).sent_by(Root),
    row("plan-create-old-memory-unit", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/plans/small"]),
    row("plan-create-default-percent", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/plans/large"]),
];
