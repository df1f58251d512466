//! The proxies of services in the modern edition (contract/modern 4.5).

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use futures_util::{StreamExt, TryStreamExt};

use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::{InstanceName, ServiceName};
use crate::outbound::StreamedResponse;
use crate::services::proxy::actions::{self, ProxyRequest};
use crate::services::proxy::headers;
use crate::services::proxy::path::ProxyPath;
use crate::web::answers::ForwardedAnswer;
use crate::web::errors::ErrorCause;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, PATCH, POST, PUT, RouteTable};
use crate::web::{Ctx, Path};

/// Returns what follows the first `skipped` parts of the path of a request, as it was sent. A version in front
/// does not count.
fn raw_tail(path: &str, skipped: usize) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = match path.split_once('/') {
        Some((version, rest)) if version.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => path,
    };
    path.splitn(skipped + 1, '/').nth(skipped).unwrap_or_default()
}

fn into_proxy_request(request: Request, path: ProxyPath) -> ProxyRequest {
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    ProxyRequest {
        method: parts.method,
        path,
        headers: headers::request_headers(parts.headers),
        body: has_body.then(|| body.into_data_stream().map_err(std::io::Error::other).boxed()),
    }
}

fn into_response(answer: StreamedResponse) -> ModernResult<ForwardedAnswer> {
    let mut response = Response::new(Body::from_stream(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = headers::response_headers(answer.headers);
    if answer.status.is_server_error() {
        // Otherwise the log would count the failure as one of this server.
        response.extensions_mut().insert(ErrorCause {
            kind: ErrorKind::Failed,
            report: String::from("a service responded with this status to a proxied request"),
        });
    }
    Ok(response.into())
}

/// `ANY /1.0/services/{service}/proxy/{instance}?callback=`.
pub async fn proxy_to_instance(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let path = ProxyPath::from_callback(request.uri().query().unwrap_or_default())?
        .without_prefix(&["resources", instance.as_str()]);
    let request = into_proxy_request(request, path);
    into_response(actions::proxy_to_instance(&ctx.core, &ctx.request, service, instance, request).await?)
}

/// `ANY /1.20/services/{service}/resources/{instance}/{path}`.
pub async fn proxy_to_resource(
    ctx: Ctx,
    Path((service, instance)): Path<(ServiceName, InstanceName)>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let path = path_below(&request, 4)?;
    let request = into_proxy_request(request, path);
    into_response(actions::proxy_to_instance(&ctx.core, &ctx.request, service, instance, request).await?)
}

/// `ANY /1.0/services/proxy/service/{service}?callback=`.
pub async fn proxy_to_service(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let path = ProxyPath::from_callback(request.uri().query().unwrap_or_default())?;
    let request = into_proxy_request(request, path);
    into_response(actions::proxy_to_service(&ctx.core, &ctx.request, &service, request).await?)
}

/// `ANY /1.21/services/{service}/authenticated-resources/{path}`.
pub async fn proxy_to_authenticated_resources(
    ctx: Ctx,
    Path(service): Path<ServiceName>,
    request: Request,
) -> ModernResult<ForwardedAnswer> {
    let path = path_below(&request, 3)?;
    let request = into_proxy_request(request, path);
    into_response(
        actions::proxy_to_authenticated_resources(&ctx.core, &ctx.request, &service, request).await?,
    )
}

fn path_below(request: &Request, skipped: usize) -> Result<ProxyPath, Error> {
    let uri = request.uri();
    ProxyPath::parse(raw_tail(uri.path(), skipped), uri.query().unwrap_or_default())
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(mut table: RouteTable) -> RouteTable {
    for method in [GET, POST, PUT, PATCH, DELETE] {
        table = table
            .add_versioned_route("1.0", method.clone(), "/services/{service}/proxy/{instance}", UserToken, proxy_to_instance)
            .accept_uploads()
            .add_versioned_route("1.20", method.clone(), "/services/{service}/resources/{instance}/{*path}", UserToken, proxy_to_resource)
            .accept_uploads()
            .add_versioned_route("1.0", method.clone(), "/services/proxy/service/{service}", UserToken, proxy_to_service)
            .accept_uploads()
            .add_versioned_route("1.21", method, "/services/{service}/authenticated-resources/{*path}", UserToken, proxy_to_authenticated_resources)
            .accept_uploads();
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_tail_is_the_path_after_the_instance_with_or_without_version() {
        for path in [
            "/1.20/services/db/resources/main/a%2Fb/c/",
            "/services/db/resources/main/a%2Fb/c/",
        ] {
            assert_eq!(raw_tail(path, 4), "a%2Fb/c/", "{path}");
        }
        assert_eq!(raw_tail("/services/db/resources/main", 4), "");
    }
}
