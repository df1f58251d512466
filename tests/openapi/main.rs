//! The OpenAPI document `docs/compatibility/openapi.json`: it is what the route tables, the types of the handlers and the
//! sources of the handlers say. `TANCHO_WRITE_OPENAPI=yes cargo test --test openapi` writes it.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]
#![expect(clippy::disallowed_methods, reason = "a test has no settings")]

mod field_reads;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tancho::http::openapi::{self, DescribedOperation};
use tancho::web::signature::RequestInput;

use crate::field_reads::{FieldKind, RequestFields};
use crate::sources::SourceIndex;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/compatibility/openapi.json");

fn make_document() -> (Value, Vec<DescribedOperation>) {
    let (mut document, operations) = openapi::describe_api();
    let sources = SourceIndex::read_all();
    for operation in &operations {
        let item = &mut document["paths"][&operation.path][&operation.method];
        let fields = field_reads::read_fields(&sources, operation.handler);
        if let Some(summary) = sources.find_summary(operation.handler) {
            item["summary"] = summary.into();
        }
        describe_fields(item, operation, &fields);
    }
    (document, operations)
}

fn describe_fields(item: &mut Value, operation: &DescribedOperation, fields: &RequestFields) {
    if matches!(operation.method.as_str(), "get" | "delete") {
        for (name, field) in &fields.properties {
            let parameters = item
                .as_object_mut()
                .unwrap()
                .entry("parameters")
                .or_insert_with(|| json!([]));
            parameters.as_array_mut().unwrap().push(json!({
                "name": name,
                "in": "query",
                "required": field.required,
                "schema": field.schema(),
            }));
        }
    } else if operation.input == RequestInput::Fields && !fields.is_empty() {
        let schema = fields.schema();
        item["requestBody"] = json!({
            "content": {
                "application/json": { "schema": schema },
                "application/x-www-form-urlencoded": { "schema": schema },
            },
        });
    } else if operation.input == RequestInput::Body && !fields.is_empty() {
        let mut schema = fields.schema();
        schema["properties"]["file"] =
            json!({ "type": "string", "contentMediaType": "application/octet-stream" });
        item["requestBody"] =
            json!({ "content": { "multipart/form-data": { "schema": schema }, "*/*": { "schema": {} } } });
    }
}

#[test]
fn checked_in_document_is_what_tables_and_handlers_say() {
    let (document, _) = make_document();
    let mut text = serde_json::to_string_pretty(&document).unwrap();
    text.push('\n');
    if std::env::var("TANCHO_WRITE_OPENAPI").is_ok_and(|yes| yes == "yes") {
        std::fs::write(FILE, text).unwrap();
        return;
    }
    let written: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let differs: Vec<&String> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(path, item)| written["paths"].get(path.as_str()) != Some(*item))
        .map(|(path, _)| path)
        .collect();
    assert!(
        written == document,
        "docs/compatibility/openapi.json is out of date for {differs:?}: run `TANCHO_WRITE_OPENAPI=yes cargo test --test openapi`"
    );
}

/// Handlers that take fields, of which their source reads none by name.
const WITHOUT_NAMED_FIELDS: &[&str] = &[];

#[test]
fn fields_of_every_handler_that_takes_some_are_found() {
    let sources = SourceIndex::read_all();
    let (_, operations) = openapi::describe_api();
    let missing: BTreeSet<&str> = operations
        .iter()
        .filter(|operation| operation.input == RequestInput::Fields)
        .map(|operation| operation.handler)
        .filter(|handler| field_reads::read_fields(&sources, handler).is_empty())
        .collect();
    assert_eq!(missing, WITHOUT_NAMED_FIELDS.iter().copied().collect());
}

#[test]
fn every_getter_of_params_is_known() {
    let sources = SourceIndex::read_all();
    let getters: BTreeSet<String> = sources
        .method_names("Params")
        .into_iter()
        .filter(|name| {
            ["get_", "require_", "parse_", "has_"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .filter(|name| !["parse_request", "parse_number"].contains(&name.as_str()))
        .collect();
    let known: BTreeSet<String> = field_reads::GETTERS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(getters, known);
}

#[test]
fn known_handlers_have_their_known_fields() {
    let sources = SourceIndex::read_all();
    let fields = |handler: &str| field_reads::read_fields(&sources, handler);
    let plan = fields("tancho::plans::modern::create_plan");
    assert_eq!(plan.properties["name"].kind, FieldKind::String);
    assert!(plan.properties["name"].required && !plan.properties["default"].required);
    let FieldKind::Object(burst) = &plan.properties["cpuBurst"].kind else {
        panic!("{plan:?}")
    };
    assert_eq!(burst.properties["maxAllowed"].kind, FieldKind::Number);
    let env = fields("tancho::releases::modern::set_env");
    let FieldKind::Objects(vars) = &env.properties["envs"].kind else {
        panic!("{env:?}")
    };
    let kinds: BTreeMap<&str, bool> = vars
        .properties
        .iter()
        .map(|(k, f)| (k.as_str(), f.required))
        .collect();
    assert_eq!(
        kinds,
        BTreeMap::from([
            ("alias", false),
            ("name", true),
            ("private", false),
            ("value", false)
        ])
    );
    let create = fields("tancho::apps::modern::create_app");
    let FieldKind::Objects(processes) = &create.properties["processes"].kind else {
        panic!("{create:?}")
    };
    let FieldKind::Object(metadata) = &processes.properties["metadata"].kind else {
        panic!("{create:?}")
    };
    assert!(matches!(
        metadata.properties["labels"].kind,
        FieldKind::Objects(_)
    ));
}

#[test]
fn document_refers_to_schemas_that_it_has() {
    let (document, operations) = make_document();
    let mut ids = BTreeSet::new();
    for operation in &operations {
        let item = &document["paths"][&operation.path][&operation.method];
        assert!(
            ids.insert(item["operationId"].as_str().unwrap().to_owned()),
            "{operation:?}"
        );
        for name in operation
            .path
            .split('{')
            .skip(1)
            .map(|rest| rest.split('}').next().unwrap())
        {
            let has = |p: &Value| p["in"] == "path" && p["name"] == name;
            assert!(
                item["parameters"].as_array().unwrap().iter().any(has),
                "{operation:?}"
            );
        }
    }
    check_references(&document, &document);
}

fn check_references(document: &Value, at: &Value) {
    match at {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{reference}");
            }
            map.values().for_each(|value| check_references(document, value));
        }
        Value::Array(list) => list.iter().for_each(|value| check_references(document, value)),
        _ => {}
    }
}
