//! How processes of an app are scaled by load, as it is stored and as clients see it (contract/modern 2.18, 2.21).

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The rule of a process, and the version that it belongs to.
#[derive(Clone, Debug, JsonSchema, Serialize, Deserialize)]
pub struct AppScaleRule {
    pub process: String,
    pub version: Option<i32>,
    #[serde(flatten)]
    pub rule: ScaleRule,
}

/// How a process is scaled.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleRule {
    pub min_units: i32,
    pub max_units: i32,
    /// The target of the mean usage of its units.
    #[serde(rename = "averageCPU", default, skip_serializing_if = "Option::is_none")]
    pub average_cpu: Option<CpuTarget>,
    #[serde(default)]
    pub schedules: Vec<ScaleSchedule>,
    #[serde(default)]
    pub prometheus: Vec<ScaleQuery>,
    /// Clients read it without looking whether it is there.
    pub behavior: ScaleBehavior,
}

/// Thousandths of what the plan gives to a unit, such as `500m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String")]
pub struct CpuTarget(pub i32);

impl Serialize for CpuTarget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}m", self.0))
    }
}

impl<'de> Deserialize<'de> for CpuTarget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let milli = text.strip_suffix('m').and_then(|milli| milli.parse().ok());
        milli
            .map(Self)
            .ok_or_else(|| de::Error::custom("not a CPU target"))
    }
}

/// A time in which a process has at least so many units.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleSchedule {
    pub name: String,
    pub min_replicas: i32,
    pub start: String,
    pub end: String,
    pub timezone: String,
}

/// A query of a Prometheus server: there are as many units as its value has thresholds.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScaleQuery {
    pub name: String,
    pub query: String,
    pub threshold: f64,
    pub prometheus_address: String,
}

/// How fast the number of units changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleBehavior {
    pub scale_down: ScaleDown,
}

/// How fast units are removed; what is not given has a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScaleDown {
    /// Seconds for which a greater number must not have been needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stabilization_window: Option<i32>,
    /// In a minute, of the units that there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_policy_value: Option<i32>,
    /// In a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub units_policy_value: Option<i32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_is_stored_as_clients_see_it() {
        let text = r#"{"minUnits":2,"maxUnits":6,"averageCPU":"500m","schedules":[],"prometheus":[],"behavior":{"scaleDown":{}}}"#;
        let rule: ScaleRule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.average_cpu, Some(CpuTarget(500)));
        assert_eq!(serde_json::to_string(&rule).unwrap(), text);
    }
}
