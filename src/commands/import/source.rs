//! What is read of a server, leniently: fields that a version of tsuru does not send are empty.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Reads null as the default.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
pub(super) struct SourceTeam {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) tags: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SourceUser {
    pub(super) email: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) roles: Vec<SourceHeldRole>,
}

/// A role of a user in a context.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SourceHeldRole {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) context_value: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct SourceRole {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) context: String,
    #[serde(default, alias = "Description", deserialize_with = "nullable")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) scheme_names: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SourcePool {
    pub(super) name: String,
    #[serde(default)]
    pub(super) default: bool,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) provisioner: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SourceConstraint {
    pub(super) pool_expr: String,
    pub(super) field: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) values: Vec<String>,
    #[serde(default)]
    pub(super) blacklist: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct SourcePlan {
    pub(super) name: String,
    #[serde(default)]
    pub(super) memory: i64,
    #[serde(default)]
    pub(super) cpumilli: i64,
    #[serde(default)]
    pub(super) default: bool,
}

/// A service with its instances.
#[derive(Debug, Deserialize)]
pub(super) struct SourceService {
    pub(super) service: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) service_instances: Vec<SourceInstance>,
}

#[derive(Debug, Deserialize)]
pub(super) struct SourceInstance {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) plan_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) apps: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) team_owner: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) parameters: BTreeMap<String, String>,
}

/// An app in a list.
#[derive(Debug, Deserialize)]
pub(super) struct SourceAppName {
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct SourceApp {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) platform: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) teamowner: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) teams: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) pool: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) plan: SourcePlanName,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) description: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) tags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) cname: Vec<String>,
}

/// The plan in the description of an app.
#[derive(Debug, Default, Deserialize)]
pub(super) struct SourcePlanName {
    #[serde(default)]
    pub(super) name: String,
}

/// A variable of an app.
#[derive(Debug, Deserialize)]
pub(super) struct SourceVariable {
    pub(super) name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub(super) value: String,
    #[serde(default)]
    pub(super) public: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absent_fields_are_empty() {
        let app: SourceApp =
            serde_json::from_str(r#"{"name":"shop","teams":null,"plan":null,"cname":null,"later":{"x":1}}"#)
                .unwrap();
        assert!(app.teams.is_empty() && app.cname.is_empty() && app.plan.name.is_empty());
        let role: SourceRole = serde_json::from_str(r#"{"name":"r","scheme_names":null}"#).unwrap();
        assert!(role.scheme_names.is_empty());
        assert!(serde_json::from_str::<SourceTeam>("{}").is_err());
    }
}
