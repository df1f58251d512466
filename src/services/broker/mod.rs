//! The client of the provisioning API: what is said to services, in all dialects of it, and how their
//! answers are taken (contract/classic part 2, contract/modern §4).
//!
//! Every call ends in one of three ways, and who undoes things must know in which (`Fate`): the service
//! never heard of it, the service refused it, or nobody knows. Success is any 2xx.

mod dialect;
mod read;
mod talk;

use std::collections::BTreeMap;

use base64::Engine;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};

pub use dialect::Dialect;
pub use read::{ServicePlan, Variables};

use crate::core::Core;
use crate::kernel::ids::ServiceId;
use crate::kernel::names::{InstanceName, ServiceName};
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::outbound::Outbound;
use crate::services::broker::dialect::Way;
use crate::services::broker::talk::{Pairs, app_fields, pairs, parameters};
use crate::services::model::Service;

/// What became of a call that did not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The service knows nothing of it.
    NotSent,
    /// The service has answered no, with this status.
    Refused(u16),
    /// It may have happened or not.
    Unknown,
}

/// A call that did not go well.
#[derive(Debug)]
pub struct Fault {
    pub fate: Fate,
    /// For the user; holds the service's own words.
    pub problem: Problem,
}

impl Fault {
    /// The service has no such route, or no such thing.
    pub fn is_missing(&self) -> bool {
        matches!(self.fate, Fate::Refused(404 | 405))
    }
}

/// How a service confirms that a thing is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It has just done away with it.
    Now,
    /// It knows of no such thing; a request that is still on its way may yet make it.
    NotThere,
}

/// On whose behalf a call is made.
#[derive(Clone, Debug, Default)]
pub struct Behalf {
    /// E-mail address; empty for Tancho itself.
    pub user: String,
    /// The event's id; empty for none.
    pub event: String,
}

/// What a service is told of a new instance, or of a changed one.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    pub team: &'a str,
    pub plan: &'a str,
    pub description: &'a str,
    pub tags: &'a [String],
    pub parameters: &'a BTreeMap<String, String>,
}

/// The app of a bind, as services know it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Bound {
    pub name: String,
    /// Its address below the router's domain.
    pub host: String,
    /// All its addresses.
    pub hosts: Vec<String>,
    pub pool: String,
}

/// The state of an instance, in the service's view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    Up,
    Pending,
    Down,
    /// The service's own word.
    Says(String),
    /// The service does not tell.
    Untold,
}

/// Speaks to one service.
pub struct Broker {
    outbound: Outbound,
    id: ServiceId,
    name: ServiceName,
    base: Url,
    authorization: HeaderValue,
    /// What a service may say back to us: the password, and the header that had it.
    secrets: [Secret; 2],
    dialect: Option<Dialect>,
}

impl Broker {
    /// Opens the password and makes ready to speak.
    pub fn new(core: &Core, service: &Service) -> Result<Self, Problem> {
        let place = Place::new(Column::SERVICE_PASSWORD, &[&service.id]);
        let password = core.keys.open(&place, &service.password)?;
        let user = match service.username.as_str() {
            "" => service.name.as_str(),
            user => user,
        };
        let login = Secret::new(format!("{user}:{}", password.expose()));
        let login = Secret::new(base64::engine::general_purpose::STANDARD.encode(login.expose()));
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {}", login.expose())).map_err(Problem::internal)?;
        authorization.set_sensitive(true);
        Ok(Self {
            outbound: core.outbound.clone(),
            id: service.id,
            name: service.name.clone(),
            base: Url::parse(&service.endpoint).map_err(Problem::internal)?,
            authorization,
            secrets: [password, login],
            dialect: service.dialect,
        })
    }

    /// The dialect, if it is known.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// `POST /resources`: make an instance.
    pub async fn create(&self, by: &Behalf, name: &InstanceName, wish: &Wish<'_>) -> Result<(), Fault> {
        let mut fields = pairs(&[("name", name.as_str()), ("team", wish.team)]);
        for (key, value) in [("plan", wish.plan), ("description", wish.description)] {
            if !value.is_empty() {
                fields.push((key.into(), value.into()));
            }
        }
        fields.extend(wish.tags.iter().map(|tag| ("tags".into(), tag.clone())));
        fields.extend(parameters(wish.parameters));
        let answer = self.call(by, Method::POST, &[], fields).await?;
        let what = format!("Failed to create the instance {name}");
        self.accept(&what, answer).map(drop)
    }

    /// `PUT /resources/<name>`: change an instance. A service without that route has nothing to change.
    pub async fn update(&self, by: &Behalf, name: &InstanceName, wish: &Wish<'_>) -> Result<(), Fault> {
        let mut fields = pairs(&[
            ("description", wish.description),
            ("team", wish.team),
            ("plan", wish.plan),
        ]);
        // The documents say `tag`, every server has sent `tags`.
        for tag in wish.tags {
            fields.extend(pairs(&[("tags", tag), ("tag", tag)]));
        }
        fields.extend(parameters(wish.parameters));
        let answer = self.call(by, Method::PUT, &[name.as_str()], fields).await?;
        let what = format!("Failed to update the instance {name}");
        match self.accept(&what, answer) {
            Err(fault) if !fault.is_missing() => Err(fault),
            _ => Ok(()),
        }
    }

    /// `DELETE /resources/<name>`: destroy an instance. Gone already, or no such route, is fine.
    pub async fn destroy(&self, by: &Behalf, name: &InstanceName) -> Result<Gone, Fault> {
        let answer = self
            .call(by, Method::DELETE, &[name.as_str()], Pairs::new())
            .await?;
        let what = format!("Failed to remove the instance {name}");
        match self.accept(&what, answer) {
            Ok(_) => Ok(Gone::Now),
            Err(fault) if fault.is_missing() => Ok(Gone::NotThere),
            Err(fault) => Err(fault),
        }
    }

    /// `GET /resources/<name>/status`.
    pub async fn status(&self, name: &InstanceName) -> Result<Status, Fault> {
        let path = [name.as_str(), "status"];
        let answer = self
            .call(&Behalf::default(), Method::GET, &path, Pairs::new())
            .await?;
        Ok(match answer.status.as_u16() {
            204 => Status::Up,
            202 => Status::Pending,
            500 => Status::Down,
            404 | 405 => Status::Untold,
            200 => match read::said(&answer.body, &self.secrets) {
                text if text.is_empty() => Status::Up,
                text => Status::Says(text),
            },
            _ => {
                let what = format!("Could not retrieve the status of the instance {name}");
                self.accept(&what, answer)?;
                Status::Untold
            }
        })
    }

    /// `GET /resources/<name>`: what the service tells its users about an instance.
    /// `None` when it cannot be told.
    pub async fn info(&self, name: &InstanceName) -> Option<BTreeMap<String, String>> {
        let path = [name.as_str()];
        let answer = self
            .send(&Behalf::default(), &Method::GET, &path, false, &[])
            .await
            .ok()?;
        match answer.status {
            StatusCode::OK => read::labels(&answer.body),
            _ => Some(BTreeMap::new()),
        }
    }

    /// `GET /resources/plans`. A service without plans has none. Errors: no answer.
    pub async fn plans(&self) -> Result<Vec<ServicePlan>, Fault> {
        let path = ["plans"];
        let answer = self
            .send(&Behalf::default(), &Method::GET, &path, false, &[])
            .await?;
        Ok(match answer.status {
            StatusCode::OK => read::plans(&answer.body),
            _ => Vec::new(),
        })
    }

    /// Binds an app, in the known dialect or in all of them from today backwards, until one is
    /// understood. Answers the variables and the dialect.
    pub async fn bind_app(
        &self,
        by: &Behalf,
        name: &InstanceName,
        app: &Bound,
    ) -> Result<(Variables, Dialect), Fault> {
        let what = format!("Failed to bind the app {} to the instance {name}", app.name);
        let mut first_miss = None;
        for way in dialect::ways_to_bind(self.dialect) {
            let mut fields = app_fields(app);
            if matches!(way.dialect, Dialect::PerUnit | Dialect::Slashes) {
                fields.extend(pairs(&[("hostname", &app.host), ("unit-host", &app.host)]));
            }
            let answer = self.take(by, Method::POST, name, &way, &fields).await?;
            match self.accept(&what, answer) {
                Ok(body) => {
                    let variables = read::variables(&body).map_err(|why| Fault {
                        // It said yes: something is bound there.
                        fate: Fate::Unknown,
                        problem: Problem::failed(format!("{what}: the service {} {why}.", self.name)),
                    })?;
                    return Ok((variables, way.dialect));
                }
                Err(fault) if fault.is_missing() => {
                    first_miss.get_or_insert(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(first_miss.unwrap_or_else(|| Fault {
            fate: Fate::NotSent,
            problem: Problem::internal("no way to bind"),
        }))
    }

    /// Unbinds an app. Not bound there, or no such route, is fine.
    pub async fn unbind_app(&self, by: &Behalf, name: &InstanceName, app: &Bound) -> Result<Gone, Fault> {
        let what = format!("Failed to unbind the app {} from the instance {name}", app.name);
        let ways = dialect::ways_to_unbind(self.dialect, &app.host);
        self.until_understood(by, name, &ways, &app_fields(app), &what)
            .await
    }

    /// Tells of a unit that serves. False: the service has no calls for units.
    pub async fn bind_unit(
        &self,
        by: &Behalf,
        name: &InstanceName,
        app: &Bound,
        unit_host: &str,
    ) -> Result<bool, Fault> {
        let known = self.dialect.unwrap_or(Dialect::BindApp);
        let Some(way) = dialect::way_to_bind_unit(known) else {
            return Ok(false);
        };
        let mut fields = app_fields(app);
        fields.extend(pairs(&[("unit-host", unit_host)]));
        let answer = self.take(by, Method::POST, name, &way, &fields).await?;
        let what = format!("Failed to bind the unit {unit_host} to the instance {name}");
        match self.accept(&what, answer) {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_missing() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Tells of a unit that is gone. Not known there is fine.
    pub async fn unbind_unit(
        &self,
        by: &Behalf,
        name: &InstanceName,
        app: &Bound,
        unit_host: &str,
    ) -> Result<(), Fault> {
        let known = self.dialect.unwrap_or(Dialect::BindApp);
        let ways = dialect::ways_to_unbind_unit(known, unit_host);
        let mut fields = app_fields(app);
        fields.extend(pairs(&[("unit-host", unit_host)]));
        let what = format!("Failed to unbind the unit {unit_host} from the instance {name}");
        self.until_understood(by, name, &ways, &fields, &what)
            .await
            .map(drop)
    }

    async fn until_understood(
        &self,
        by: &Behalf,
        name: &InstanceName,
        ways: &[Way],
        fields: &[(String, String)],
        what: &str,
    ) -> Result<Gone, Fault> {
        for way in ways {
            let answer = self.take(by, Method::DELETE, name, way, fields).await?;
            match self.accept(what, answer) {
                Ok(_) => return Ok(Gone::Now),
                Err(fault) if fault.is_missing() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(Gone::NotThere)
    }
}
