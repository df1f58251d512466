//! What the edition files of this slice share: names in paths. One that breaks its rule names nothing
//! that could exist, so it is not found.

use crate::kernel::names::{AppName, InstanceName, ServiceName, TeamName};
use crate::kernel::problem::Problem;

pub(super) fn service(text: &str) -> Result<ServiceName, Problem> {
    ServiceName::parse(text).map_err(|_| Problem::not_found("Service not found."))
}

pub(super) fn instance(text: &str) -> Result<InstanceName, Problem> {
    InstanceName::parse(text).map_err(|_| Problem::not_found("service instance not found"))
}

pub(super) fn app(text: &str) -> Result<AppName, Problem> {
    AppName::parse(text).map_err(|_| Problem::not_found("App not found."))
}

pub(super) fn team(text: &str) -> Result<TeamName, Problem> {
    TeamName::parse(text).map_err(|_| Problem::not_found("Team not found"))
}
