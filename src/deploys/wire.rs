//! What is deployed, as requests carry it: a multipart body with files, the archive alone, or a form that names an image.

use axum::body::{Body, Bytes};
use axum::extract::Request;
use futures_util::StreamExt;

use crate::core::Core;
use crate::deploys::{ArchiveUpload, DeployOptions, DeploySource, SideOptions, UploadPermit};
use crate::kernel::artifact::ImageName;
use crate::kernel::error::Error;
use crate::web::form_parts::{self, FormPart, PartReader};
use crate::web::{self, Params};

/// How the client sends a deploy without files.
const FORM_TYPE: &str = "application/x-www-form-urlencoded";

pub(super) fn is_form(request: &Request) -> bool {
    web::content_type(request.headers()).starts_with(FORM_TYPE)
}

/// Reads the deploy of an image, which a form names.
pub(super) async fn receive_form(
    core: &Core,
    request: Request,
) -> Result<(DeployOptions, DeploySource), Error> {
    let most = usize::try_from(core.settings.api.max_body_bytes.0).unwrap_or(usize::MAX);
    let (head, body) = request.into_parts();
    let raw = axum::body::to_bytes(body, most).await.map_err(unreadable_form)?;
    let fields = Params::parse_request(&head.uri, FORM_TYPE, raw)?;
    check_sources(&fields, false)?;
    let image = fields.get_string("image")?.ok_or_else(missing_source)?;
    let source = DeploySource::Image(ImageName::parse(&image)?);
    Ok((parse_deploy_options(&fields)?, source))
}

pub(super) async fn receive_source(
    core: &Core,
    permit: &UploadPermit,
    request: Request,
) -> Result<(DeployOptions, DeploySource), Error> {
    let content_type = web::content_type(request.headers());
    if form_parts::is_multipart(&content_type) {
        return receive_parts(core, permit, request).await;
    }
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/json" => Err(Error::invalid(
            "Send the app's files as a .tar.gz: a multipart body with a part named file, or the archive alone.",
        )),
        _ => {
            let order = parse_deploy_options(&Params::parse_request(request.uri(), "", Bytes::new())?)?;
            let archive = receive_file(core, permit, request.into_body()).await?;
            Ok((order, DeploySource::Archive(archive)))
        }
    }
}

async fn receive_file(core: &Core, permit: &UploadPermit, body: Body) -> Result<ArchiveUpload, Error> {
    let mut upload = ArchiveUpload::begin_for(core, permit).await?;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        upload.write_chunk(&chunk.map_err(truncated_upload)?).await?;
    }
    Ok(upload)
}

async fn receive_parts(
    core: &Core,
    permit: &UploadPermit,
    request: Request,
) -> Result<(DeployOptions, DeploySource), Error> {
    let (mut parts, mut upload) = (PartReader::open(request, "file").await?, None);
    while let Some(part) = parts.next_part().await? {
        let FormPart::File(mut part) = part else {
            continue;
        };
        let mut file = ArchiveUpload::begin_for(core, permit).await?;
        while let Some(chunk) = part.next_chunk().await? {
            file.write_chunk(&chunk).await?;
        }
        upload = Some(file);
    }
    let fields = parts.into_fields()?;
    check_sources(&fields, upload.is_some())?;
    let source = match (upload, fields.get_string("image")?) {
        (Some(upload), _) => DeploySource::Archive(upload),
        (None, Some(image)) => DeploySource::Image(ImageName::parse(&image)?),
        (None, None) => return Err(missing_source()),
    };
    let mut order = parse_deploy_options(&fields)?;
    order.dockerfile = fields.get_string("dockerfile")?;
    Ok((order, source))
}

fn unreadable_form(error: axum::Error) -> Error {
    Error::invalid("The form is cut before its end, or larger than this server accepts.").with_source(error)
}

pub(super) fn missing_source() -> Error {
    Error::invalid(
        "You must specify either the archive-url, a image url or upload a file: the part named file is missing.",
    )
}

/// Refuses more than one source, and those that are not deployed here.
fn check_sources(fields: &Params, has_file: bool) -> Result<(), Error> {
    let has_url = fields.get_string("archive-url")?.is_some();
    let has_image = fields.get_string("image")?.is_some();
    if (has_file && has_url) || (has_image && (has_file || has_url)) {
        return Err(Error::invalid(
            "Name one source of the deploy: a file, an archive-url or an image, and not two of them.",
        ));
    }
    let has_dockerfile = fields.get_string("dockerfile")?.is_some();
    if has_dockerfile && has_image {
        return Err(Error::invalid(
            "Name one source of the deploy: an image, or a dockerfile with the files that it is built of.",
        ));
    }
    if has_dockerfile && !has_file {
        return Err(Error::invalid(
            "Send the files that the dockerfile is built of, too: a multipart body with a part named file.",
        ));
    }
    match has_url {
        true => Err(Error::invalid(
            "Archives are not fetched from URLs here: upload the archive as a part named file.",
        )),
        false => Ok(()),
    }
}

fn parse_deploy_options(fields: &Params) -> Result<DeployOptions, Error> {
    Ok(DeployOptions {
        origin: fields.get_string("origin")?.unwrap_or_default(),
        message: fields.get_string("message")?.unwrap_or_default(),
        commit: fields.get_string("commit")?.unwrap_or_default(),
        sides: parse_side_options(fields)?,
        tag: fields.get_string("tag")?,
        ..DeployOptions::default()
    })
}

/// Reads `new-version` and `override-versions`, of which one may be true.
pub(super) fn parse_side_options(fields: &Params) -> Result<SideOptions, Error> {
    let options = SideOptions {
        beside: fields.get_bool("new-version")?,
        replaces_all: fields.get_bool("override-versions")?,
    };
    match options.beside && options.replaces_all {
        true => Err(Error::invalid(
            "new-version and override-versions exclude each other: give one of them.",
        )),
        false => Ok(options),
    }
}

fn truncated_upload(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::invalid("The upload was cut before its end.").with_source(error)
}
