//! Parsing of services that both editions share.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kernel::error::Error;
use crate::services::manifest::ManifestFields;
use crate::web::Params;

/// Reads the manifest from form fields, or from a JSON object.
pub(super) fn read_manifest_fields(params: &Params) -> Result<ManifestFields, Error> {
    let field = |key: &str| params.get_string(key).map(Option::unwrap_or_default);
    let endpoint = match params.get_value("endpoint") {
        Some(Value::Object(_)) => params.get_string_map("endpoint")?,
        _ => BTreeMap::from([("production".to_owned(), field("endpoint")?)]),
    };
    Ok(ManifestFields {
        id: field("id")?,
        username: field("username")?,
        password: field("password")?,
        team: field("team")?,
        dialect: field("dialect")?,
        endpoint,
    })
}
