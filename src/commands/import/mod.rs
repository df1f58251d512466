//! `tancho import tsuru`: creates on this server what another server that speaks the tsuru API has. Both are
//! used through their HTTP API, so that every creation is checked and recorded like that of any client.
//!
//! In this order: teams, users, roles, pools with their constraints, plans, instances of services, apps with
//! their public variables and cnames, and the roles of users, whose contexts exist by then.
//!
//! Promises: what this server has already is left as it is, so the command can be repeated after a break, and
//! does the rest; it deletes nothing and writes nothing to the other server. What is refused or cannot be
//! brought (passwords, private variables, versions of apps, manifests of services) is listed at the end with
//! what to do. A dry run reads both servers and changes nothing.

mod api;
mod app_import;
mod source;
mod steps;

use std::collections::HashSet;

use api::ApiRequest;
pub use api::TsuruApi;

use crate::kernel::error::Error;

/// What to import, from where to where.
pub struct ImportOptions<'a> {
    /// The server that is read.
    pub source: &'a TsuruApi,
    /// The server on which is created.
    pub destination: &'a TsuruApi,
    /// Only say what would be created.
    pub dry_run: bool,
    /// Receives each line of output.
    pub print: &'a (dyn Fn(&str) + Sync),
}

/// What an import has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Things that were created, or would be.
    pub created: usize,
    /// Things that this server had already.
    pub existing: usize,
    /// What the server refused, with its reason.
    pub refused: Vec<String>,
    /// What cannot be brought, with what to do instead.
    pub not_brought: Vec<String>,
}

/// Imports everything. Errors: a server that cannot be reached, or a token that is not valid; what was created
/// until then stays.
pub async fn import_tsuru(options: ImportOptions<'_>) -> Result<ImportReport, Error> {
    options.source.check_token("the source").await?;
    options.destination.check_token("this server").await?;
    let mut import = Import {
        options,
        report: ImportReport::default(),
    };
    import.bring_teams().await?;
    import.bring_users().await?;
    import.bring_roles().await?;
    import.bring_pools().await?;
    import.bring_plans().await?;
    import.bring_instances().await?;
    import.bring_apps().await?;
    import.bring_user_roles().await?;
    import.print_summary();
    Ok(import.report)
}

/// A running import.
struct Import<'a> {
    options: ImportOptions<'a>,
    report: ImportReport,
}

impl Import<'_> {
    fn print(&self, line: &str) {
        (self.options.print)(line);
    }

    /// Creates one thing unless it exists. Returns whether it exists afterwards.
    async fn create(
        &mut self,
        kind: &str,
        name: &str,
        existing: &HashSet<String>,
        request: ApiRequest,
    ) -> Result<bool, Error> {
        if existing.contains(name) {
            self.report.existing += 1;
            return Ok(true);
        }
        let is_created = self.change(&format!("{kind} {name}"), request).await?;
        if is_created {
            self.report.created += 1;
            let done = if self.options.dry_run {
                "would create"
            } else {
                "created"
            };
            self.print(&format!("{done} {kind} {name}"));
        }
        Ok(is_created)
    }

    /// Makes a change, unless this is a dry run. Returns whether it was made; a refusal is noted.
    async fn change(&mut self, what: &str, request: ApiRequest) -> Result<bool, Error> {
        if self.options.dry_run {
            return Ok(true);
        }
        match self.options.destination.send(request).await? {
            Ok(()) => Ok(true),
            Err(reason) => {
                self.report.refused.push(format!("{what}: {reason}"));
                Ok(false)
            }
        }
    }

    fn note_not_brought(&mut self, line: String) {
        self.report.not_brought.push(line);
    }

    fn print_summary(&self) {
        let report = &self.report;
        for (title, lines) in [
            ("refused by this server:", &report.refused),
            ("not brought:", &report.not_brought),
        ] {
            if !lines.is_empty() {
                self.print(title);
                lines.iter().for_each(|line| self.print(&format!("  {line}")));
            }
        }
        let verb = if self.options.dry_run {
            "to create"
        } else {
            "created"
        };
        self.print(&format!(
            "{} {verb}, {} existed, {} refused",
            report.created,
            report.existing,
            report.refused.len()
        ));
    }
}
