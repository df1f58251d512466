//! The catalogue of services, for the providers of services (contract/classic 1.2, contract/modern 2.13).
//! Owner teams may change a service; a restricted service may be used only by the teams that it is granted
//! to.

mod actions;
pub mod classic;
pub mod modern;
mod store;
mod team_checks;
mod wire;

pub use actions::{
    ServiceInstanceNames, create_service, get_service_doc, grant_service_access, list_owned_services,
    list_service_instances, list_service_plans, remove_service, revoke_service_access, set_service_doc,
    update_service,
};
pub(in crate::services) use actions::{
    find_owned_service, find_usable_service, reload_service, service_access_denied,
};
pub use store::{find_service, find_service_by_id, record_dialect};
pub(in crate::services) use team_checks::{ensure_team_exists, map_missing_team};
