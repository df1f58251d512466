//! Checks the permission of a proxied request, records it and passes it on.

use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use crate::core::Core;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::{InstanceName, ServiceName};
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::outbound::{BodyStream, StreamedResponse};
use crate::services::broker::{BrokerClient, OnBehalfOf, UserRequest};
use crate::services::catalogue;
use crate::services::instances::store::find_instances;
use crate::services::model::{Disclosure, Service};
use crate::services::operations::{self, ProxyDecision};
use crate::services::proxy::path::ProxyPath;

/// A request to be passed on.
pub(super) struct ProxyRequest {
    pub(super) method: Method,
    pub(super) path: ProxyPath,
    pub(super) headers: HeaderMap,
    /// `None`: the request has no body.
    pub(super) body: Option<BodyStream>,
}

impl ProxyRequest {
    fn is_read(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Without the query, which may have secrets.
    fn event_data(&self) -> Value {
        json!({ "method": self.method.as_str(), "path": self.path.to_text() })
    }
}

/// Passes a request on to the resource of an instance; its path is below that. Errors: `NotFound`,
/// `Forbidden`; `Invalid` for a path that only the API itself may change.
pub(super) async fn proxy_to_instance(
    core: &Core,
    call: &RequestContext,
    service: ServiceName,
    instance: InstanceName,
    mut request: ProxyRequest,
) -> Result<StreamedResponse, Error> {
    let instance = find_instances(&core.db, Some(&service), &instance)
        .await?
        .pop()
        .ok_or_else(|| Error::instance_not_found(&instance))?;
    let contexts = instance.permission_contexts();
    let asked = (request.method.as_str(), request.path.segments.as_slice());
    let action = match operations::decide_proxy(core, call, instance.service_id, &contexts, asked).await? {
        ProxyDecision::Allowed { action } => action,
        ProxyDecision::Denied if call.has_permission(Permission::SERVICE_INSTANCE_READ, &contexts) => {
            return Err(Error::forbidden("You don't have permission to do this action."));
        }
        ProxyDecision::Denied => return Err(Error::instance_not_found(&instance.name)),
    };
    if !request.is_read() && request.path.is_reserved() {
        return Err(Error::invalid(format!(
            "{} {:?} is not passed on: instances and binds are changed by their own commands.",
            request.method,
            request.path.to_text()
        )));
    }
    let service = catalogue::find_service_by_id(&core.db, instance.service_id)
        .await?
        .ok_or_else(|| Error::service_not_found(&instance.service))?;
    let mut data = request.event_data();
    if let Some(action) = action {
        data["action"] = json!(action);
    }
    let event = NewEvent::new(
        EventTarget::new(EventTargetKind::ServiceInstance, instance.full_name()),
        Permission::SERVICE_INSTANCE_UPDATE_PROXY,
        contexts,
        data,
    );
    request.path = request.path.below(&["resources", instance.name.as_str()]);
    pass_on(core, call, &service, event, request).await
}

/// Passes a request of an owner on to a service. Errors: `NotFound`, `Forbidden`.
pub(super) async fn proxy_to_service(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    request: ProxyRequest,
) -> Result<StreamedResponse, Error> {
    let service = catalogue::find_owned_service(
        core,
        call,
        name,
        Permission::SERVICE_UPDATE_PROXY,
        Disclosure::Hide,
    )
    .await?;
    let event = service_event(&service, service.owner_contexts(), &request);
    pass_on(core, call, &service, event, request).await
}

/// Passes a request on to what a service offers to every user who may use it. Errors: `NotFound`.
pub(super) async fn proxy_to_authenticated_resources(
    core: &Core,
    call: &RequestContext,
    name: &ServiceName,
    mut request: ProxyRequest,
) -> Result<StreamedResponse, Error> {
    let service = catalogue::find_usable_service(core, call, name, Disclosure::Hide).await?;
    request.path = request.path.below(&["authenticated-resources"]);
    let event = service_event(&service, service.owner_contexts(), &request);
    pass_on(core, call, &service, event, request).await
}

fn service_event(service: &Service, contexts: Vec<PermissionContext>, request: &ProxyRequest) -> NewEvent {
    NewEvent::new(
        EventTarget::new(EventTargetKind::Service, &service.name),
        Permission::SERVICE_UPDATE_PROXY,
        contexts,
        request.event_data(),
    )
}

/// Records the event of a changing request, and passes the request on without a transaction.
async fn pass_on(
    core: &Core,
    call: &RequestContext,
    service: &Service,
    event: NewEvent,
    request: ProxyRequest,
) -> Result<StreamedResponse, Error> {
    let mut by = OnBehalfOf {
        user: call.event_owner().1,
        event: String::new(),
        share_key: call.share_key(),
    };
    if !request.is_read() {
        let mut tx = core.db.begin().await?;
        by.event = events::record_event(&mut tx, call, &event).await?.to_string();
        tx.commit().await?;
    }
    let forwarded = UserRequest {
        method: request.method,
        segments: &request.path.segments,
        trailing_slash: request.path.trailing_slash,
        query: &request.path.query,
        headers: request.headers,
        body: request.body,
        max_body_bytes: core.settings.api.max_upload_bytes.0,
    };
    BrokerClient::new(core, service)?
        .forward_request(&by, forwarded)
        .await
}
