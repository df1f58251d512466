//! `[volumes]`: the plans of volumes.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de};

use crate::kernel::byte_size::ByteSize;
use crate::kernel::error::Error;
use crate::kernel::names::PlanName;

/// The option that bounds what a volume may hold.
pub const SIZE_OPTION: &str = "size";

/// `[volumes]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumesSettings {
    /// At most one of a name for each provisioner.
    #[serde(deserialize_with = "read_plans")]
    pub plans: Vec<VolumePlan>,
    /// Volumes of one team, at least 1.
    pub max_per_team: u32,
}

/// What volumes of a provisioner may be made like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    pub provisioner: String,
    pub name: PlanName,
    pub options: BTreeMap<String, String>,
}

impl VolumesSettings {
    /// Returns the plan of a provisioner with a name.
    pub fn find_plan(&self, provisioner: &str, name: &str) -> Option<&VolumePlan> {
        self.list_plans(provisioner)
            .find(|plan| plan.name.as_str() == name)
    }

    /// Returns the plans of a provisioner.
    pub fn list_plans(&self, provisioner: &str) -> impl Iterator<Item = &VolumePlan> {
        self.plans
            .iter()
            .filter(move |plan| plan.provisioner == provisioner)
    }
}

impl VolumePlan {
    /// Parses the provisioner, the name, and options such as `size=10G`, with spaces between.
    fn parse(text: &str) -> Result<Self, Error> {
        let mut words = text.split_whitespace();
        let (Some(provisioner), Some(name)) = (words.next(), words.next()) else {
            return Err(Error::invalid(format!(
                "{text:?} is not a plan: give a provisioner, a name and options, as in \"local small size=1G\"."
            )));
        };
        let mut options = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or_else(|| {
                Error::invalid(format!(
                    "{word:?} in the plan {text:?} is not an option such as size=1G."
                ))
            })?;
            if key == SIZE_OPTION {
                value.parse::<ByteSize>()?;
            }
            options.insert(key.to_owned(), value.to_owned());
        }
        Ok(Self {
            provisioner: provisioner.to_owned(),
            name: PlanName::parse(name)?,
            options,
        })
    }

    /// Returns how much its volumes may hold; `None`: no bound.
    pub fn size(&self) -> Option<ByteSize> {
        self.options.get(SIZE_OPTION)?.parse().ok()
    }
}

fn read_plans<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<VolumePlan>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let mut plans: Vec<VolumePlan> = Vec::with_capacity(texts.len());
    for text in texts {
        let plan = VolumePlan::parse(&text).map_err(|error| de::Error::custom(error.message()))?;
        let is_same =
            |other: &VolumePlan| (&other.provisioner, &other.name) == (&plan.provisioner, &plan.name);
        if plans.iter().any(is_same) {
            return Err(de::Error::custom(format!("there are two plans like {text:?}")));
        }
        plans.push(plan);
    }
    Ok(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_a_provisioner_a_name_and_options() {
        let plan = VolumePlan::parse("local  small size=1G").unwrap();
        assert_eq!(
            (plan.provisioner.as_str(), plan.name.as_str()),
            ("local", "small")
        );
        assert_eq!(plan.size(), Some(ByteSize(1 << 30)));
        assert_eq!(
            VolumePlan::parse("docker d driver=x o=a=b").unwrap().options["o"],
            "a=b"
        );
        for bad in ["", "local", "local 1", "local small big", "local small size=huge"] {
            assert!(VolumePlan::parse(bad).is_err(), "{bad}");
        }
    }
}
