//! A small multipart body: fields, and one file, which is kept in memory within a bound.

use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::web::{self, Params};

/// Bytes of a field, and fields of a body.
const MAX_FIELD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;

/// The fields of a request and its file.
#[derive(Debug)]
pub struct FormParts {
    pub fields: Params,
    pub file: Option<Vec<u8>>,
}

impl FormParts {
    /// Reads a multipart body in which a part named `file_part` is the file; any other body has fields only.
    /// Errors: `Invalid`; `TooLarge` for a file of more than `max_file` bytes.
    pub async fn read_request(request: Request, file_part: &str, max_file: usize) -> Result<Self, Error> {
        if !web::content_type(request.headers()).starts_with("multipart/form-data") {
            return read_fields(request).await;
        }
        let mut parts = Multipart::from_request(request, &()).await.map_err(|error| {
            Error::invalid("The multipart body has no boundary in its Content-Type.").with_source(error)
        })?;
        let (mut fields, mut file) = (Vec::new(), None);
        while let Some(mut part) = parts.next_field().await.map_err(broken_body)? {
            let name = part.name().unwrap_or_default().to_owned();
            if name == file_part {
                let bytes = read_part(&mut part, &name, max_file).await?;
                if file.replace(bytes).is_some() {
                    return Err(Error::invalid(format!(
                        "There are two parts named {file_part}: send one."
                    )));
                }
                continue;
            }
            if fields.len() >= MAX_FIELDS {
                return Err(Error::too_large(format!(
                    "A request has at most {MAX_FIELDS} fields."
                )));
            }
            let value = String::from_utf8(read_part(&mut part, &name, MAX_FIELD).await?);
            let value = value.map_err(|error| {
                let field = quote_excerpt(&name);
                Error::invalid(format!(
                    "The field {field:?} is not valid UTF-8: encode it as UTF-8."
                ))
                .with_source(error)
            })?;
            fields.push((name, value));
        }
        Ok(Self {
            fields: Params::from_pairs(fields)?,
            file,
        })
    }
}

async fn read_fields(request: Request) -> Result<FormParts, Error> {
    let (uri, content_type) = (request.uri().clone(), web::content_type(request.headers()));
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|error| {
        Error::too_large("The body is larger than this server accepts, or was cut before its end.")
            .with_source(error)
    })?;
    Ok(FormParts {
        fields: Params::parse_request(&uri, &content_type, body)?,
        file: None,
    })
}

async fn read_part(part: &mut Field<'_>, name: &str, limit: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(broken_body)? {
        if bytes.len() + chunk.len() > limit {
            return Err(Error::too_large(format!(
                "The part {:?} has more than {limit} bytes.",
                quote_excerpt(name)
            )));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn broken_body(error: MultipartError) -> Error {
    match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
            Error::too_large("The body is larger than this server accepts.").with_source(error)
        }
        _ => Error::invalid("The multipart body is malformed, or was cut before its end.").with_source(error),
    }
}
