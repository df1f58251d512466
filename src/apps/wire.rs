//! Requests that both editions share.

use crate::apps::actions::CreateApp;
use crate::apps::listing::AppFilter;
use crate::apps::metadata::MetadataPatch;
use crate::apps::processes::{ProcessChange, ProcessPlan};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, CName, PlanName, ProcessName};
use crate::web::Params;
use crate::web::metadata_items::parse_metadata_items;

/// What clients send as the plan of a process that is to have the plan of its app.
const DEFAULT_PLAN: &str = "$default";

/// Reads the filters of the modern list; clients of both editions send them.
pub(super) fn parse_app_filter(params: &Params) -> Result<AppFilter, Error> {
    Ok(AppFilter {
        scopes: None,
        names: None,
        name: params.get_string("name")?.unwrap_or_default(),
        platform: params.get_string("platform")?.unwrap_or_default(),
        team_owner: params.get_string("teamowner")?.unwrap_or_default(),
        owner: params.get_string("owner")?.unwrap_or_default(),
        pool: params.get_string("pool")?.unwrap_or_default(),
        tags: clean_tags(params.get_strings("tag")?),
        without_units: false,
    })
}

/// Returns tags without the spaces around them; each once, and none that is empty.
pub(super) fn clean_tags(tags: Vec<String>) -> Vec<String> {
    let mut clean: Vec<String> = Vec::with_capacity(tags.len());
    for tag in tags.iter().map(|tag| tag.trim()) {
        if !tag.is_empty() && !clean.iter().any(|known| known == tag) {
            clean.push(tag.to_owned());
        }
    }
    clean
}

/// Reads a request to create an app, with the keys of either edition.
pub(super) fn parse_create_app(params: &Params) -> Result<CreateApp, Error> {
    let platform = match params.parse_field("platform")? {
        None => params.parse_field("framework")?,
        found => found,
    };
    Ok(CreateApp {
        name: AppName::parse(&params.require_string("name")?)?,
        platform,
        team_owner: params.parse_field("teamowner")?,
        plan: params.parse_field("plan")?,
        pool: params.parse_field("pool")?,
        description: params.get_string("description")?.unwrap_or_default(),
        tags: clean_tags([params.get_strings("tags")?, params.get_strings("tag")?].concat()),
        metadata: parse_metadata_patch(&params.get_object("metadata")?)?,
        processes: parse_processes(params)?,
    })
}

/// Reads changes of processes: `processes`, each with `name`, `plan` and `metadata`.
pub(super) fn parse_processes(params: &Params) -> Result<Vec<ProcessChange>, Error> {
    let process = |process: &Params| {
        let plan = match process.get_string("plan")?.as_deref() {
            None => None,
            Some(DEFAULT_PLAN) => Some(ProcessPlan::OfApp),
            Some(plan) => Some(ProcessPlan::Own(PlanName::parse(plan)?)),
        };
        Ok(ProcessChange {
            name: ProcessName::parse(&process.require_string("name")?)?,
            plan,
            metadata: parse_metadata_patch(&process.get_object("metadata")?)?,
        })
    };
    params.get_objects("processes")?.iter().map(process).collect()
}

/// Reads a change of metadata.
pub(super) fn parse_metadata_patch(params: &Params) -> Result<MetadataPatch, Error> {
    let (labels, annotations) = parse_metadata_items(params)?;
    Ok(MetadataPatch::from_items(labels, annotations))
}

/// Reads one or more cnames.
pub(super) fn parse_cnames(params: &Params) -> Result<Vec<CName>, Error> {
    let names = params.get_strings("cname")?;
    if names.is_empty() {
        return Err(Error::invalid("You must provide the cname."));
    }
    names.iter().map(|name| CName::parse(name)).collect()
}
