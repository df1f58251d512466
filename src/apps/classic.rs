//! Apps as the classic edition shows them (contract/classic 1.1, 1.10): keys in the spelling of the
//! documents and in that of the programs that followed them.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::apps::actions::{self, Wish};
use crate::apps::addresses;
use crate::apps::model::{Full, UnitView};
use crate::apps::store::Filter;
use crate::core::Core;
use crate::http::kit::{Caller, Input, stream};
use crate::http::wording::classic::Refusal;
use crate::kernel::names::{AppName, CName, PlatformName, TeamName};
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::{Kind, Problem};

fn unit(full: &Full, unit: &UnitView) -> Value {
    let ip = unit
        .address
        .as_deref()
        .and_then(|a| a.rsplit_once(':'))
        .map_or("", |(ip, _)| ip);
    json!({
        "Name": unit.id, "AppName": full.app.name, "Type": full.app.platform, "Ip": ip,
        "State": unit.state, "Status": unit.state, "ProcessName": unit.process,
    })
}

/// The app's state in one word: what S3 shows as `State`.
fn state(full: &Full) -> &'static str {
    let units = &full.units;
    if units.iter().any(|u| u.state == "error") {
        return "error";
    }
    match units.is_empty() {
        true if full.app.deploys > 0 => "dead",
        true => "pending",
        false if units.iter().any(|u| u.ready) => "started",
        false => "pending",
    }
}

fn view(core: &Core, full: &Full) -> Value {
    let app = &full.app;
    let address = core.public.app_address(&app.label);
    let units: Vec<Value> = full.units.iter().map(|u| unit(full, u)).collect();
    let repository = core.public.repository_url(&app.name);
    json!({
        "Name": app.name, "name": app.name,
        "Framework": app.platform, "platform": app.platform,
        "Ip": address, "ip": address,
        "Repository": repository, "repository": repository,
        "State": state(full), "ready": true,
        "Units": units, "units": units,
        "Teams": app.teams, "teams": app.teams,
        "teamowner": app.team_owner,
        "owner": app.owner,
        "cname": app.cnames.first().map_or("", String::as_str),
        "deploys": app.deploys,
        "memory": (full.memory_bytes >> 20).to_string(),
        "swap": "0",
        "description": app.description,
        "tags": app.tags,
        "pool": app.pool,
        "plan": { "name": app.plan, "memory": full.memory_bytes, "cpumilli": full.cpu_milli, "default": full.plan_is_default },
    })
}

/// `GET /apps`
pub async fn list(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<Response, Refusal> {
    let apps = actions::list(&core, &call, filter(&input)?);
    Ok(stream::list(apps, move |full| Some(view(&core, full))).await?)
}

/// The filters of the modern list; tools of both ages send them.
pub(super) fn filter(input: &Input) -> Result<Filter, Problem> {
    Ok(Filter {
        reach: None,
        name: input.text("name")?.unwrap_or_default(),
        platform: input.text("platform")?.unwrap_or_default(),
        team_owner: input.text("teamowner")?.unwrap_or_default(),
        owner: input.text("owner")?.unwrap_or_default(),
        pool: input.text("pool")?.unwrap_or_default(),
        tags: input.texts("tag")?,
    })
}

/// `GET /apps/{app}`
pub async fn info(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<Response, Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let full = actions::find_full_for(&core, &call, &name, Permission::APP_READ_INFO).await?;
    let profile = format!("application/json; profile={}/schema/app", core.public.api_url);
    Ok(([(header::CONTENT_TYPE, profile)], view(&core, &full).to_string()).into_response())
}

/// `GET /apps/{app}/available`: 200 when a unit is started, else 500, as old callers expect it.
pub async fn available(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
) -> Result<(), Refusal> {
    let name = AppName::parse(&app).map_err(|_| Problem::not_found(format!("App {app} not found.")))?;
    let full = actions::find_full_for(&core, &call, &name, Permission::APP_READ_INFO).await?;
    match full.units.iter().any(|u| u.state == "started") {
        true => Ok(()),
        false => Err(Problem::new(Kind::Failed, format!("App {name} has no unit that is started.")).into()),
    }
}

/// `POST /apps`: JSON or a form; every value of the answer is a text.
pub async fn create(
    State(core): State<Core>,
    Caller(call): Caller,
    input: Input,
) -> Result<Json<Value>, Refusal> {
    let wish = wish(&input)?;
    // Here it is a fault of the request (contract/classic 1.1.4), not a lack of rights.
    if let Some(team) = &wish.team_owner
        && !call.may(Permission::APP_CREATE, &[Context::team(team)])
    {
        return Err(Problem::invalid(format!("You are not in the team {team}: name one of yours.")).into());
    }
    let app = actions::create(&core, &call, wish).await?;
    Ok(Json(json!({
        "status": "success",
        "repository_url": core.public.repository_url(&app.name),
        "ip": core.public.app_address(&app.label),
    })))
}

/// Reads what an app is asked to be, in the words of either edition.
pub(super) fn wish(input: &Input) -> Result<Wish, Problem> {
    let platform = match input.text("platform")? {
        Some(name) => name,
        None => input
            .required("framework")
            .map_err(|_| Problem::invalid("platform is missing."))?,
    };
    Ok(Wish {
        name: AppName::parse(&input.required("name")?)?,
        platform: PlatformName::parse(&platform)?,
        team_owner: input.parsed("teamowner")?,
        plan: input.parsed("plan")?,
        pool: input.parsed("pool")?,
        description: input.text("description")?.unwrap_or_default(),
        tags: input.texts("tag")?,
    })
}

/// `PUT` and `POST /swap?app1=…&app2=…`
pub async fn swap(State(core): State<Core>, Caller(call): Caller, input: Input) -> Result<(), Refusal> {
    let name = |key: &str| -> Result<AppName, Problem> {
        let text = input.text(key)?.unwrap_or_default();
        AppName::parse(&text).map_err(|_| Problem::not_found(format!("App {text} not found.")))
    };
    let (one, two) = (name("app1")?, name("app2")?);
    Ok(addresses::swap(&core, &call, &one, &two, input.flag("cnameonly")?).await?)
}

/// `PUT /apps/{app}/{team}`
pub async fn grant(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((app, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(addresses::grant(&core, &call, &AppName::parse(&app)?, &team_of(&team)?).await?)
}

/// `DELETE /apps/{app}/{team}`
pub async fn revoke(
    State(core): State<Core>,
    Caller(call): Caller,
    Path((app, team)): Path<(String, String)>,
) -> Result<(), Refusal> {
    Ok(addresses::revoke(&core, &call, &AppName::parse(&app)?, &team_of(&team)?).await?)
}

fn team_of(text: &str) -> Result<TeamName, Problem> {
    TeamName::parse(text).map_err(|_| Problem::not_found(format!("Team {text} not found.")))
}

/// Reads cnames, which may be one or many.
pub(super) fn cnames(input: &Input) -> Result<Vec<CName>, Problem> {
    let texts = input.texts("cname")?;
    if texts.is_empty() {
        return Err(Problem::invalid("You must provide the cname."));
    }
    texts.iter().map(|text| CName::parse(text)).collect()
}

/// `POST /apps/{app}/cname`
pub async fn add_cname(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    Ok(addresses::add_cnames(&core, &call, &AppName::parse(&app)?, &cnames(&input)?).await?)
}

/// `DELETE /apps/{app}/cname`
pub async fn remove_cname(
    State(core): State<Core>,
    Caller(call): Caller,
    Path(app): Path<String>,
    input: Input,
) -> Result<(), Refusal> {
    Ok(addresses::remove_cnames(&core, &call, &AppName::parse(&app)?, &cnames(&input)?).await?)
}
