//! Volumes of units: folders whose data stays when a unit goes.

use std::collections::BTreeMap;

use crate::kernel::ids::VolumeId;
use crate::kernel::names::VolumeName;

/// A volume that a unit has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitVolume {
    pub id: VolumeId,
    /// From which a host derives the group of those that may use it; no app has the same number.
    pub number: i32,
    /// Its name, for people and for the variable.
    pub name: VolumeName,
    /// The absolute path at which the unit sees it.
    pub path: String,
    pub is_read_only: bool,
    /// How much it may hold; 0: no bound.
    pub max_bytes: u64,
    /// What its plan says for the provisioner.
    pub options: BTreeMap<String, String>,
}

/// Returns the name of the variable that tells a unit where it finds a volume.
pub fn volume_variable(name: &VolumeName) -> String {
    let name = name.as_str().to_ascii_uppercase().replace('-', "_");
    format!("TANCHO_VOLUME_{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variable_of_a_volume_has_its_name() {
        let name = VolumeName::parse("shop-data2").unwrap();
        assert_eq!(volume_variable(&name), "TANCHO_VOLUME_SHOP_DATA2");
    }
}
