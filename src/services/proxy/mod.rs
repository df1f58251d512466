//! The proxies of services: requests of users that are passed on to a service, with its own credentials
//! (contract/modern 4.5). A user reaches the resource of an instance, the owner of a service all of it, and every
//! user its `authenticated-resources`.
//!
//! Bodies are streamed both ways; the request and the response hold one slot of the service and no database
//! connection. A changing request is recorded as an event before it is passed on, so that none is lost when this
//! process ends meanwhile; the event says that the request was passed on, not what came of it.
//!
//! Promises: nobody reaches another path than the one that the permission is for, however it is spelled; what binds
//! and removes instances goes through the API only; the caller's token never reaches the service, and the service
//! learns who calls from headers that no caller can set.

mod actions;
mod headers;
pub mod modern;
mod path;
