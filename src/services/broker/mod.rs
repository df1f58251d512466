//! The client of the provisioning API: sends requests in all dialects of it and interprets the responses
//! (contract/classic part 2, contract/modern §4).
//!
//! A failed call ends in one of three ways, which the code that undoes an operation has to distinguish
//! (`CallDelivery`): the service did not receive it, the service refused it, or the outcome is unknown. Any
//! 2xx is a success.

mod dialect;
mod forward;
mod outcome;
mod request;
mod response;

use std::collections::BTreeMap;

use base64::Engine;
use reqwest::header::HeaderValue;
use reqwest::{Method, StatusCode, Url};

pub use dialect::Dialect;
pub use forward::UserRequest;
pub use outcome::{BrokerError, CallDelivery, DeleteOutcome, ReportedStatus};
pub use response::{BindVariables, ServicePlan};

use crate::core::Core;
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::ServiceId;
use crate::kernel::names::{AppName, InstanceName, ServiceName};
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::outbound::OutboundClient;
use crate::services::broker::dialect::BrokerEndpoint;
use crate::services::broker::request::{FormFields, app_fields, form_fields, parameter_fields};
use crate::services::model::Service;

/// The originator of a call.
#[derive(Clone, Debug, Default)]
pub struct OnBehalfOf {
    /// E-mail address; empty for Tancho itself.
    pub user: String,
    /// The id of the event; empty for none.
    pub event: String,
    /// The key that shares the slots of the service; empty for Tancho itself.
    pub share_key: String,
}

/// The parameters of a new or changed instance, as a service gets them.
#[derive(Clone, Debug)]
pub struct InstanceParams<'a> {
    pub team: &'a str,
    pub plan: &'a str,
    pub description: &'a str,
    pub tags: &'a [String],
    pub parameters: &'a BTreeMap<String, String>,
}

/// The app of a bind, as services know it.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct BoundApp {
    pub name: String,
    /// Its address under the router's domain.
    pub host: String,
    /// All its addresses.
    pub hosts: Vec<String>,
    pub pool: String,
}

/// What the name of a job has in front where it stands in the place of an app's name, which cannot have it.
const JOB_PREFIX: &str = "job/";

impl BoundApp {
    /// Returns a job, which has no addresses.
    pub fn for_job(name: &AppName, pool: String) -> Self {
        Self {
            name: format!("{JOB_PREFIX}{name}"),
            host: String::new(),
            hosts: Vec::new(),
            pool,
        }
    }

    /// Returns the name of the job, if it is one.
    fn job_name(&self) -> Option<&str> {
        self.name.strip_prefix(JOB_PREFIX)
    }
}

/// The client of one service.
pub struct BrokerClient {
    outbound: OutboundClient,
    id: ServiceId,
    name: ServiceName,
    base: Url,
    authorization: HeaderValue,
    /// Secrets that a response of the service may contain: the password, and the header with it.
    secrets: [Secret; 2],
    dialect: Option<Dialect>,
    /// The share key of calls that are made on nobody's behalf.
    default_share_key: String,
}

impl BrokerClient {
    /// Decrypts the password of the service and creates its client.
    pub fn new(core: &Core, service: &Service) -> Result<Self, Error> {
        let associated = AssociatedData::new(SealedColumn::SERVICE_PASSWORD, &[&service.id]);
        let password = core.keys.decrypt(&associated, &service.password)?;
        let user = match service.username.as_str() {
            "" => service.name.as_str(),
            user => user,
        };
        let login = Secret::new(format!("{user}:{}", password.expose_secret()));
        let login = Secret::new(base64::engine::general_purpose::STANDARD.encode(login.expose_secret()));
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {}", login.expose_secret())).map_err(Error::internal)?;
        authorization.set_sensitive(true);
        Ok(Self {
            outbound: core.outbound.clone(),
            id: service.id,
            name: service.name.clone(),
            base: Url::parse(&service.endpoint).map_err(Error::internal)?,
            authorization,
            secrets: [password, login],
            dialect: service.dialect,
            default_share_key: String::new(),
        })
    }

    /// Sets the caller of the API as share key, for queries: they share the slots of the service with those
    /// of other callers.
    #[must_use]
    pub fn for_caller(mut self, call: &RequestContext) -> Self {
        self.default_share_key = call.share_key();
        self
    }

    /// Returns the dialect, if it is known.
    pub fn dialect(&self) -> Option<Dialect> {
        self.dialect
    }

    /// Creates an instance: `POST /resources`.
    pub async fn create_instance(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        params: &InstanceParams<'_>,
    ) -> Result<(), BrokerError> {
        let mut fields = form_fields(&[("name", name.as_str()), ("team", params.team)]);
        for (key, value) in [("plan", params.plan), ("description", params.description)] {
            if !value.is_empty() {
                fields.push((key.into(), value.into()));
            }
        }
        fields.extend(params.tags.iter().map(|tag| ("tags".into(), tag.clone())));
        fields.extend(parameter_fields(params.parameters));
        let answer = self
            .send_with_slash_fallback(by, Method::POST, &[], fields)
            .await?;
        let what = format!("Failed to create the instance {name}");
        self.check_response(&what, answer).map(drop)
    }

    /// Updates an instance: `PUT /resources/<name>`. A service that responds with 404 has no such route, and
    /// nothing to change.
    pub async fn update_instance(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        params: &InstanceParams<'_>,
    ) -> Result<(), BrokerError> {
        let mut fields = form_fields(&[
            ("description", params.description),
            ("team", params.team),
            ("plan", params.plan),
        ]);
        // The documentation says `tag`, but every server has sent `tags`.
        for tag in params.tags {
            fields.extend(form_fields(&[("tags", tag), ("tag", tag)]));
        }
        fields.extend(parameter_fields(params.parameters));
        let answer = self
            .send_with_slash_fallback(by, Method::PUT, &[name.as_str()], fields)
            .await?;
        let what = format!("Failed to update the instance {name}");
        match self.check_response(&what, answer) {
            Err(fault) if !fault.is_not_found() => Err(fault),
            _ => Ok(()),
        }
    }

    /// Destroys an instance: `DELETE /resources/<name>`. A missing instance, or a missing route, is a
    /// success.
    pub async fn destroy_instance(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
    ) -> Result<DeleteOutcome, BrokerError> {
        let answer = self
            .send_with_slash_fallback(by, Method::DELETE, &[name.as_str()], FormFields::new())
            .await?;
        let what = format!("Failed to remove the instance {name}");
        match self.check_response(&what, answer) {
            Ok(_) => Ok(DeleteOutcome::Deleted),
            Err(fault) if fault.is_missing() => Ok(DeleteOutcome::NotFound),
            Err(fault) => Err(fault),
        }
    }

    /// Fetches the state of an instance: `GET /resources/<name>/status`.
    pub async fn fetch_status(&self, name: &InstanceName) -> Result<ReportedStatus, BrokerError> {
        let path = [name.as_str(), "status"];
        let answer = self
            .send_with_slash_fallback(&OnBehalfOf::default(), Method::GET, &path, FormFields::new())
            .await?;
        Ok(match answer.status.as_u16() {
            204 => ReportedStatus::Up,
            202 => ReportedStatus::Pending,
            500 => ReportedStatus::Down,
            404 | 405 => ReportedStatus::Unsupported,
            200 => match response::sanitize_message(&answer.body, &self.secrets) {
                text if text.is_empty() => ReportedStatus::Up,
                text => ReportedStatus::Custom(text),
            },
            _ => {
                let what = format!("Could not retrieve the status of the instance {name}");
                self.check_response(&what, answer)?;
                ReportedStatus::Unsupported
            }
        })
    }

    /// Fetches the information for users about an instance: `GET /resources/<name>`. Returns `None` if the
    /// service did not respond or the response cannot be used, and an empty map if the service has no such
    /// route.
    pub async fn fetch_info(&self, name: &InstanceName) -> Option<BTreeMap<String, String>> {
        let path = [name.as_str()];
        let answer = self
            .send_request(&OnBehalfOf::default(), &Method::GET, &path, false, &[])
            .await
            .ok()?;
        match answer.status {
            StatusCode::OK => response::parse_labels(&answer.body, &self.secrets),
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Some(BTreeMap::new()),
            _ => None,
        }
    }

    /// Fetches the plans of the service: `GET /resources/plans`; none if it has no plans. Errors: no
    /// response, or one that is not a list.
    pub async fn fetch_plans(&self) -> Result<Vec<ServicePlan>, BrokerError> {
        let path = ["plans"];
        let answer = self
            .send_request(&OnBehalfOf::default(), &Method::GET, &path, false, &[])
            .await?;
        if answer.status != StatusCode::OK {
            return Ok(Vec::new());
        }
        response::parse_plans(&answer.body, &self.secrets).map_err(|why| BrokerError {
            delivery: CallDelivery::Done,
            error: Error::failed(format!("The service {} {why}.", self.name)),
        })
    }

    /// Binds a job, which only services of today's dialect can do (contract/modern 4.2). Returns the variables.
    async fn bind_job(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        (job, pool): (&str, &str),
    ) -> Result<BindVariables, BrokerError> {
        let what = format!("Failed to bind the job {job} to the instance {name}");
        let way = dialect::job_endpoint(job);
        let fields = form_fields(&[("job-name", job), ("job-pool-name", pool)]);
        let answer = self.call_endpoint(by, Method::PUT, name, &way, &fields).await?;
        let body = self.check_response(&what, answer)?;
        response::parse_variables(&body).map_err(|why| BrokerError {
            delivery: CallDelivery::Done,
            error: Error::failed(format!("{what}: the service {} {why}.", self.name)),
        })
    }

    /// Binds an app in the known dialect, or tries all dialects from the newest to the oldest until the
    /// service understands one. Returns the variables and the dialect, unless it is a job, which says nothing of it.
    pub async fn bind_app(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        app: &BoundApp,
    ) -> Result<(BindVariables, Option<Dialect>), BrokerError> {
        if let Some(job) = app.job_name() {
            let variables = self.bind_job(by, name, (job, &app.pool)).await?;
            return Ok((variables, None));
        }
        let what = format!("Failed to bind the app {} to the instance {name}", app.name);
        let mut first_miss = None;
        for way in dialect::bind_endpoints(self.dialect) {
            let mut fields = app_fields(app);
            if matches!(way.dialect, Dialect::PerUnit | Dialect::TrailingSlash) {
                fields.extend(form_fields(&[("hostname", &app.host), ("unit-host", &app.host)]));
            }
            let answer = self.call_endpoint(by, Method::POST, name, &way, &fields).await?;
            match self.check_response(&what, answer) {
                Ok(body) => {
                    let variables = response::parse_variables(&body).map_err(|why| BrokerError {
                        delivery: CallDelivery::Done,
                        error: Error::failed(format!("{what}: the service {} {why}.", self.name)),
                    })?;
                    return Ok((variables, Some(way.dialect)));
                }
                Err(fault) if fault.is_missing() => {
                    first_miss.get_or_insert(fault);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(first_miss.unwrap_or_else(|| BrokerError {
            delivery: CallDelivery::NotSent,
            error: Error::internal("no endpoint for binds in this dialect"),
        }))
    }

    /// Unbinds an app. An app that is not bound there, or a missing route, is a success.
    pub async fn unbind_app(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        app: &BoundApp,
    ) -> Result<DeleteOutcome, BrokerError> {
        if let Some(job) = app.job_name() {
            let what = format!("Failed to unbind the job {job} from the instance {name}");
            let ways = [dialect::job_endpoint(job)];
            return self.delete_at_first_known(by, name, &ways, &[], &what).await;
        }
        let what = format!("Failed to unbind the app {} from the instance {name}", app.name);
        let ways = dialect::unbind_endpoints(self.dialect, &app.host);
        self.delete_at_first_known(by, name, &ways, &app_fields(app), &what)
            .await
    }

    /// Notifies the service of a serving unit. Returns false if the service has no calls for units.
    pub async fn bind_unit(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        app: &BoundApp,
        unit_host: &str,
    ) -> Result<bool, BrokerError> {
        let known = self.dialect.unwrap_or(Dialect::BindApp);
        let Some(way) = dialect::bind_unit_endpoint(known) else {
            return Ok(false);
        };
        let mut fields = app_fields(app);
        fields.extend(form_fields(&[("unit-host", unit_host)]));
        let answer = self.call_endpoint(by, Method::POST, name, &way, &fields).await?;
        let what = format!("Failed to bind the unit {unit_host} to the instance {name}");
        match self.check_response(&what, answer) {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_missing() => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Notifies the service that a unit is gone. A unit that the service does not know is a success.
    pub async fn unbind_unit(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        app: &BoundApp,
        unit_host: &str,
    ) -> Result<(), BrokerError> {
        let known = self.dialect.unwrap_or(Dialect::BindApp);
        let ways = dialect::unbind_unit_endpoints(known, unit_host);
        let mut fields = app_fields(app);
        fields.extend(form_fields(&[("unit-host", unit_host)]));
        let what = format!("Failed to unbind the unit {unit_host} from the instance {name}");
        self.delete_at_first_known(by, name, &ways, &fields, &what)
            .await
            .map(drop)
    }

    async fn delete_at_first_known(
        &self,
        by: &OnBehalfOf,
        name: &InstanceName,
        ways: &[BrokerEndpoint],
        fields: &[(String, String)],
        what: &str,
    ) -> Result<DeleteOutcome, BrokerError> {
        for way in ways {
            let answer = self.call_endpoint(by, Method::DELETE, name, way, fields).await?;
            match self.check_response(what, answer) {
                Ok(_) => return Ok(DeleteOutcome::Deleted),
                Err(fault) if fault.is_missing() => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(DeleteOutcome::NotFound)
    }
}
