//! The model of a volume: its plan, its options, its contexts.

use std::collections::BTreeMap;

use crate::apps::AppKind;
use crate::config::{SIZE_OPTION, VolumePlan, VolumesSettings};
use crate::events::{EventTarget, EventTargetKind};
use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::ids::VolumeId;
use crate::kernel::names::{AppName, PoolName, TeamName, VolumeName};
use crate::kernel::permission::{ContextKind, PermissionContext};

/// The smallest volume.
const MIN_SIZE: ByteSize = ByteSize(1 << 20);

/// A volume.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    pub(super) id: VolumeId,
    pub(super) name: VolumeName,
    pub(super) pool: PoolName,
    pub(super) provisioner: String,
    pub(super) plan: String,
    pub(super) team_owner: TeamName,
    pub(super) options: BTreeMap<String, String>,
    /// The host that has its data; `None`: it has none.
    pub(super) host: Option<String>,
    pub(super) binds: Vec<VolumeBind>,
}

/// The bind of a volume to an app or a job.
#[derive(Clone, Debug)]
pub(super) struct VolumeBind {
    pub(super) app: AppName,
    pub(super) kind: AppKind,
    pub(super) mount_point: String,
    pub(super) is_read_only: bool,
}

impl Volume {
    /// Returns the target of events about it.
    pub(super) fn event_target(&self) -> EventTarget {
        volume_target(&self.name)
    }

    /// Returns the contexts on which a permission for it may be held.
    pub(super) fn permission_contexts(&self) -> Vec<PermissionContext> {
        volume_contexts(&self.pool, &self.team_owner)
    }
}

/// Returns the target of events about the volume of a name.
pub(super) fn volume_target(name: &VolumeName) -> EventTarget {
    EventTarget::new(EventTargetKind::Volume, name)
}

/// Returns the contexts of a volume of a pool and a team.
pub(super) fn volume_contexts(pool: &PoolName, team: &TeamName) -> Vec<PermissionContext> {
    vec![
        PermissionContext::new(ContextKind::Pool, pool),
        PermissionContext::for_team(team),
    ]
}

/// Finds the plan of a provisioner by its name. Errors: `Invalid`, with the plans that there are.
pub(super) fn find_plan<'a>(
    settings: &'a VolumesSettings,
    provisioner: &str,
    name: &str,
) -> Result<&'a VolumePlan, Error> {
    settings.find_plan(provisioner, name).ok_or_else(|| {
        let known: Vec<&str> = settings
            .list_plans(provisioner)
            .map(|plan| plan.name.as_str())
            .collect();
        match known.as_slice() {
            [] => Error::invalid(format!("Pools of the provisioner {provisioner} have no volumes.")),
            known => Error::invalid(format!(
                "Pools of the provisioner {provisioner} have no volume plan {}: use one of {}.",
                quote_excerpt(name),
                known.join(", ")
            )),
        }
    })
}

/// Checks the options that an owner has chosen. They reach no driver of an engine, which could be told to mount a folder
/// of the host: what a driver is told is in the plan. Errors: `Invalid`.
pub(super) fn check_options(plan: &VolumePlan, options: &BTreeMap<String, String>) -> Result<(), Error> {
    for (name, value) in options {
        let limit = match plan.size() {
            Some(limit) if name == SIZE_OPTION => limit,
            _ => {
                let known = plan
                    .size()
                    .map_or("it has no options", |_| "its only option is size");
                return Err(Error::invalid(format!(
                    "The volume plan {} has no option {}: {known}.",
                    plan.name,
                    quote_excerpt(name)
                )));
            }
        };
        let size: ByteSize = value.parse()?;
        if size < MIN_SIZE || size > limit {
            return Err(Error::invalid(format!(
                "The size {} of a volume must be between {MIN_SIZE} and {limit}, as its plan says.",
                quote_excerpt(value)
            )));
        }
    }
    Ok(())
}

/// Returns how many bytes a volume may hold; 0: no bound. A plan that is gone from the settings bounds by what the owner has
/// chosen alone.
pub(super) fn max_bytes(plan: Option<&VolumePlan>, options: &BTreeMap<String, String>) -> u64 {
    let chosen = options
        .get(SIZE_OPTION)
        .and_then(|size| size.parse::<ByteSize>().ok());
    let limit = plan.and_then(VolumePlan::size);
    match (chosen, limit) {
        (Some(chosen), Some(limit)) => chosen.min(limit).0,
        (chosen, limit) => chosen.or(limit).map_or(0, |size| size.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::names::PlanName;

    fn options(all: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        all.iter().map(pair).collect()
    }

    fn plan(all: &[(&str, &str)]) -> VolumePlan {
        VolumePlan {
            provisioner: "local".into(),
            name: PlanName::parse("disk").unwrap(),
            options: options(all),
        }
    }

    #[test]
    fn size_is_bounded_by_the_plan_and_other_options_are_refused() {
        let sized = plan(&[("size", "2G")]);
        for good in [&[][..], &[("size", "1M")], &[("size", "2Gi")]] {
            assert!(check_options(&sized, &options(good)).is_ok(), "{good:?}");
        }
        for bad in [
            [("size", "3G")],
            [("size", "0")],
            [("size", "-1")],
            [("size", "much")],
            [("o", "bind")],
            [("device", "/")],
        ] {
            assert!(check_options(&sized, &options(&bad)).is_err(), "{bad:?}");
        }
        assert!(check_options(&plan(&[("driver", "x")]), &options(&[("size", "1G")])).is_err());
    }

    #[test]
    fn smaller_of_both_sizes_bounds_a_volume() {
        let sized = plan(&[("size", "2G")]);
        for (plan, chosen, bytes) in [
            (Some(&sized), &[("size", "1G")][..], 1 << 30),
            (Some(&sized), &[("size", "3G")], 2 << 30),
            (Some(&sized), &[], 2 << 30),
            (None, &[("size", "1G")], 1 << 30),
            (None, &[], 0),
        ] {
            assert_eq!(max_bytes(plan, &options(chosen)), bytes, "{chosen:?}");
        }
    }
}
