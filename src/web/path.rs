//! Typed path parameters. A malformed name cannot exist, so it is answered like a missing object of that kind
//! on all routes: 404, with the same wording.
//!
//! The contracts have exceptions: a malformed `{email}` or event id is 400. A malformed `{user}`, the member
//! of a team, is 404.

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use schemars::{Schema, json_schema};
use uuid::Uuid;

use crate::kernel::error::Error;
use crate::kernel::ids::{EventBlockId, EventId, SagaId};
use crate::kernel::names::{
    AppName, ClusterName, Email, GroupName, InstanceName, JobName, PlanName, PlatformName, PoolName,
    RoleName, RouterName, ServiceName, TeamName, TeamTokenName, VolumeName, WebhookName,
};
use crate::web::errors::modern::ModernError;

/// One path parameter, or several as a tuple, in the order of the path.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

/// A type that can be read from path parameters.
pub trait PathParam: Sized {
    /// Reads the next parameters, given as pairs of name and decoded value. Errors: `NotFound`, or `Invalid`
    /// where the contracts require 400.
    fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error>;

    /// Adds the schema of each parameter, for the description of the API.
    fn describe_param(schemas: &mut Vec<Schema>) {
        schemas.push(json_schema!({ "type": "string" }));
    }
}

impl<S: Send + Sync, T: PathParam> FromRequestParts<S> for Path<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        // Both editions have the same status for both kinds.
        let refuse = |error: Error| ModernError(error).into_response();
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|error| refuse(Error::internal(error)))?;
        T::read_from(&mut params.iter()).map(Path).map_err(refuse)
    }
}

fn next_param<'a>(
    params: &mut impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<(&'a str, &'a str), Error> {
    params
        .next()
        .ok_or_else(|| Error::internal("a handler reads more parameters than its path has"))
}

/// Implements `PathParam` for names whose "not found" error quotes the name.
macro_rules! name_params {
    ($($name:ty => $not_found:ident;)*) => {
        $(impl PathParam for $name {
            fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
                let (_, value) = next_param(params)?;
                value.parse().map_err(|_| Error::$not_found(value))
            }
        })*
    };
}

name_params! {
    AppName => app_not_found;
    JobName => job_not_found;
    TeamName => team_not_found;
    ServiceName => service_not_found;
    InstanceName => instance_not_found;
    RoleName => role_not_found;
    PoolName => pool_not_found;
    PlatformName => platform_not_found;
    PlanName => plan_not_found;
    RouterName => router_not_found;
    ClusterName => cluster_not_found;
    TeamTokenName => team_token_not_found;
    GroupName => group_not_found;
    WebhookName => webhook_not_found;
    VolumeName => volume_not_found;
    SagaId => saga_not_found;
    Uuid => orphan_not_found;
}

impl PathParam for Email {
    fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        match next_param(params)? {
            ("user", value) => Email::parse(value).map_err(|_| Error::user_not_found(value)),
            (_, value) => Email::parse(value),
        }
    }
}

impl PathParam for EventBlockId {
    fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        next_param(params)?.1.parse()
    }
}

impl PathParam for EventId {
    fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        next_param(params)?.1.parse()
    }
}

/// For parameters without a rule, or with one that the action checks.
impl PathParam for String {
    fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
        Ok(next_param(params)?.1.to_owned())
    }
}

macro_rules! tuple_params {
    ($($part:ident),*) => {
        impl<$($part: PathParam),*> PathParam for ($($part,)*) {
            fn read_from<'a>(params: &mut impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
                Ok(($($part::read_from(params)?,)*))
            }

            fn describe_param(schemas: &mut Vec<Schema>) {
                $($part::describe_param(schemas);)*
            }
        }
    };
}

tuple_params!(A, B);
tuple_params!(A, B, C);

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: PathParam>(params: &[(&str, &str)]) -> Result<T, Error> {
        T::read_from(&mut params.iter().copied())
    }

    #[test]
    fn malformed_name_is_not_found_and_its_quote_is_shortened() {
        let long = "a".repeat(16_000);
        let error = read::<AppName>(&[("app", &long)]).unwrap_err();
        assert_eq!(error.message(), format!("App {}… not found.", "a".repeat(64)));
        let error = read::<(AppName, TeamName)>(&[("app", "shop"), ("team", "x")]).unwrap_err();
        assert_eq!(error.message(), "Team x not found.");
    }

    #[test]
    fn path_parameters_are_read_in_order() {
        let params = [("service", "db"), ("instance", "main"), ("app", "shop")];
        let (service, instance, app) = read::<(ServiceName, InstanceName, AppName)>(&params).unwrap();
        assert_eq!(
            (service.as_str(), instance.as_str(), app.as_str()),
            ("db", "main", "shop")
        );
    }

    #[test]
    fn malformed_email_is_404_for_members_and_400_elsewhere() {
        use crate::kernel::error::ErrorKind;
        let kind = |param: &str| read::<Email>(&[(param, "ana")]).unwrap_err().kind();
        assert_eq!(kind("user"), ErrorKind::NotFound);
        assert_eq!(kind("email"), ErrorKind::Invalid);
    }
}
