//! Certificates: TLS for the hosts of apps, and for the API.
//!
//! A *certificate* belongs to a host of an app: a cname, or the app's own address. It goes where the host goes: a
//! swap of two apps moves it, and it ends with its cname or app. Its key is encrypted in the database and bound to
//! its host. All routers serve it: they follow the database as they follow the routes, without closing a
//! connection. What a user gives is checked first (`chain`), so that a stored certificate can be served.
//!
//! The operator may give one certificate in files, for the API and for the hosts of apps that it covers, such as
//! `*.apps.example.com`. A host's own certificate has precedence.
//!
//! A certificate may be ordered from an authority, and is then renewed (`orders`).
//!
//! Plain requests to a host with a certificate are redirected to TLS, unless its app says otherwise; HSTS is the
//! choice of the app.
//!
//! **Promises.** A client that names an unknown host gets no certificate, and costs no query and no row. A
//! certificate that cannot be read leaves the others as they are, and its own host with the last one that could be.

mod actions;
mod chain;
mod feed;
pub mod modern;
mod operator;
mod orders;
mod store;

pub use actions::{HttpsOptions, set_https_options};
pub(crate) use feed::{CertificateFeed, follow_certificates};
pub(crate) use operator::{OperatorCertificate, follow_operator_certificate};
pub use orders::{OrderCertificate, OrderDispatcher, forget_router};
