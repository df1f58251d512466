//! Multipart bodies: fields, and one file. The handler receives the file piece by piece; the fields are
//! bounded here.

use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};

use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::web::{self, Params};

/// Bytes of a field, and fields of a body.
const MAX_FIELD: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;

/// Returns true if a request of this Content-Type has parts.
pub fn is_multipart(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim() == "multipart/form-data"
}

/// A multipart body that is being received.
pub struct PartReader {
    parts: Multipart,
    file_part: &'static str,
    has_file: bool,
    fields: Vec<(String, String)>,
}

impl PartReader {
    /// Begins to read a body in which a part named `file_part` is the file. Errors: `Invalid`.
    pub async fn open(request: Request, file_part: &'static str) -> Result<Self, Error> {
        let parts = Multipart::from_request(request, &()).await.map_err(|error| {
            Error::invalid("The multipart body has no boundary in its Content-Type.").with_source(error)
        })?;
        Ok(Self {
            parts,
            file_part,
            has_file: false,
            fields: Vec::new(),
        })
    }

    /// Receives the next part: a field is kept, the file is the caller's to receive. `None` at the end of the
    /// body. Errors: `Invalid`, also for a second file; `TooLarge`.
    pub async fn next_part(&mut self) -> Result<Option<FormPart<'_>>, Error> {
        let Some(part) = self.parts.next_field().await.map_err(broken_upload)? else {
            return Ok(None);
        };
        let name = part.name().unwrap_or_default().to_owned();
        if name == self.file_part {
            if self.has_file {
                return Err(Error::invalid(format!(
                    "Send one archive: there are two parts named {name}."
                )));
            }
            self.has_file = true;
            return Ok(Some(FormPart::File(Box::new(FilePart(part)))));
        }
        let value = read_field(FilePart(part), &name).await?;
        if self.fields.len() >= MAX_FIELDS {
            return Err(Error::too_large(format!(
                "A request has at most {MAX_FIELDS} fields."
            )));
        }
        self.fields.push((name, value));
        Ok(Some(FormPart::Field))
    }

    /// Returns the fields, once the body was read to its end. Errors: `Invalid`.
    pub fn into_fields(self) -> Result<Params, Error> {
        Params::from_pairs(self.fields)
    }
}

/// The fields of a request, and its file in memory.
#[derive(Debug)]
pub struct SmallForm {
    pub fields: Params,
    pub file: Option<Vec<u8>>,
}

impl SmallForm {
    /// Reads a body with a file of at most `max_file` bytes; a body without parts has fields only. Errors:
    /// `Invalid`; `TooLarge`.
    pub async fn read_request(
        request: Request,
        file_part: &'static str,
        max_file: usize,
    ) -> Result<Self, Error> {
        if !is_multipart(&web::content_type(request.headers())) {
            let fields = read_fields(request).await?;
            return Ok(Self { fields, file: None });
        }
        let too_large =
            || Error::too_large(format!("The part {file_part:?} has more than {max_file} bytes."));
        let (mut parts, mut file) = (PartReader::open(request, file_part).await?, None);
        while let Some(part) = parts.next_part().await? {
            if let FormPart::File(mut part) = part {
                file = Some(part.read_to_end(max_file, too_large).await?);
            }
        }
        Ok(Self {
            fields: parts.into_fields()?,
            file,
        })
    }
}

async fn read_fields(request: Request) -> Result<Params, Error> {
    let (uri, content_type) = (request.uri().clone(), web::content_type(request.headers()));
    let body = Bytes::from_request(request, &()).await;
    let body = body.map_err(|error| {
        Error::too_large("The body is larger than this server accepts, or was cut before its end.")
            .with_source(error)
    })?;
    Params::parse_request(&uri, &content_type, body)
}

/// A part of a body.
pub enum FormPart<'a> {
    /// The file, not received yet.
    File(Box<FilePart<'a>>),
    /// A field, which the reader has kept.
    Field,
}

/// A part that is being received.
pub struct FilePart<'a>(Field<'a>);

impl FilePart<'_> {
    /// Receives the next piece; `None` at the end. Errors: `Invalid` if the body was cut; `TooLarge`.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.chunk().await.map_err(broken_upload)
    }

    async fn read_to_end(&mut self, limit: usize, too_large: impl Fn() -> Error) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next_chunk().await? {
            if bytes.len() + chunk.len() > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

async fn read_field(mut part: FilePart<'_>, name: &str) -> Result<String, Error> {
    let name = quote_excerpt(name);
    let too_long = || Error::too_large(format!("The field {name:?} is too long."));
    String::from_utf8(part.read_to_end(MAX_FIELD, too_long).await?).map_err(|error| {
        Error::invalid(format!(
            "The field {name:?} is not valid UTF-8: encode it as UTF-8."
        ))
        .with_source(error)
    })
}

fn broken_upload(error: MultipartError) -> Error {
    match error.status() {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => {
            Error::too_large("The body is larger than this server accepts.").with_source(error)
        }
        _ => Error::invalid("The upload was cut before its end.").with_source(error),
    }
}
