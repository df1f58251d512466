//! Clusters: where a provisioner that places units by itself runs them. No provisioner of this server uses
//! clusters, so there are none, and none can be created. Clients read the list of provisioners here too.

mod actions;
pub mod modern;
