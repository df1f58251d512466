//! Services, their instances and binds.

use crate::recorded::fixture::Sender::{Bob, Root};
use crate::recorded::shapes::AnswerShape::{
    Any, Apps, Events, Instance, Instances, Lines, LinesOrWords, NoInstances, Nothing, ServicePlans,
    Services, Text, Words,
};
use crate::recorded::{ReplayRow, row};

/// The service of the test, in place of the existing one.
const AT_WORK: &[&str] = &[
    "-DELETE /1.0/services/postgres",
    "POST /1.0/services id=postgres&username=admin&password=s3cret&team=data-team&endpoint={{SERVICE}}",
    "POST /1.0/services id=redis&username=admin&password=s3cret&team=data-team&endpoint={{SERVICE}}/bare",
    "PUT /1.0/services/postgres/team/web-team",
    "PUT /1.0/services/redis/team/web-team",
    "PUT /1.0/services/postgres/doc doc=Use+it+with+care.",
];
const NO_INSTANCE: &str = "-DELETE /1.0/services/postgres/instances/shop-db?unbindall=true";
const INSTANCE: &str = "ana POST /1.0/services/postgres/instances name=shop-db&plan=small&description=orders&tag=front&parameters.region=a";
const ARCHIVE: &str =
    "POST /1.0/services/postgres/instances name=archive&plan=large&owner=data-team&tag=cold&pool=private";
const BIND: &str = "ana PUT /1.13/services/postgres/instances/shop-db/apps/shop noRestart=true";

/// In an order in which each recording finds the state it needs.
pub(in crate::recorded) const SERVICES: &[ReplayRow] = &[
    row("service-create", &[Any]).sent_by(Root),
    row("service-create-duplicate", &[Words]).sent_by(Root),
    row("service-create-invalid", &[Words]).sent_by(Root),
    row("service-create-multi-cluster", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/services/postgres"]),
    row("service-create-from-input", &[Any])
        .sent_by(Root)
        .after(&["DELETE /1.0/services/postgres"]),
    row("service-update", &[Any]).sent_by(Root),
    row("service-doc-add", &[Any]).sent_by(Root),
    row("service-doc-get", &[Text]).sent_by(Root),
    row("service-destroy", &[Any]).sent_by(Root),
    // Instances.
    row("service-instance-add", &[Any]).after(AT_WORK),
    row("service-instance-add-duplicate", &[Words]),
    row("service-instance-add-refused", &[Words]).after(&[NO_INSTANCE, "service refuses"]),
    row("service-instance-add-all-flags", &[Any]).after(&["service works"]),
    row("service-instance-info", &[Instance, Text]).after(&[NO_INSTANCE, INSTANCE, BIND]),
    row("service-instance-info-json", &[Instance, Text]),
    row("service-instance-info-plain", &[Instance, Text]),
    row("service-instance-info-unknown", &[Words]),
    row("service-instance-info-status-failing", &[Instance, Words]).after(&["service hangs-up"]),
    // The service list.
    row("service-list", &[Services]).after(&["service works", ARCHIVE]),
    row("service-list-json", &[Services]),
    row("service-list-filter-tags", &[Services])
        .after(&[r#"ana PUT /1.0/services/postgres/instances/shop-db {"tags":["front","blue"]}"#]),
    row("service-list-just-services", &[Services]),
    row("service-list-names", &[Services]),
    row("service-list-filter-all", &[Services]).sent_by(Root),
    row("service-list-filter-team", &[Services]),
    row("service-list-filter-service", &[Services])
        .after(&["ana POST /1.0/services/redis/instances name=shop-cache"]),
    row("completion-service-instance", &[Services]),
    row("tag-list", &[Apps, Services]),
    row("tag-list-one-failing", &[Apps, Services])
        .after(&[
            "POST /1.0/roles name=reader&context=team",
            "POST /1.0/roles/reader/permissions permission=app.read",
            "POST /1.0/roles/reader/user email=bob%40example.com&context=web-team",
        ])
        .sent_by(Bob)
        .answering(200, "the existence of a service is public"),
    row("service-info", &[Instances, ServicePlans, Text]),
    row("service-info-pool", &[Instances, ServicePlans, Text]).sent_by(Root),
    row("service-info-empty", &[NoInstances, Nothing, Text])
        .after(&["ana DELETE /1.0/services/redis/instances/shop-cache"]),
    row("service-info-unknown", &[Words]),
    row("service-plan-list", &[ServicePlans]),
    row("service-plan-list-pool", &[ServicePlans]),
    row("service-instance-update-description", &[Instance, Any]),
    row("service-instance-update", &[Instance, Any]),
    row("service-instance-update-unknown", &[Words]),
    row("event-list-by-target", &[Events]).sent_by(Root),
    // Binds.
    row("service-instance-unbind", &[Lines]).after(&[NO_INSTANCE, INSTANCE, BIND]),
    row("service-instance-unbind-not-bound", &[Words]),
    row("service-instance-bind-refused", &[LinesOrWords]).after(&["service refuses"]),
    row("service-instance-bind", &[Lines]).after(&["service works"]),
    row("env-set-managed", &[LinesOrWords]).answering(409, super::EARLY),
    row("service-instance-remove-bound", &[LinesOrWords]),
    row("service-instance-unbind-force-no-restart", &[Lines]),
    row("service-instance-bind-no-restart", &[Lines]),
    row("service-instance-bind-forbidden", &[Words]).sent_by(Bob),
    row("service-instance-grant", &[Any]),
    row("service-instance-revoke", &[Any]),
    row("service-destroy-with-instances", &[Words]).sent_by(Root),
    row("service-instance-remove-force", &[Lines]),
    row("service-instance-remove", &[Lines]).after(&[INSTANCE]),
    row("service-instance-remove-ignore-errors", &[Lines]).after(&[INSTANCE, "service refuses"]),
];
