//! Apps as the modern edition shows them (contract/modern 2.5, 2.21).

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use crate::apps::actions::{self, Change};
use crate::apps::addresses;
use crate::apps::classic;
use crate::apps::model::{Full, UnitView};
use crate::core::Core;
use crate::http::kit::stream::{self, Form};
use crate::http::kit::{Caller, Input};
use crate::http::wording::modern::Refusal;
use crate::kernel::names::{AppName, TeamName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::teams;

fn app_name(text: &str) -> Result<AppName, Problem> {
    AppName::parse(text).map_err(|_| Problem::not_found(format!("App {text} not found.")))
}

/// A unit; its address is an object (contract/modern 2.21).
pub(crate) fn unit(full: &Full, unit: &UnitView) -> Value {
    let host = unit.address.clone().unwrap_or_default();
    let ip = host.rsplit_once(':').map_or("", |(ip, _)| ip);
    let address = json!({ "Scheme": "http", "Host": host });
    json!({
        "ID": unit.id, "Name": unit.id, "AppName": full.app.name, "ProcessName": unit.process,
        "Type": full.app.platform, "IP": ip, "InternalIP": ip, "Status": unit.state, "StatusReason": unit.reason,
        "Address": address, "Addresses": [address], "Version": unit.version,
        "Routable": unit.phase == "serving", "Restarts": unit.restarts, "CreatedAt": unit.created_at,
        "Ready": unit.ready, "HostAddr": ip, "HostPort": host.rsplit_once(':').map_or("", |(_, port)| port),
    })
}

fn router(core: &Core, full: &Full) -> Value {
    let address = core.public.app_address(&full.app.label);
    json!({
        "name": "proxy", "type": "proxy", "opts": {}, "address": address, "addresses": [address],
        "status": "ready", "status-detail": "",
    })
}

fn resume(core: &Core, full: &Full) -> Value {
    let app = &full.app;
    json!({
        "name": app.name, "pool": app.pool, "teamowner": app.team_owner, "teams": app.teams, "owner": app.owner,
        "plan": { "name": app.plan, "memory": full.memory_bytes, "cpumilli": full.cpu_milli,
                  "default": full.plan_is_default },
        "units": full.units.iter().map(|u| unit(full, u)).collect::<Vec<_>>(),
        "cname": app.cnames, "ip": core.public.app_address(&app.label), "routers": [router(core, full)],
        "tags": app.tags, "platform": app.platform, "description": app.description, "metadata": metadata(full),
    })
}

fn metadata(full: &Full) -> Value {
    let part = |key: &str| full.app.metadata.get(key).cloned().unwrap_or_else(|| json!([]));
    json!({ "labels": part("labels"), "annotations": part("annotations") })
}

fn info_view(core: &Core, full: &Full) -> Value {
    let mut view = resume(core, full);
    let binds: Vec<Value> = full
        .binds
        .iter()
        .map(|b| json!({ "service": b.service, "instance": b.instance, "plan": b.plan }))
        .collect();
    let processes: Vec<Value> = full
        .processes
        .iter()
        .map(|p| json!({ "name": p.process, "metadata": {} }))
        .collect();
    let more = json!({
        "deploys": full.app.deploys, "provisioner": full.provisioner, "router": "proxy",
        "serviceInstanceBinds": binds, "volumeBinds": [], "processes": processes, "internalAddresses": [],
        "autoscale": [], "unitsMetrics": [], "repository": core.public.repository_url(&full.app.name),
        "quota": { "limit": full.app.quota_limit, "inuse": full.units_wanted() },
    });
    if let (Value::Object(view), Value::Object(more)) = (&mut view, more) {
        view.extend(more);
    }
    view
}

/// `GET /1.0/apps`
pub async fn list(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<Response, Refusal> {
    let statuses = input.text("status")?.unwrap_or_default();
    let statuses: Vec<String> = statuses
        .split(',')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    let wanted =
        move |full: &Full| statuses.is_empty() || full.units.iter().any(|u| statuses.contains(&u.state));
    let apps = actions::list(&core, &call, classic::filter(&input)?);
    Ok(stream::list(apps, move |full| wanted(full).then(|| resume(&core, full))).await?)
}

/// `GET /1.4/teams/{team}`: the team, with its apps as their own info tells of them to who may read it.
pub async fn team_info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(team): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let name = TeamName::parse(&team);
    let path = Path(team);
    let Json(view) = teams::modern::info(State(core.clone()), Caller(call.clone()), path).await?;
    let mut view = serde_json::to_value(view).map_err(Problem::internal)?;
    let apps = actions::list_of_team(&core, &call, &name?).await?;
    for short in view["apps"].as_array_mut().into_iter().flatten() {
        if let Some(full) = apps.iter().find(|full| short["name"] == *full.app.name.as_str()) {
            *short = info_view(&core, full);
        }
    }
    Ok(Json(view))
}

/// `GET /1.0/apps/{app}`
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let full = actions::find_full_for(&core, &call, &app_name(&app)?, Permission::APP_READ_INFO).await?;
    Ok(Json(info_view(&core, &full)))
}

/// `POST /1.0/apps`: the client decodes the answer into a map of texts.
pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let app = actions::create(&core, &call, classic::wish(&input)?).await?;
    let address = core.public.app_address(&app.label);
    Ok((
        StatusCode::CREATED,
        Json(json!({
            "status": "success", "ip": address, "repository_url": core.public.repository_url(&app.name),
        })),
    ))
}

/// The tags to have from now on; a list of one empty text takes all of them away, as the client's
/// `-g ""` means it.
fn tags(input: &Input) -> Result<Option<Vec<String>>, Problem> {
    let given = |key: &str| match input.value(key) {
        None => false,
        Some(Value::Array(list)) => !list.is_empty(),
        Some(one) => one != "",
    };
    match given("tags") || given("tag") {
        true => Ok(Some([input.texts("tags")?, input.texts("tag")?].concat())),
        false => Ok(None),
    }
}

/// `PUT /1.0/apps/{app}`: JSON. What it changes applies to the next units; nothing is restarted.
pub async fn update(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<Response, Refusal> {
    let pool = input.text("pool")?;
    if pool.is_some() {
        return Err(Problem::invalid("Moving an app to another pool is no longer supported.").into());
    }
    let change = Change {
        description: input.text("description")?,
        tags: tags(&input)?,
        team_owner: input.parsed("teamowner")?,
        plan: input.parsed("plan")?,
        platform: input.parsed("platform")?,
        metadata: None,
    };
    actions::update(&core, &call, &app_name(&app)?, change).await?;
    Ok(stream::said(&[&format!("---- Updating {app} ----")], Form::Json))
}

/// `PUT /1.0/apps/{app}/teams/{team}`
pub async fn grant(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((app, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(addresses::grant(&core, &call, &app_name(&app)?, &TeamName::parse(&team)?).await?)
}

/// `DELETE /1.0/apps/{app}/teams/{team}`
pub async fn revoke(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((app, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(addresses::revoke(&core, &call, &app_name(&app)?, &TeamName::parse(&team)?).await?)
}

/// `POST /1.0/apps/{app}/cname`
pub async fn add_cname(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    Ok(addresses::add_cnames(&core, &call, &app_name(&app)?, &classic::cnames(&input)?).await?)
}

/// `DELETE /1.0/apps/{app}/cname?cname=…`
pub async fn remove_cname(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    Ok(addresses::remove_cnames(&core, &call, &app_name(&app)?, &classic::cnames(&input)?).await?)
}

/// `GET /1.5/apps/{app}/routers`
pub async fn routers(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let full = actions::find_full_for(&core, &call, &app_name(&app)?, Permission::APP_READ_ROUTER).await?;
    Ok(Json(json!([router(&core, &full)])))
}

/// `GET /1.3/routers`: the one that ships in the binary.
pub async fn all_routers(State(core): State<Core>) -> Json<Value> {
    let config = json!({ "domain": core.public.domain });
    Json(json!([{
        "name": "proxy", "type": "proxy", "info": {}, "config": config, "readinessGates": [],
        "dynamic": false, "default": true,
    }]))
}
