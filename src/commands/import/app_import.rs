//! Apps: description, teams, cnames and public variables. What an app has here already stays.

use std::collections::HashSet;

use reqwest::Method;
use serde_json::json;

use super::Import;
use super::api::ApiRequest;
use super::source::{SourceApp, SourceAppName, SourceVariable};
use crate::kernel::error::Error;

/// Variables of the platform itself begin so.
const PLATFORM_PREFIX: &str = "TSURU_";

impl Import<'_> {
    pub(super) async fn bring_apps(&mut self) -> Result<(), Error> {
        let (apps, here) = self.read_both::<SourceAppName>("1.0", &["apps"]).await?;
        let existing: HashSet<String> = here.into_iter().map(|app| app.name).collect();
        for app in apps {
            let app: SourceApp = self.options.source.get("1.0", &["apps", &app.name]).await?;
            // Removed meanwhile.
            if !app.name.is_empty() {
                self.bring_app(app, &existing).await?;
            }
        }
        Ok(())
    }

    async fn bring_app(&mut self, app: SourceApp, existing: &HashSet<String>) -> Result<(), Error> {
        let body = json!({
            "name": app.name, "platform": app.platform, "teamOwner": app.teamowner, "pool": app.pool,
            "plan": app.plan.name, "description": app.description, "tags": app.tags,
        });
        let request = ApiRequest::new(Method::POST, &["1.0", "apps"], body);
        let is_new = !existing.contains(&app.name);
        if !self.create("app", &app.name, existing, request).await? {
            return Ok(());
        }
        let here: SourceApp = self.options.destination.get("1.0", &["apps", &app.name]).await?;
        for team in &app.teams {
            if *team != app.teamowner && !here.teams.contains(team) {
                let what = format!("access of the team {team} to the app {}", app.name);
                let path = ["1.0", "apps", &app.name, "teams", team];
                self.change(&what, ApiRequest::new(Method::PUT, &path, json!({})))
                    .await?;
            }
        }
        let cnames: Vec<&String> = app
            .cname
            .iter()
            .filter(|name| !here.cname.contains(name))
            .collect();
        for cname in cnames {
            let what = format!("cname {cname} of the app {}", app.name);
            let path = ["1.0", "apps", &app.name, "cname"];
            self.change(
                &what,
                ApiRequest::new(Method::POST, &path, json!({ "cname": [cname] })),
            )
            .await?;
        }
        self.bring_variables(&app.name).await?;
        if is_new {
            self.note_not_brought(format!(
                "the version of {0}: deploy it here (`tsuru app deploy -a {0} …`)",
                app.name
            ));
        }
        Ok(())
    }

    async fn bring_variables(&mut self, app: &str) -> Result<(), Error> {
        let path = ["apps", app, "env"];
        let (there, here) = self.read_both::<SourceVariable>("1.0", &path).await?;
        let missing = there.into_iter().filter(|variable| {
            !variable.name.starts_with(PLATFORM_PREFIX)
                && !here.iter().any(|known| known.name == variable.name)
        });
        let (public, private): (Vec<_>, Vec<_>) = missing.partition(|variable| variable.public);
        if !public.is_empty() {
            let envs: Vec<_> = public
                .iter()
                .map(|variable| json!({ "name": variable.name, "value": variable.value }))
                .collect();
            let body = json!({ "envs": envs, "norestart": true, "private": false });
            let what = format!("variables of the app {app}");
            self.change(
                &what,
                ApiRequest::new(Method::POST, &["1.0", "apps", app, "env"], body),
            )
            .await?;
        }
        if !private.is_empty() {
            let names: Vec<&str> = private.iter().map(|variable| variable.name.as_str()).collect();
            self.note_not_brought(format!(
                "private variables of {app}: {} (those of services come with their binds; set the others)",
                names.join(", ")
            ));
        }
        Ok(())
    }
}
