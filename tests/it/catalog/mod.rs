//! What operators offer to apps: plans, platforms, routers, clusters.

mod clusters;
mod plans;
pub(crate) mod platforms;
mod routers;
