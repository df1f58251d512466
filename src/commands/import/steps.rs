//! The steps of an import, one a kind of thing; apps are in `app_import`.

use std::collections::HashSet;

use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Import;
use super::api::ApiRequest;
use super::source::{
    SourceConstraint, SourceHeldRole, SourcePlan, SourcePool, SourceRole, SourceService, SourceTeam,
    SourceUser,
};
use crate::kernel::error::Error;
use crate::kernel::secret::Secret;

/// Returns the names of a list.
fn collect_names<T>(list: &[T], name: impl Fn(&T) -> &str) -> HashSet<String> {
    list.iter().map(|item| name(item).to_owned()).collect()
}

impl Import<'_> {
    /// Reads a list from both servers: that of the source, and that of this server.
    pub(super) async fn read_both<T: DeserializeOwned>(
        &self,
        version: &str,
        path: &[&str],
    ) -> Result<(Vec<T>, Vec<T>), Error> {
        let there = self.options.source.get(version, path).await?;
        let here = self.options.destination.get(version, path).await?;
        Ok((there, here))
    }

    pub(super) async fn bring_teams(&mut self) -> Result<(), Error> {
        let (teams, here) = self.read_both::<SourceTeam>("1.0", &["teams"]).await?;
        let existing = collect_names(&here, |team| &team.name);
        for team in teams {
            let body = json!({ "name": team.name, "tags": team.tags });
            let request = ApiRequest::new(Method::POST, &["1.0", "teams"], body);
            self.create("team", &team.name, &existing, request).await?;
        }
        Ok(())
    }

    pub(super) async fn bring_users(&mut self) -> Result<(), Error> {
        let (users, here) = self.read_both::<SourceUser>("1.0", &["users"]).await?;
        // One account an address, however it is spelled.
        let existing: HashSet<String> = here.iter().map(|user| user.email.to_lowercase()).collect();
        for user in users {
            if existing.contains(&user.email.to_lowercase()) {
                self.report.existing += 1;
                continue;
            }
            // Nobody knows this password: the user resets it. 50 characters are allowed.
            let password = Secret::random_hex();
            let body = json!({ "email": user.email, "password": &password.expose_secret()[..50] });
            let request = ApiRequest::new(Method::POST, &["1.0", "users"], body);
            if self.create("user", &user.email, &existing, request).await? {
                let email = &user.email;
                self.note_not_brought(format!(
                    "the password of {email}: they reset it with `tsuru reset-password {email}`"
                ));
            }
        }
        Ok(())
    }

    pub(super) async fn bring_roles(&mut self) -> Result<(), Error> {
        let (roles, here) = self.read_both::<SourceRole>("1.0", &["roles"]).await?;
        let existing = collect_names(&here, |role| &role.name);
        for role in roles {
            let (name, source) = (role.name.as_str(), self.options.source);
            let full: SourceRole = source.get("1.0", &["roles", name]).await?;
            let body = json!({ "name": name, "context": role.context, "description": full.description });
            let request = ApiRequest::new(Method::POST, &["1.0", "roles"], body);
            if !self.create("role", name, &existing, request).await? {
                continue;
            }
            let held = here.iter().find(|other| other.name == name);
            for permission in &full.scheme_names {
                if held.is_some_and(|role| role.scheme_names.contains(permission)) {
                    continue;
                }
                let what = format!("permission {permission:?} of the role {name}");
                let body = json!({ "permission": [permission] });
                let path = ["1.0", "roles", name, "permissions"];
                self.change(&what, ApiRequest::new(Method::POST, &path, body))
                    .await?;
            }
        }
        Ok(())
    }

    pub(super) async fn bring_pools(&mut self) -> Result<(), Error> {
        let (pools, here) = self.read_both::<SourcePool>("1.0", &["pools"]).await?;
        let existing = collect_names(&here, |pool| &pool.name);
        let has_default = here.iter().any(|pool| pool.default);
        for pool in pools {
            // The provisioner is that of this server: pools of a cluster cannot run here as they are.
            let body = json!({
                "name": pool.name, "labels": pool.labels, "default": pool.default && !has_default,
            });
            let request = ApiRequest::new(Method::POST, &["1.0", "pools"], body);
            let is_new = !existing.contains(&pool.name);
            if self.create("pool", &pool.name, &existing, request).await?
                && is_new
                && !matches!(pool.provisioner.as_str(), "" | "local")
            {
                self.note_not_brought(format!(
                    "the provisioner {} of the pool {}: it has the default one of this server",
                    pool.provisioner, pool.name
                ));
            }
        }
        let (constraints, here) = self
            .read_both::<SourceConstraint>("1.3", &["constraints"])
            .await?;
        for constraint in constraints {
            if here
                .iter()
                .any(|other| other.pool_expr == constraint.pool_expr && other.field == constraint.field)
            {
                continue;
            }
            let what = format!(
                "constraint {} of the pool {}",
                constraint.field, constraint.pool_expr
            );
            let body = json!({
                "PoolExpr": constraint.pool_expr, "Field": constraint.field,
                "Values": constraint.values, "Blacklist": constraint.blacklist,
            });
            self.change(&what, ApiRequest::new(Method::PUT, &["1.3", "constraints"], body))
                .await?;
        }
        Ok(())
    }

    pub(super) async fn bring_plans(&mut self) -> Result<(), Error> {
        let (plans, here) = self.read_both::<SourcePlan>("1.0", &["plans"]).await?;
        let existing = collect_names(&here, |plan| &plan.name);
        let has_default = here.iter().any(|plan| plan.default);
        for plan in plans {
            let body = json!({
                "name": plan.name, "memory": plan.memory, "cpumilli": plan.cpumilli,
                "default": plan.default && !has_default,
            });
            let request = ApiRequest::new(Method::POST, &["1.0", "plans"], body);
            self.create("plan", &plan.name, &existing, request).await?;
        }
        Ok(())
    }

    /// The manifest of a service has its password, which nobody can read; so its owner registers it here.
    pub(super) async fn bring_instances(&mut self) -> Result<(), Error> {
        let (services, here) = self.read_both::<SourceService>("1.0", &["services"]).await?;
        for service in services {
            let name = service.service.as_str();
            let Some(registered) = here.iter().find(|other| other.service == name) else {
                self.note_not_brought(format!(
                    "service {name} and its {} instances: register it with its manifest (`tsuru service create`) and repeat the import",
                    service.service_instances.len()
                ));
                continue;
            };
            let existing: HashSet<String> = registered
                .service_instances
                .iter()
                .map(|instance| format!("{name}/{}", instance.name))
                .collect();
            for instance in service.service_instances {
                let body = json!({
                    "name": instance.name, "plan": instance.plan_name, "owner": instance.team_owner,
                    "description": instance.description, "tags": instance.tags,
                    "parameters": instance.parameters,
                });
                let path = ["1.0", "services", name, "instances"];
                let full_name = format!("{name}/{}", instance.name);
                let request = ApiRequest::new(Method::POST, &path, body);
                let is_there = self.create("instance", &full_name, &existing, request).await?;
                for app in instance.apps.iter().filter(|_| is_there) {
                    self.note_not_brought(format!(
                        "the bind of {app} to {full_name}: `tsuru service instance bind {name} {} -a {app}`",
                        instance.name
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn bring_user_roles(&mut self) -> Result<(), Error> {
        let (users, here) = self.read_both::<SourceUser>("1.0", &["users"]).await?;
        let held: HashSet<(String, SourceHeldRole)> = here
            .into_iter()
            .flat_map(|user| {
                let email = user.email.to_lowercase();
                user.roles.into_iter().map(move |role| (email.clone(), role))
            })
            .collect();
        for user in users {
            for role in user.roles {
                let key = (user.email.to_lowercase(), role);
                if held.contains(&key) {
                    continue;
                }
                let role = key.1;
                let what = format!("role {} of {} on {:?}", role.name, user.email, role.context_value);
                let body = json!({ "email": user.email, "context": role.context_value });
                let path = ["1.0", "roles", &role.name, "user"];
                self.change(&what, ApiRequest::new(Method::POST, &path, body))
                    .await?;
            }
        }
        Ok(())
    }
}
