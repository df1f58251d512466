//! The description of the API in OpenAPI 3.1, made from the route tables and the types of the handlers. It lists the modern
//! routes with their versions and the classic ones; a modern route has the same meaning without its version, where
//! no classic route has its place.
//!
//! The fields that handlers read from a request are added from their sources by `tests/openapi`, which also compares the
//! result with the checked-in document that the server offers.

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::http::{classic, modern};
use crate::web::route_table::{AuthPolicy, RouteEntry, full_path};
use crate::web::signature::{AnswerShape, HandlerSignature, RequestInput};

/// The document that the server offers.
pub const DOCUMENT: &str = include_str!("../../docs/compatibility/openapi.json");

/// An operation of the description, with the name of its handler.
#[derive(Clone, Debug)]
pub struct DescribedOperation {
    pub path: String,
    /// In lower case.
    pub method: String,
    /// The handler with its module.
    pub handler: &'static str,
    pub input: RequestInput,
}

/// Returns the description without the fields of requests, and its operations in the order of the tables.
pub fn describe_api() -> (Value, Vec<DescribedOperation>) {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let (mut paths, mut operations) = (Map::new(), Vec::new());
    for entry in [modern::modern_routes(), classic::classic_routes()]
        .into_iter()
        .flat_map(|table| table.entries)
    {
        let signature = (entry.describe)(&mut generator);
        let (path, method) = (open_path(&entry), entry.info.method.as_str().to_lowercase());
        operations.push(DescribedOperation {
            path: path.clone(),
            method: method.clone(),
            handler: entry.handler_name,
            input: signature.input,
        });
        let item = paths.entry(path).or_insert_with(|| json!({}));
        item[method] = describe_operation(&entry, signature);
    }
    (wrap_paths(paths, generator), operations)
}

fn wrap_paths(paths: Map<String, Value>, mut generator: SchemaGenerator) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tancho",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of tsuru as Tancho speaks it. A path with a version is of the modern edition and answers without its version too, where the classic edition has no such path. Keys of requests are not case-sensitive; their bodies may be JSON or a form, and fields may be in the query as well.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The token of a user, a team or an app." },
            },
        },
    })
}

/// Returns the path with the parameters as OpenAPI writes them.
fn open_path(entry: &RouteEntry) -> String {
    full_path(&entry.info).replace("{*", "{")
}

fn param_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split('}').next())
}

fn describe_operation(entry: &RouteEntry, signature: HandlerSignature) -> Value {
    let path = open_path(entry);
    let schemas = signature
        .path_params
        .into_iter()
        .map(Some)
        .chain(std::iter::repeat(None));
    let parameters: Vec<Value> = param_names(&path)
        .zip(schemas)
        .map(|(name, schema)| {
            let schema = schema.map_or_else(|| json!({ "type": "string" }), Schema::to_value);
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect();
    let mut operation = json!({
        "operationId": operation_id(entry),
        "tags": [if entry.info.modern { "modern" } else { "classic" }],
        "responses": describe_responses(&signature.answers),
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if signature.input == RequestInput::Body {
        operation["requestBody"] = json!({ "content": { "*/*": { "schema": {} } } });
    }
    if entry.info.auth_policy != AuthPolicy::Public {
        operation["security"] = json!([{ "token": [] }]);
    }
    operation
}

/// Returns a name that no other operation has: handlers may serve several paths.
fn operation_id(entry: &RouteEntry) -> String {
    let path = full_path(&entry.info);
    let words = path
        .split(['/', '{', '}', '*', '-', '.'])
        .filter(|word| !word.is_empty());
    let end = path.ends_with('/').then_some("slash");
    let mut id = entry.info.method.as_str().to_lowercase();
    for word in words.chain(end) {
        id.push('_');
        id.push_str(word);
    }
    id
}

fn describe_responses(answers: &[AnswerShape]) -> Value {
    let mut responses = json!({
        "default": {
            "description": "Why the request failed, for people.",
            "content": { "text/plain": { "schema": { "type": "string" } } },
        },
    });
    for answer in answers {
        let response = &mut responses[answer.status.to_string()];
        if response.is_null() {
            *response = json!({ "description": "Success." });
        }
        if let Some((content_type, schema)) = &answer.content {
            response["content"][content_type] = json!({ "schema": schema });
        }
    }
    responses
}
