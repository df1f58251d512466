//! Volumes in the modern edition (contract/modern 2.16). Keys have capitals, as clients know them.

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::apps::AppKind;
use crate::config::VolumePlan;
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, JobName, PoolName, TeamName, VolumeName};
use crate::kernel::permission::Permission;
use crate::volumes::actions::{self, VolumeRequest};
use crate::volumes::binds::{self, VolumeBindRequest};
use crate::volumes::model::{Volume, VolumeBind};
use crate::volumes::store::VolumeFilter;
use crate::web::answers::{CreatedAnswer, EventStream};
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, POST, RouteTable};
use crate::web::stream::StreamFormat;
use crate::web::{Ctx, Params, Path};

/// A volume.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeView {
    name: VolumeName,
    pool: PoolName,
    plan: VolumePlanView,
    team_owner: TeamName,
    /// `bound`, or empty.
    status: &'static str,
    binds: Vec<VolumeBindView>,
    opts: BTreeMap<String, String>,
}

/// A plan of volumes.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumePlanView {
    name: String,
    opts: BTreeMap<String, String>,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeBindView {
    #[serde(rename = "ID")]
    id: VolumeBindKeyView,
    read_only: bool,
}

#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "PascalCase")]
struct VolumeBindKeyView {
    app: AppName,
    mount_point: String,
    volume: VolumeName,
}

impl From<&VolumePlan> for VolumePlanView {
    fn from(plan: &VolumePlan) -> Self {
        Self {
            name: plan.name.to_string(),
            opts: plan.options.clone(),
        }
    }
}

impl VolumeView {
    fn new(ctx: &Ctx, volume: Volume) -> Self {
        let settings = &ctx.core.settings.volumes;
        let plan = settings.find_plan(&volume.provisioner, &volume.plan);
        let bind = |bind: VolumeBind| VolumeBindView {
            id: VolumeBindKeyView {
                app: bind.app,
                mount_point: bind.mount_point,
                volume: volume.name.clone(),
            },
            read_only: bind.is_read_only,
        };
        Self {
            status: if volume.binds.is_empty() { "" } else { "bound" },
            binds: volume.binds.into_iter().map(bind).collect(),
            plan: VolumePlanView {
                opts: plan.map(|plan| plan.options.clone()).unwrap_or_default(),
                name: volume.plan,
            },
            name: volume.name,
            pool: volume.pool,
            team_owner: volume.team_owner,
            opts: volume.options,
        }
    }
}

fn parse_volume(params: &Params) -> Result<VolumeRequest, Error> {
    Ok(VolumeRequest {
        plan: params.get_object("plan")?.get_string("name")?,
        pool: params.parse_field("pool")?,
        team_owner: params.parse_field("teamowner")?,
        options: params.get_string_map("opts")?,
    })
}

/// Reads what is bound: `App`, or `Job`, which clients do not send yet.
fn parse_bind(params: &Params) -> Result<VolumeBindRequest, Error> {
    let job: Option<JobName> = params.parse_field("job")?;
    let (kind, app) = match job {
        Some(job) => (AppKind::Job, AppName::parse(job.as_str())?),
        None => (AppKind::App, AppName::parse(&params.require_string("app")?)?),
    };
    Ok(VolumeBindRequest {
        kind,
        app,
        mount_point: params.require_string("mountpoint")?,
        is_read_only: params.get_bool("readonly")?,
        no_restart: params.get_bool("norestart")?,
    })
}

/// `GET /1.4/volumes?name=&plan=&pool=&teamOwner=`
pub async fn list_volumes(ctx: Ctx, params: Params) -> ModernResult<Json<Vec<VolumeView>>> {
    let filter = VolumeFilter {
        name: params.get_string("name")?.unwrap_or_default(),
        plan: params.get_string("plan")?.unwrap_or_default(),
        pool: params.get_string("pool")?.unwrap_or_default(),
        team_owner: params.get_string("teamowner")?.unwrap_or_default(),
        ..VolumeFilter::default()
    };
    let volumes = actions::list_volumes(&ctx.core, &ctx.request, filter).await?;
    Ok(Json(
        volumes
            .into_iter()
            .map(|volume| VolumeView::new(&ctx, volume))
            .collect(),
    ))
}

/// `POST /1.4/volumes`: form `Name`, `Plan.Name`, `Pool`, `TeamOwner`, `Opts.k`.
pub async fn create_volume(ctx: Ctx, params: Params) -> ModernResult<CreatedAnswer> {
    let name = VolumeName::parse(&params.require_string("name")?)?;
    actions::create_volume(&ctx.core, &ctx.request, &name, parse_volume(&params)?).await?;
    Ok(CreatedAnswer::default())
}

/// `GET /1.4/volumes/{volume}`
pub async fn get_volume(ctx: Ctx, Path(name): Path<VolumeName>) -> ModernResult<Json<VolumeView>> {
    let permission = Permission::VOLUME_READ;
    let volume = actions::find_authorized_volume(&ctx.core, &ctx.request, &name, permission).await?;
    Ok(Json(VolumeView::new(&ctx, volume)))
}

/// `POST /1.4/volumes/{volume}`: as for a new one; what is empty stays.
pub async fn update_volume(ctx: Ctx, Path(name): Path<VolumeName>, params: Params) -> ModernResult {
    Ok(actions::update_volume(&ctx.core, &ctx.request, &name, parse_volume(&params)?).await?)
}

/// `DELETE /1.4/volumes/{volume}`
pub async fn delete_volume(ctx: Ctx, Path(name): Path<VolumeName>) -> ModernResult {
    Ok(actions::delete_volume(&ctx.core, &ctx.request, &name).await?)
}

/// `POST /1.4/volumes/{volume}/bind`: form `App`, `MountPoint`, `ReadOnly`, `NoRestart`.
pub async fn bind_volume(
    ctx: Ctx,
    Path(name): Path<VolumeName>,
    params: Params,
) -> ModernResult<EventStream> {
    let event = binds::bind_volume(&ctx.core, &ctx.request, &name, &parse_bind(&params)?).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `DELETE /1.4/volumes/{volume}/bind?App=&MountPoint=&NoRestart=`
pub async fn unbind_volume(
    ctx: Ctx,
    Path(name): Path<VolumeName>,
    params: Params,
) -> ModernResult<EventStream> {
    let event = binds::unbind_volume(&ctx.core, &ctx.request, &name, &parse_bind(&params)?).await?;
    Ok(ctx.stream_event(&event, StreamFormat::Json).await?)
}

/// `GET /1.4/volumeplans`: by provisioner.
pub async fn list_plans(ctx: Ctx) -> ModernResult<Json<BTreeMap<&'static str, Vec<VolumePlanView>>>> {
    let plans = actions::list_plans(&ctx.core, &ctx.request)?;
    let views = plans
        .into_iter()
        .map(|(provisioner, plans)| (provisioner, plans.iter().map(VolumePlanView::from).collect()));
    Ok(Json(views.collect()))
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.4", GET, "/volumes", UserToken, list_volumes)
        .add_versioned_route("1.4", POST, "/volumes", UserToken, create_volume)
        .add_versioned_route("1.4", GET, "/volumes/{volume}", UserToken, get_volume)
        .add_versioned_route("1.4", POST, "/volumes/{volume}", UserToken, update_volume)
        .add_versioned_route("1.4", DELETE, "/volumes/{volume}", UserToken, delete_volume)
        .add_versioned_route("1.4", POST, "/volumes/{volume}/bind", UserToken, bind_volume)
        .add_versioned_route("1.4", DELETE, "/volumes/{volume}/bind", UserToken, unbind_volume)
        .add_versioned_route("1.4", GET, "/volumeplans", UserToken, list_plans)
}
