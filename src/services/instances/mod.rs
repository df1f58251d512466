//! Instances of services (contract/classic 1.3, contract/modern 2.12). A user may use the instances that
//! share a team with them. Names are unique within a service; the classic edition, which names instances
//! without their service, creates them with names that are unique among all services.

mod actions;
pub mod classic;
mod lists;
pub mod modern;
mod removal;
mod saga;
pub(in crate::services) mod store;
mod update;

pub use actions::{
    InstanceRef, InstanceWithInfo, create_instance, find_authorized_instance, get_instance_info,
    get_instance_status, grant_instance_access, list_instances_with_info, revoke_instance_access,
};
pub use lists::{InstanceFilter, ServiceInstances, list_instance_names, list_instances};
pub use removal::{InstanceRemovalOptions, RemoveInstanceSaga, remove_instance};
pub use saga::CreateInstanceSaga;
pub use update::{UpdateInstanceSaga, update_instance};
