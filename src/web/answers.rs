//! The answers of handlers that are more than a JSON value with the status 200. Each type says what it sends, for the
//! description of the API.

use std::marker::PhantomData;

use axum::Json;
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;

use crate::web::signature::{DescribeAnswer, HandlerSignature, JSON};
use crate::web::stream::StreamLine;

/// The Content-Type of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// The Content-Type of a stream of JSON lines.
pub const JSON_STREAM: &str = "application/x-json-stream";

/// An answer without a body.
#[derive(Clone, Copy, Debug, Default)]
pub struct EmptyAnswer<const STATUS: u16>;

/// 201 without a body.
pub type CreatedAnswer = EmptyAnswer<201>;
/// 202 without a body.
pub type AcceptedAnswer = EmptyAnswer<202>;
/// 204.
pub type NoContentAnswer = EmptyAnswer<204>;

impl<const STATUS: u16> IntoResponse for EmptyAnswer<STATUS> {
    fn into_response(self) -> Response {
        const { assert!(STATUS >= 200 && STATUS < 300, "an answer is a success") };
        StatusCode::from_u16(STATUS).unwrap_or_default().into_response()
    }
}

impl<const STATUS: u16> DescribeAnswer for EmptyAnswer<STATUS> {
    fn describe_answer(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
        signature.add_answer(STATUS, None);
    }
}

/// Defines answers that are JSON with another status than 200.
macro_rules! json_answers {
    ($($(#[$doc:meta])* $name:ident = $status:literal;)*) => {
        $($(#[$doc])*
        #[derive(Debug)]
        pub struct $name<T>(pub T);

        impl<T: Serialize> IntoResponse for $name<T> {
            fn into_response(self) -> Response {
                (EmptyAnswer::<$status>.into_response().status(), Json(self.0)).into_response()
            }
        }

        impl<T: JsonSchema> DescribeAnswer for $name<T> {
            fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator) {
                signature.add_answer($status, Some((JSON, generator.subschema_for::<T>())));
            }
        })*
    };
}

json_answers! {
    /// 201 with the thing that was created.
    CreatedJson = 201;
    /// 202 with the thing as it will be.
    AcceptedJson = 202;
}

/// JSON of the type `T` that is encoded already.
#[derive(Debug)]
pub struct EncodedJson<T> {
    bytes: Bytes,
    kind: PhantomData<fn() -> T>,
}

impl<T> From<Bytes> for EncodedJson<T> {
    fn from(bytes: Bytes) -> Self {
        let kind = PhantomData;
        Self { bytes, kind }
    }
}

impl<T> IntoResponse for EncodedJson<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], self.bytes).into_response()
    }
}

impl<T: JsonSchema> DescribeAnswer for EncodedJson<T> {
    fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator) {
        signature.add_answer(200, Some((JSON, generator.subschema_for::<T>())));
    }
}

/// A response whose body is of the kind `K`.
#[derive(Debug)]
pub struct ShapedAnswer<K> {
    response: Response,
    kind: PhantomData<K>,
}

impl<K> From<Response> for ShapedAnswer<K> {
    fn from(response: Response) -> Self {
        let kind = PhantomData;
        Self { response, kind }
    }
}

impl<K> IntoResponse for ShapedAnswer<K> {
    fn into_response(self) -> Response {
        self.response
    }
}

/// The kind of a body.
pub trait BodyKind {
    /// The status of the success.
    const STATUS: u16 = 200;

    /// Returns the Content-Types that the body may have, each with its schema; none if there is no body.
    fn describe_content(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)>;
}

impl<K: BodyKind> DescribeAnswer for ShapedAnswer<K> {
    fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator) {
        let content = K::describe_content(generator);
        if content.is_empty() {
            signature.add_answer(K::STATUS, None);
        }
        for body in content {
            signature.add_answer(K::STATUS, Some(body));
        }
    }
}

fn any_string() -> Schema {
    json_schema!({ "type": "string" })
}

/// JSON lines: see [`StreamLine`].
#[derive(Debug)]
pub enum JsonLines {}

/// The progress of an event as JSON lines.
pub type EventStream = ShapedAnswer<JsonLines>;

impl BodyKind for JsonLines {
    fn describe_content(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        // The lines' type is in the document, though one cannot say that a body is a sequence of it.
        generator.subschema_for::<StreamLine<'_>>();
        vec![(JSON_STREAM, any_string())]
    }
}

/// Lines of text.
#[derive(Debug)]
pub enum TextLines {}

/// The progress of an event as text.
pub type TextStream = ShapedAnswer<TextLines>;

impl BodyKind for TextLines {
    fn describe_content(_: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![(TEXT, any_string())]
    }
}

/// JSON lines, or lines of text for clients that do not ask for JSON.
#[derive(Debug)]
pub enum NegotiatedLines {}

/// The progress of an event as JSON lines or as text.
pub type NegotiatedStream = ShapedAnswer<NegotiatedLines>;

impl BodyKind for NegotiatedLines {
    fn describe_content(_: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![(JSON_STREAM, any_string()), (TEXT, any_string())]
    }
}

/// JSON lists, one after the other, as lines of logs are sent; of the Content-Type that the edition has.
#[derive(Debug)]
pub struct LogLists<T>(PhantomData<T>);

impl<T: JsonSchema> BodyKind for LogLists<T> {
    fn describe_content(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        generator.subschema_for::<T>();
        vec![(JSON_STREAM, any_string()), (JSON, any_string())]
    }
}

/// JSON of the type `T` that is written while it is read, or that has a Content-Type with parameters.
#[derive(Debug)]
pub struct RenderedJson<T>(PhantomData<T>);

/// A JSON list that is written while it is read.
pub type StreamedList<T> = ShapedAnswer<RenderedJson<Vec<T>>>;

impl<T: JsonSchema> BodyKind for RenderedJson<T> {
    fn describe_content(generator: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![(JSON, generator.subschema_for::<T>())]
    }
}

/// The bytes of another program, such as `git` or a service, with its Content-Type and status.
#[derive(Debug)]
pub enum ForeignBytes {}

/// An answer of another program, passed on.
pub type ForwardedAnswer = ShapedAnswer<ForeignBytes>;

impl BodyKind for ForeignBytes {
    fn describe_content(_: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        vec![("*/*", json_schema!({}))]
    }
}

/// The upgrade to a WebSocket.
#[derive(Debug)]
pub enum SwitchedProtocol {}

/// The upgrade to a WebSocket.
pub type WebSocketAnswer = ShapedAnswer<SwitchedProtocol>;

impl BodyKind for SwitchedProtocol {
    const STATUS: u16 = 101;

    fn describe_content(_: &mut SchemaGenerator) -> Vec<(&'static str, Schema)> {
        Vec::new()
    }
}
