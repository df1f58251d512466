//! Permissions: dotted paths in a tree (contract/modern §6). Holding a path grants everything below it; the
//! empty path grants everything. This file is the only list of them.

use std::fmt;

use crate::kernel::error::Error;
pub use crate::kernel::permission_context::{ContextKind, PermissionContext};

/// A permission by its path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Permission(&'static str);

impl Permission {
    /// Returns the path; empty for the root.
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Finds a permission by its path; `*` and the empty string are the root.
    pub fn parse(path: &str) -> Result<Self, Error> {
        let path = if path == "*" { "" } else { path };
        all_permissions()
            .find(|p| p.0 == path)
            .ok_or_else(|| Error::permission_not_found(path))
    }

    /// True if a grant of `self` includes `asked`.
    pub fn covers(self, asked: Permission) -> bool {
        self.0.is_empty()
            || asked
                .0
                .strip_prefix(self.0)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    /// Returns the contexts in which a role may hold the permission.
    pub fn allowed_contexts(self) -> Vec<ContextKind> {
        let mut best = ("", "global");
        for (path, contexts) in CONTEXTS {
            if Permission(path).covers(self) && path.len() >= best.0.len() {
                best = (path, contexts);
            }
        }
        let mut kinds = vec![ContextKind::Global];
        for word in best.1.split(' ') {
            match ContextKind::parse(word) {
                Ok(kind) if !kinds.contains(&kind) => kinds.push(kind),
                _ => {}
            }
        }
        kinds
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "*" } else { self.0 })
    }
}

impl fmt::Debug for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The permission of `service-action` and of all actions of services below it, which are no part of this list:
/// services declare them (`held_permission`).
pub const SERVICE_ACTION_PREFIX: &str = "service-action.";

/// Returns all permissions, parents before children, the root first (clients depend on that order).
pub fn all_permissions() -> impl Iterator<Item = Permission> {
    PATHS.iter().map(|path| Permission(path))
}

/// The contexts in which a permission may be held, by longest matching path; the root is global.
const CONTEXTS: &[(&str, &str)] = &[
    ("apikey", "global user"),
    ("app", "global app team pool"),
    ("app.create", "global team"),
    ("certissuer", "global app team pool"),
    ("job", "global team pool job"),
    ("job.create", "global team"),
    ("pool", "global pool"),
    ("pool.create", "global"),
    ("router", "global router"),
    ("router.create", "global"),
    ("service", "global service team"),
    ("service-action", "global service service-instance team"),
    ("service.create", "global team"),
    ("service-instance", "global service-instance team"),
    ("service-instance.create", "global team"),
    ("team", "global team"),
    ("team.create", "global"),
    ("user", "global user"),
    ("user.create", "global"),
    ("volume", "global volume team pool"),
    ("volume.create", "global team pool"),
    ("webhook", "global team"),
];

macro_rules! permissions {
    ($($name:ident = $path:literal;)*) => {
        impl Permission {
            $(
                #[doc = concat!("`", $path, "`")]
                pub const $name: Permission = Permission($path);
            )*
        }
        const PATHS: &[&str] = &[$($path),*];
    };
}

permissions! {
    ALL = "";
    APIKEY = "apikey";
    APIKEY_READ = "apikey.read";
    APIKEY_UPDATE = "apikey.update";
    APP = "app";
    APP_ADMIN = "app.admin";
    APP_ADMIN_QUOTA = "app.admin.quota";
    APP_ADMIN_ROUTES = "app.admin.routes";
    APP_BUILD = "app.build";
    APP_CREATE = "app.create";
    APP_DELETE = "app.delete";
    APP_DEPLOY = "app.deploy";
    APP_DEPLOY_ARCHIVE_URL = "app.deploy.archive-url";
    APP_DEPLOY_BUILD = "app.deploy.build";
    APP_DEPLOY_DOCKERFILE = "app.deploy.dockerfile";
    APP_DEPLOY_GIT = "app.deploy.git";
    APP_DEPLOY_IMAGE = "app.deploy.image";
    APP_DEPLOY_ROLLBACK = "app.deploy.rollback";
    APP_DEPLOY_UPLOAD = "app.deploy.upload";
    APP_READ = "app.read";
    APP_READ_CERTIFICATE = "app.read.certificate";
    APP_READ_DEPLOY = "app.read.deploy";
    APP_READ_ENV = "app.read.env";
    APP_READ_EVENTS = "app.read.events";
    APP_READ_INFO = "app.read.info";
    APP_READ_LOG = "app.read.log";
    APP_READ_ROUTER = "app.read.router";
    APP_RUN = "app.run";
    APP_RUN_SHELL = "app.run.shell";
    APP_UPDATE = "app.update";
    APP_UPDATE_BIND = "app.update.bind";
    APP_UPDATE_BIND_VOLUME = "app.update.bind-volume";
    APP_UPDATE_CERTIFICATE = "app.update.certificate";
    APP_UPDATE_CERTIFICATE_SET = "app.update.certificate.set";
    APP_UPDATE_CERTIFICATE_UNSET = "app.update.certificate.unset";
    APP_UPDATE_CNAME = "app.update.cname";
    APP_UPDATE_CNAME_ADD = "app.update.cname.add";
    APP_UPDATE_CNAME_REMOVE = "app.update.cname.remove";
    APP_UPDATE_DEPLOY = "app.update.deploy";
    APP_UPDATE_DEPLOY_ROLLBACK = "app.update.deploy.rollback";
    APP_UPDATE_DESCRIPTION = "app.update.description";
    APP_UPDATE_ENV = "app.update.env";
    APP_UPDATE_ENV_SET = "app.update.env.set";
    APP_UPDATE_ENV_UNSET = "app.update.env.unset";
    APP_UPDATE_EVENTS = "app.update.events";
    APP_UPDATE_GRANT = "app.update.grant";
    APP_UPDATE_IMAGE_RESET = "app.update.image-reset";
    APP_UPDATE_LOG = "app.update.log";
    APP_UPDATE_METADATA = "app.update.metadata";
    APP_UPDATE_PLAN = "app.update.plan";
    APP_UPDATE_PLANOVERRIDE = "app.update.planoverride";
    APP_UPDATE_PLATFORM = "app.update.platform";
    APP_UPDATE_PROCESSES = "app.update.processes";
    APP_UPDATE_RESTART = "app.update.restart";
    APP_UPDATE_REVOKE = "app.update.revoke";
    APP_UPDATE_ROUTABLE = "app.update.routable";
    APP_UPDATE_ROUTER = "app.update.router";
    APP_UPDATE_ROUTER_ADD = "app.update.router.add";
    APP_UPDATE_ROUTER_REMOVE = "app.update.router.remove";
    APP_UPDATE_ROUTER_UPDATE = "app.update.router.update";
    APP_UPDATE_START = "app.update.start";
    APP_UPDATE_STOP = "app.update.stop";
    APP_UPDATE_SWAP = "app.update.swap";
    APP_UPDATE_TAGS = "app.update.tags";
    APP_UPDATE_TEAMOWNER = "app.update.teamowner";
    APP_UPDATE_UNBIND = "app.update.unbind";
    APP_UPDATE_UNBIND_VOLUME = "app.update.unbind-volume";
    APP_UPDATE_UNIT = "app.update.unit";
    APP_UPDATE_UNIT_ADD = "app.update.unit.add";
    APP_UPDATE_UNIT_AUTOSCALE = "app.update.unit.autoscale";
    APP_UPDATE_UNIT_AUTOSCALE_ADD = "app.update.unit.autoscale.add";
    APP_UPDATE_UNIT_AUTOSCALE_REMOVE = "app.update.unit.autoscale.remove";
    APP_UPDATE_UNIT_AUTOSCALE_SWAP = "app.update.unit.autoscale.swap";
    APP_UPDATE_UNIT_KILL = "app.update.unit.kill";
    APP_UPDATE_UNIT_REMOVE = "app.update.unit.remove";
    CERTISSUER = "certissuer";
    CERTISSUER_SET = "certissuer.set";
    CERTISSUER_UNSET = "certissuer.unset";
    CLUSTER = "cluster";
    CLUSTER_ADMIN = "cluster.admin";
    CLUSTER_CREATE = "cluster.create";
    CLUSTER_DELETE = "cluster.delete";
    CLUSTER_READ = "cluster.read";
    CLUSTER_READ_EVENTS = "cluster.read.events";
    CLUSTER_UPDATE = "cluster.update";
    DEBUG = "debug";
    EVENT_BLOCK = "event-block";
    EVENT_BLOCK_ADD = "event-block.add";
    EVENT_BLOCK_READ = "event-block.read";
    EVENT_BLOCK_READ_EVENTS = "event-block.read.events";
    EVENT_BLOCK_REMOVE = "event-block.remove";
    HEALER = "healer";
    HEALER_READ = "healer.read";
    JOB = "job";
    JOB_CREATE = "job.create";
    JOB_DELETE = "job.delete";
    JOB_DEPLOY = "job.deploy";
    JOB_READ = "job.read";
    JOB_READ_EVENTS = "job.read.events";
    JOB_READ_LOGS = "job.read.logs";
    JOB_RUN = "job.run";
    JOB_TRIGGER = "job.trigger";
    JOB_UNIT = "job.unit";
    JOB_UNIT_KILL = "job.unit.kill";
    JOB_UPDATE = "job.update";
    JOB_UPDATE_EVENTS = "job.update.events";
    ORPHAN = "orphan";
    ORPHAN_GIVE_UP = "orphan.give-up";
    ORPHAN_READ = "orphan.read";
    ORPHAN_RETRY = "orphan.retry";
    PLAN = "plan";
    PLAN_CREATE = "plan.create";
    PLAN_DELETE = "plan.delete";
    PLAN_READ = "plan.read";
    PLAN_READ_EVENTS = "plan.read.events";
    PLATFORM = "platform";
    PLATFORM_CREATE = "platform.create";
    PLATFORM_DELETE = "platform.delete";
    PLATFORM_READ = "platform.read";
    PLATFORM_READ_EVENTS = "platform.read.events";
    PLATFORM_UPDATE = "platform.update";
    PLATFORM_UPDATE_EVENTS = "platform.update.events";
    POOL = "pool";
    POOL_CREATE = "pool.create";
    POOL_DELETE = "pool.delete";
    POOL_READ = "pool.read";
    POOL_READ_CONSTRAINTS = "pool.read.constraints";
    POOL_READ_EVENTS = "pool.read.events";
    POOL_UPDATE = "pool.update";
    POOL_UPDATE_CONSTRAINTS = "pool.update.constraints";
    POOL_UPDATE_CONSTRAINTS_SET = "pool.update.constraints.set";
    POOL_UPDATE_TEAM = "pool.update.team";
    POOL_UPDATE_TEAM_ADD = "pool.update.team.add";
    POOL_UPDATE_TEAM_REMOVE = "pool.update.team.remove";
    ROLE = "role";
    ROLE_CREATE = "role.create";
    ROLE_DEFAULT = "role.default";
    ROLE_DEFAULT_CREATE = "role.default.create";
    ROLE_DEFAULT_DELETE = "role.default.delete";
    ROLE_DELETE = "role.delete";
    ROLE_READ = "role.read";
    ROLE_READ_EVENTS = "role.read.events";
    ROLE_UPDATE = "role.update";
    ROLE_UPDATE_ASSIGN = "role.update.assign";
    ROLE_UPDATE_CONTEXT = "role.update.context";
    ROLE_UPDATE_CONTEXT_TYPE = "role.update.context.type";
    ROLE_UPDATE_DESCRIPTION = "role.update.description";
    ROLE_UPDATE_DISSOCIATE = "role.update.dissociate";
    ROLE_UPDATE_NAME = "role.update.name";
    ROLE_UPDATE_PERMISSION = "role.update.permission";
    ROLE_UPDATE_PERMISSION_ADD = "role.update.permission.add";
    ROLE_UPDATE_PERMISSION_REMOVE = "role.update.permission.remove";
    ROUTER = "router";
    ROUTER_CREATE = "router.create";
    ROUTER_DELETE = "router.delete";
    ROUTER_READ = "router.read";
    ROUTER_READ_EVENTS = "router.read.events";
    ROUTER_UPDATE = "router.update";
    SAGA = "saga";
    SAGA_GIVE_UP = "saga.give-up";
    SAGA_READ = "saga.read";
    SAGA_RETRY = "saga.retry";
    SEALING_KEY = "sealing-key";
    SEALING_KEY_ROTATE = "sealing-key.rotate";
    SERVICE = "service";
    SERVICE_CREATE = "service.create";
    SERVICE_DELETE = "service.delete";
    SERVICE_READ = "service.read";
    SERVICE_READ_DOC = "service.read.doc";
    SERVICE_READ_EVENTS = "service.read.events";
    SERVICE_READ_PLANS = "service.read.plans";
    SERVICE_UPDATE = "service.update";
    SERVICE_UPDATE_DOC = "service.update.doc";
    SERVICE_UPDATE_GRANT_ACCESS = "service.update.grant-access";
    SERVICE_UPDATE_PROXY = "service.update.proxy";
    SERVICE_UPDATE_REVOKE_ACCESS = "service.update.revoke-access";
    SERVICE_ACTION = "service-action";
    SERVICE_INSTANCE = "service-instance";
    SERVICE_INSTANCE_CREATE = "service-instance.create";
    SERVICE_INSTANCE_DELETE = "service-instance.delete";
    SERVICE_INSTANCE_READ = "service-instance.read";
    SERVICE_INSTANCE_READ_EVENTS = "service-instance.read.events";
    SERVICE_INSTANCE_READ_STATUS = "service-instance.read.status";
    SERVICE_INSTANCE_UPDATE = "service-instance.update";
    SERVICE_INSTANCE_UPDATE_BIND = "service-instance.update.bind";
    SERVICE_INSTANCE_UPDATE_DESCRIPTION = "service-instance.update.description";
    SERVICE_INSTANCE_UPDATE_GRANT = "service-instance.update.grant";
    SERVICE_INSTANCE_UPDATE_PARAMETERS = "service-instance.update.parameters";
    SERVICE_INSTANCE_UPDATE_PLAN = "service-instance.update.plan";
    SERVICE_INSTANCE_UPDATE_PROXY = "service-instance.update.proxy";
    SERVICE_INSTANCE_UPDATE_REVOKE = "service-instance.update.revoke";
    SERVICE_INSTANCE_UPDATE_TAGS = "service-instance.update.tags";
    SERVICE_INSTANCE_UPDATE_TEAMOWNER = "service-instance.update.teamowner";
    SERVICE_INSTANCE_UPDATE_UNBIND = "service-instance.update.unbind";
    TEAM = "team";
    TEAM_CREATE = "team.create";
    TEAM_DELETE = "team.delete";
    TEAM_READ = "team.read";
    TEAM_READ_EVENTS = "team.read.events";
    TEAM_READ_QUOTA = "team.read.quota";
    TEAM_TOKEN = "team.token";
    TEAM_TOKEN_CREATE = "team.token.create";
    TEAM_TOKEN_DELETE = "team.token.delete";
    TEAM_TOKEN_READ = "team.token.read";
    TEAM_TOKEN_UPDATE = "team.token.update";
    TEAM_UPDATE = "team.update";
    TEAM_UPDATE_QUOTA = "team.update.quota";
    USER = "user";
    USER_CREATE = "user.create";
    USER_DELETE = "user.delete";
    USER_READ = "user.read";
    USER_READ_EVENTS = "user.read.events";
    USER_READ_QUOTA = "user.read.quota";
    USER_UPDATE = "user.update";
    USER_UPDATE_PASSWORD = "user.update.password";
    USER_UPDATE_QUOTA = "user.update.quota";
    USER_UPDATE_RESET = "user.update.reset";
    VOLUME = "volume";
    VOLUME_CREATE = "volume.create";
    VOLUME_DELETE = "volume.delete";
    VOLUME_READ = "volume.read";
    VOLUME_READ_EVENTS = "volume.read.events";
    VOLUME_UPDATE = "volume.update";
    VOLUME_UPDATE_BIND = "volume.update.bind";
    VOLUME_UPDATE_UNBIND = "volume.update.unbind";
    WEBHOOK = "webhook";
    WEBHOOK_CREATE = "webhook.create";
    WEBHOOK_DELETE = "webhook.delete";
    WEBHOOK_READ = "webhook.read";
    WEBHOOK_READ_EVENTS = "webhook.read.events";
    WEBHOOK_UPDATE = "webhook.update";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_covers_its_children_and_no_namesake() {
        assert!(Permission::ALL.covers(Permission::APP_CREATE));
        assert!(Permission::APP_UPDATE.covers(Permission::APP_UPDATE_ENV_SET));
        assert!(Permission::APP_UPDATE_BIND.covers(Permission::APP_UPDATE_BIND));
        assert!(!Permission::APP_UPDATE_BIND.covers(Permission::APP_UPDATE_BIND_VOLUME));
        assert!(!Permission::SERVICE.covers(Permission::SERVICE_INSTANCE_READ));
        assert!(!Permission::APP_CREATE.covers(Permission::APP));
    }

    #[test]
    fn every_permission_follows_its_parent_and_is_listed_once() {
        let mut seen = std::collections::HashSet::new();
        for permission in all_permissions() {
            if let Some((parent, _)) = permission.as_str().rsplit_once('.') {
                assert!(seen.contains(parent), "{permission}");
            }
            assert!(seen.insert(permission.as_str()), "{permission}");
        }
    }

    #[test]
    fn contexts_come_from_the_longest_path() {
        use ContextKind::{App, Global, Pool, Team};
        assert_eq!(
            Permission::APP_UPDATE_ENV_SET.allowed_contexts(),
            [Global, App, Team, Pool]
        );
        assert_eq!(Permission::APP_CREATE.allowed_contexts(), [Global, Team]);
        assert_eq!(Permission::ALL.allowed_contexts(), [Global]);
    }
}
