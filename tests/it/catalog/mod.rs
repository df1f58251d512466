//! What operators offer to apps: plans, platforms, routers, clusters.

mod plans;
pub(crate) mod platforms;
