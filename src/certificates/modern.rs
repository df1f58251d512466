//! Certificates in the modern edition (contract/modern 2.10).

use std::collections::BTreeMap;

use axum::Json;
use schemars::JsonSchema;
use serde::Serialize;

use crate::certificates::actions::{self, HostCertificate};
use crate::kernel::error::Error;
use crate::kernel::names::{AppName, CName};
use crate::kernel::secret::Secret;
use crate::routers::BUILT_IN;
use crate::web::errors::modern::ModernResult;
use crate::web::route_table::AuthPolicy::UserToken;
use crate::web::route_table::{DELETE, GET, PUT, RouteTable};
use crate::web::{Ctx, Params, Path};

/// The certificates of an app, by router and host. Fields are in the order of their keys.
#[derive(Debug, JsonSchema, Serialize)]
pub struct CertificateListView {
    routers: BTreeMap<&'static str, RouterCertificatesView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct RouterCertificatesView {
    cnames: BTreeMap<String, HostCertificateView>,
}

#[derive(Debug, JsonSchema, Serialize)]
struct HostCertificateView {
    certificate: String,
    /// Why the last order failed; the client does not show it.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    issuer: String,
}

impl CertificateListView {
    fn new(rows: Vec<HostCertificate>) -> Self {
        let view = |row: HostCertificate| {
            let view = HostCertificateView {
                certificate: row.chain,
                error: row.error,
                issuer: row.issuer,
            };
            (row.host, view)
        };
        let cnames = rows.into_iter().map(view).collect();
        Self {
            routers: BTreeMap::from([(BUILT_IN, RouterCertificatesView { cnames })]),
        }
    }
}

fn require_cname(params: &Params) -> Result<CName, Error> {
    CName::parse(&params.require_string("cname")?)
}

/// `GET /1.24/apps/{app}/certificate`
pub async fn list_certificates(
    ctx: Ctx,
    Path(app): Path<AppName>,
) -> ModernResult<Json<CertificateListView>> {
    let rows = actions::list_certificates(&ctx.core, &ctx.request, &app).await?;
    Ok(Json(CertificateListView::new(rows)))
}

/// `GET /1.2/apps/{app}/certificate`: what older clients read, the PEM text by router and host.
pub async fn list_certificate_texts(
    ctx: Ctx,
    Path(app): Path<AppName>,
) -> ModernResult<Json<BTreeMap<&'static str, BTreeMap<String, String>>>> {
    let rows = actions::list_certificates(&ctx.core, &ctx.request, &app).await?;
    let texts = rows
        .into_iter()
        .filter(|row| !row.chain.is_empty())
        .map(|row| (row.host, row.chain))
        .collect();
    Ok(Json(BTreeMap::from([(BUILT_IN, texts)])))
}

/// `PUT /1.2/apps/{app}/certificate`: form `cname`, `certificate`, `key`; both PEM.
pub async fn set_certificate(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let (cname, certificate) = (require_cname(&params)?, params.require_string("certificate")?);
    let key = Secret::new(params.require_string("key")?);
    Ok(actions::set_certificate(&ctx.core, &ctx.request, &app, &cname, &certificate, &key).await?)
}

/// `DELETE /1.2/apps/{app}/certificate?cname=…`
pub async fn unset_certificate(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    Ok(actions::unset_certificate(&ctx.core, &ctx.request, &app, &require_cname(&params)?).await?)
}

/// `PUT /1.24/apps/{app}/certissuer`: form `cname`, `issuer`.
pub async fn set_issuer(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    let (cname, issuer) = (require_cname(&params)?, params.require_string("issuer")?);
    Ok(actions::set_issuer(&ctx.core, &ctx.request, &app, &cname, &issuer).await?)
}

/// `DELETE /1.24/apps/{app}/certissuer?cname=…`
pub async fn unset_issuer(ctx: Ctx, Path(app): Path<AppName>, params: Params) -> ModernResult {
    Ok(actions::unset_issuer(&ctx.core, &ctx.request, &app, &require_cname(&params)?).await?)
}

/// The modern routes of this slice.
#[rustfmt::skip]
pub fn routes(table: RouteTable) -> RouteTable {
    table
        .add_versioned_route("1.2", GET, "/apps/{app}/certificate", UserToken, list_certificate_texts)
        .add_versioned_route("1.2", PUT, "/apps/{app}/certificate", UserToken, set_certificate)
        .add_versioned_route("1.2", DELETE, "/apps/{app}/certificate", UserToken, unset_certificate)
        .add_versioned_route("1.24", GET, "/apps/{app}/certificate", UserToken, list_certificates)
        .add_versioned_route("1.24", PUT, "/apps/{app}/certissuer", UserToken, set_issuer)
        .add_versioned_route("1.24", DELETE, "/apps/{app}/certissuer", UserToken, unset_issuer)
}
