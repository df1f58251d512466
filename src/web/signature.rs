//! What a handler takes and answers, read off its types. The route table accepts only handlers whose types say
//! so, and the OpenAPI document is made from them (`http::openapi`): it cannot forget a route, a parameter of a
//! path or a field of a response.

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{OriginalUri, Request};
use axum::http::{HeaderMap, Method, Uri};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::web::answers::TEXT;
use crate::web::errors::modern::ModernError;
use crate::web::websocket::PendingUpgrade;
use crate::web::{Ctx, Params, Path, PathParam};

/// How a handler reads the rest of a request, besides its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestInput {
    /// It reads nothing.
    #[default]
    Nothing,
    /// Fields, from a query, a form or JSON.
    Fields,
    /// The bytes of the body, by rules of its own.
    Body,
}

/// A successful answer of a handler.
#[derive(Clone, Debug)]
pub struct AnswerShape {
    pub status: u16,
    /// The Content-Type and the schema of the body; `None` without a body.
    pub content: Option<(&'static str, Schema)>,
}

/// What a handler takes and answers.
#[derive(Clone, Debug, Default)]
pub struct HandlerSignature {
    /// The parameters of the path, in its order.
    pub path_params: Vec<Schema>,
    pub input: RequestInput,
    pub answers: Vec<AnswerShape>,
}

/// An argument of a handler.
pub trait DescribeArgument {
    /// Adds the argument to the signature.
    fn describe_argument(signature: &mut HandlerSignature, generator: &mut SchemaGenerator);
}

/// A result of a handler.
pub trait DescribeAnswer {
    /// Adds the successful answers to the signature.
    fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator);
}

/// A handler whose arguments and result can be described.
pub trait DescribeHandler<Args> {
    /// Returns what the handler takes and answers; named types are added to the generator.
    fn describe_handler(generator: &mut SchemaGenerator) -> HandlerSignature;
}

macro_rules! describe_handlers {
    ($(($($argument:ident),*))*) => {
        $(impl<F, Fut, R, $($argument),*> DescribeHandler<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Fut,
            Fut: Future<Output = R>,
            R: DescribeAnswer,
            $($argument: DescribeArgument,)*
        {
            fn describe_handler(generator: &mut SchemaGenerator) -> HandlerSignature {
                let mut signature = HandlerSignature::default();
                $($argument::describe_argument(&mut signature, generator);)*
                R::describe_answer(&mut signature, generator);
                signature
            }
        })*
    };
}

describe_handlers! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) }

/// Implements `DescribeArgument` for what is not part of the API's description.
macro_rules! hidden_arguments {
    ($($argument:ty),*) => {
        $(impl DescribeArgument for $argument {
            fn describe_argument(_: &mut HandlerSignature, _: &mut SchemaGenerator) {}
        })*
    };
}

hidden_arguments! { Ctx, HeaderMap, Method, Uri, OriginalUri, PendingUpgrade }

impl<T> DescribeArgument for Extension<T> {
    fn describe_argument(_: &mut HandlerSignature, _: &mut SchemaGenerator) {}
}

impl<T: PathParam> DescribeArgument for Path<T> {
    fn describe_argument(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
        T::describe_param(&mut signature.path_params);
    }
}

impl DescribeArgument for Params {
    fn describe_argument(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
        signature.input = RequestInput::Fields;
    }
}

/// Implements `DescribeArgument` for the body as it is.
macro_rules! body_arguments {
    ($($argument:ty),*) => {
        $(impl DescribeArgument for $argument {
            fn describe_argument(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
                signature.input = RequestInput::Body;
            }
        })*
    };
}

body_arguments! { Bytes, Request }

impl<T: DescribeAnswer, E> DescribeAnswer for Result<T, E> {
    fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator) {
        T::describe_answer(signature, generator);
    }
}

impl DescribeAnswer for () {
    fn describe_answer(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
        signature.add_answer(200, None);
    }
}

impl<T: JsonSchema> DescribeAnswer for Json<T> {
    fn describe_answer(signature: &mut HandlerSignature, generator: &mut SchemaGenerator) {
        signature.add_answer(200, Some((JSON, generator.subschema_for::<T>())));
    }
}

/// Implements `DescribeAnswer` for plain text.
macro_rules! text_answers {
    ($($answer:ty),*) => {
        $(impl DescribeAnswer for $answer {
            fn describe_answer(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
                signature.add_answer(200, Some((TEXT, json_schema!({ "type": "string" }))));
            }
        })*
    };
}

text_answers! { String, &'static str }

impl DescribeAnswer for Bytes {
    fn describe_answer(signature: &mut HandlerSignature, _: &mut SchemaGenerator) {
        let content = ("application/octet-stream", json_schema!({ "type": "string" }));
        signature.add_answer(200, Some(content));
    }
}

/// A handler that only refuses.
impl DescribeAnswer for ModernError {
    fn describe_answer(_: &mut HandlerSignature, _: &mut SchemaGenerator) {}
}

/// The Content-Type of JSON.
pub const JSON: &str = "application/json";

impl HandlerSignature {
    /// Adds a successful answer.
    pub fn add_answer(&mut self, status: u16, content: Option<(&'static str, Schema)>) {
        self.answers.push(AnswerShape { status, content });
    }
}
