//! Items of metadata as clients of both editions send them.

use crate::kernel::error::Error;
use crate::web::Params;

/// The name of an item, and its value; without one, the item is to be removed.
pub type MetadataItemChange = (String, Option<String>);

/// Reads `labels` and `annotations`, each item with `name` and either `value` or `delete`.
pub fn parse_metadata_items(
    params: &Params,
) -> Result<(Vec<MetadataItemChange>, Vec<MetadataItemChange>), Error> {
    let items = |key: &str| -> Result<Vec<MetadataItemChange>, Error> {
        let item = |item: &Params| {
            let value = match item.get_bool("delete")? {
                true => None,
                false => Some(item.get_string_or_empty("value")?.unwrap_or_default()),
            };
            Ok((item.require_string("name")?, value))
        };
        params.get_objects(key)?.iter().map(item).collect()
    };
    Ok((items("labels")?, items("annotations")?))
}
