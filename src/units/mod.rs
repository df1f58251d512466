//! Units: a stand-in with what services need, until the slice itself is merged.

pub mod rollout;
