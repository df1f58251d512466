//! Users and their tokens: who may come in.

pub mod store;
pub mod tokens;
