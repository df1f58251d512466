//! Use cases of clusters and provisioners.

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::names::ClusterName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;

/// Returns the names of the provisioners that a pool may name. Errors: `Forbidden`.
pub(super) fn list_provisioners(core: &Core, call: &RequestContext) -> Result<Vec<&'static str>, Error> {
    call.authorize(Permission::CLUSTER_READ, &[])?;
    Ok(core.provisioners.names())
}

/// Checks that the caller may list clusters, of which there are none. Errors: `Forbidden`.
pub(super) fn check_may_list(call: &RequestContext) -> Result<(), Error> {
    call.authorize(Permission::CLUSTER_READ, &[])
}

/// Finds a cluster. Errors: `Forbidden`, `NotFound` for every name.
pub(super) fn find_cluster(
    call: &RequestContext,
    name: &ClusterName,
    permission: Permission,
) -> Result<(), Error> {
    call.authorize(permission, &[])?;
    Err(Error::cluster_not_found(name))
}

/// Creates a cluster. Errors: `Forbidden`; `Invalid` for every provisioner.
pub(super) fn create_cluster(core: &Core, call: &RequestContext, provisioner: &str) -> Result<(), Error> {
    call.authorize(Permission::CLUSTER_CREATE, &[])?;
    core.provisioners.check_name(provisioner)?;
    Err(Error::invalid(format!(
        "The provisioner {provisioner} uses no clusters, nor does any other provisioner of this server: create a pool without a cluster."
    )))
}
