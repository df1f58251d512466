//! Platforms in the modern edition (contract/modern 2.15).

use axum::Json;
use axum::extract::Request;
use schemars::JsonSchema;
use serde::Serialize;

use crate::builders::platform_archive::MAX_PLATFORM_ARCHIVE_BYTES;
use crate::kernel::error::Error;
use crate::kernel::names::PlatformName;
use crate::kernel::permission::Permission;
use crate::platforms::actions;
use crate::platforms::model::{PlatformPatch, PlatformVersions, parse_version_image, version_image};
use crate::platforms::wire::PlatformView;
use crate::web::answers::EventStream;
use crate::web::errors::modern::ModernResult;
use crate::web::form_parts::SmallForm;
use crate::web::route_table::AuthPolicy::{UserToken, UserWithPermission};
use crate::web::route_table::{DELETE, GET, POST, PUT, RouteTable};
use crate::web::stream::stream_message;
use crate::web::{Ctx, Params, Path};

/// The part with the archive: where clients send a Dockerfile.
const ARCHIVE_PART: &str = "dockerfile_content";

/// The description of a single platform; its images are the names of its versions.
#[derive(Debug, JsonSchema, Serialize)]
pub struct PlatformInfoView {
    images: Vec<String>,
    platform: PlatformView,
}

impl From<PlatformVersions> for PlatformInfoView {
    fn from(found: PlatformVersions) -> Self {
        let name = &found.platform.name;
        Self {
            images: found
                .versions
                .iter()
                .map(|version| version_image(name, *version))
                .collect(),
            platform: found.platform.into(),
        }
    }
}

/// `GET /1.0/platforms`
pub async fn list_platforms(ctx: Ctx) -> ModernResult<Json<Vec<PlatformView>>> {
    let platforms = actions::list_platforms(&ctx.core).await?;
    Ok(Json(platforms.into_iter().map(PlatformView::from).collect()))
}

/// `GET /1.6/platforms/{platform}`
pub async fn get_platform(ctx: Ctx, Path(name): Path<PlatformName>) -> ModernResult<Json<PlatformInfoView>> {
    let found = actions::get_platform(&ctx.core, &name).await?;
    Ok(Json(found.into()))
}

/// `POST /1.0/platforms`: a multipart body with `name` and the archive of scripts as `dockerfile_content`.
pub async fn add_platform(ctx: Ctx, request: Request) -> ModernResult<EventStream> {
    let parts = SmallForm::read_request(request, ARCHIVE_PART, MAX_PLATFORM_ARCHIVE_BYTES).await?;
    let name = PlatformName::parse(&parts.fields.require_string("name")?)?;
    let archive = parts
        .file
        .ok_or_else(|| Error::invalid(format!("{ARCHIVE_PART} is missing: send an archive of scripts.")))?;
    actions::add_platform(&ctx.core, &ctx.request, &name, archive).await?;
    Ok(stream_message("Platform successfully added!"))
}

/// `PUT /1.0/platforms/{platform}`: the same archive, or `disabled`, or both.
pub async fn update_platform(
    ctx: Ctx,
    Path(name): Path<PlatformName>,
    request: Request,
) -> ModernResult<EventStream> {
    let parts = SmallForm::read_request(request, ARCHIVE_PART, MAX_PLATFORM_ARCHIVE_BYTES).await?;
    let patch = PlatformPatch {
        disabled: parts.fields.get_optional_bool("disabled")?,
        archive: parts.file,
    };
    actions::update_platform(&ctx.core, &ctx.request, &name, patch).await?;
    Ok(stream_message("Platform successfully updated!"))
}

/// `POST /1.6/platforms/{platform}/rollback`: form `image`, the name of a version.
pub async fn roll_back_platform(
    ctx: Ctx,
    Path(name): Path<PlatformName>,
    params: Params,
) -> ModernResult<EventStream> {
    let version = parse_version_image(&params.require_string("image")?)?;
    actions::roll_back_platform(&ctx.core, &ctx.request, &name, version).await?;
    Ok(stream_message("Platform successfully rolled back!"))
}

/// `DELETE /1.0/platforms/{platform}`
pub async fn remove_platform(ctx: Ctx, Path(name): Path<PlatformName>) -> ModernResult {
    Ok(actions::remove_platform(&ctx.core, &ctx.request, &name).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.0", GET, "/platforms", UserToken, list_platforms)
        .add_versioned_route("1.0", POST, "/platforms", UserWithPermission(Permission::PLATFORM_CREATE), add_platform).take_file()
        .add_versioned_route("1.0", PUT, "/platforms/{platform}", UserWithPermission(Permission::PLATFORM_UPDATE), update_platform).take_file()
        .add_versioned_route("1.0", DELETE, "/platforms/{platform}", UserWithPermission(Permission::PLATFORM_DELETE), remove_platform)
        .add_versioned_route("1.6", GET, "/platforms/{platform}", UserToken, get_platform)
        .add_versioned_route("1.6", POST, "/platforms/{platform}/rollback", UserWithPermission(Permission::PLATFORM_UPDATE), roll_back_platform)
}
