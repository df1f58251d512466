//! Use cases of certificates: set, unset, list; and how hosts with a certificate are served.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::apps::{self, App};
use crate::certificates::chain::CertificateChain;
use crate::certificates::orders::store::{self as orders, OrderRow};
use crate::certificates::store::{self, NewCertificate};
use crate::config::AcmeSettings;
use crate::core::Core;
use crate::db::{self, notices::NoticeChannel};
use crate::events::{self, EventTarget, NewEvent};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::names::{AppName, CName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::pools::{self, ConstraintField};

/// Two years, the longest that lists of browsers ask for.
const MAX_HSTS_SECONDS: i32 = 63_072_000;

/// What an encrypted key is bound to.
pub(super) fn key_associated_data(host: &str) -> AssociatedData {
    AssociatedData::new(SealedColumn::CERTIFICATE_KEY, &[&host])
}

/// Sets the certificate of a host of an app. Errors: `NotFound` for a host that the app does not have, `Invalid` for
/// a certificate that cannot be served.
pub(super) async fn set_certificate(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cname: &CName,
    certificate: &str,
    key: &Secret,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_CERTIFICATE_SET).await?;
    apps::ensure_live(&app)?;
    let host = find_host(core, &app, cname)?;
    let chain = CertificateChain::parse(certificate, key)?;
    chain.check_host(&host)?;
    chain.check_time(store::find_time(&core.db).await?)?;
    let validity = chain.validity();
    let mut tx = core.db.begin().await?;
    let data = json!({ "cname": host, "notAfter": validity.not_after });
    record_change(&mut tx, call, &app, Permission::APP_UPDATE_CERTIFICATE_SET, data).await?;
    let new = NewCertificate {
        host: &host,
        chain: &chain.chain_pem(),
        key: &core.keys.encrypt(&key_associated_data(&host), chain.key_pem()),
        not_before: validity.not_before,
        not_after: validity.not_after,
    };
    // Under the event's lock: the app may have lost the host since it was read.
    if !store::upsert_certificate(&mut tx, app.id, &core.public.domain, &new).await? {
        return Err(host_error(&app, &host));
    }
    orders::delete_order(&mut tx, &host).await?;
    commit_change(tx).await
}

/// Removes the certificate of a host of an app. Errors: `NotFound` if it has none.
pub(super) async fn unset_certificate(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cname: &CName,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_CERTIFICATE_UNSET).await?;
    apps::ensure_live(&app)?;
    let host = find_host(core, &app, cname)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "cname": host });
    record_change(
        &mut tx,
        call,
        &app,
        Permission::APP_UPDATE_CERTIFICATE_UNSET,
        data,
    )
    .await?;
    if !store::delete_certificate(&mut tx, app.id, &host).await? {
        return Err(Error::not_found(format!(
            "App {name} has no certificate for {host}."
        )));
    }
    // One that was ordered would be ordered again.
    if orders::has_issuer(&mut *tx, app.id, &host).await? {
        orders::set_issuer(&mut tx, app.id, &core.public.domain, &host, None).await?;
    }
    commit_change(tx).await
}

/// Sets the issuer from which the certificate of a host is ordered. Errors: `NotFound` for a host that the app does not
/// have, `Invalid` for an issuer that this server or the app's pool does not have.
pub(super) async fn set_issuer(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cname: &CName,
    issuer: &str,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::CERTISSUER_SET).await?;
    apps::ensure_live(&app)?;
    let host = find_host(core, &app, cname)?;
    pools::check_allowed(&core.db, app.pool.as_str(), ConstraintField::CertIssuer, issuer).await?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "cname": host, "issuer": issuer });
    record_change(&mut tx, call, &app, Permission::CERTISSUER_SET, data).await?;
    check_issuer(&core.settings.acme, issuer, &host)?;
    if !orders::set_issuer(&mut tx, app.id, &core.public.domain, &host, Some(issuer)).await? {
        return Err(host_error(&app, &host));
    }
    commit_change(tx).await
}

/// Checks that a certificate for a host can be ordered from an issuer. Errors: `Invalid`.
fn check_issuer(acme: &AcmeSettings, issuer: &str, host: &str) -> Result<(), Error> {
    if !acme.is_enabled() {
        return Err(Error::invalid(
            "This server orders no certificates: set one with `tsuru certificate set`.",
        ));
    }
    if issuer != acme.issuer {
        return Err(Error::invalid(format!(
            "This server has no certificate issuer {}: use {}.",
            quote_excerpt(issuer),
            acme.issuer
        )));
    }
    if host.starts_with("*.") {
        return Err(Error::invalid(
            "A certificate for a wildcard cannot be ordered: set one with `tsuru certificate set`.",
        ));
    }
    Ok(())
}

/// Ends the orders for a host, and removes the certificate that was ordered. Errors: `NotFound` if it has no issuer.
pub(super) async fn unset_issuer(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    cname: &CName,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::CERTISSUER_UNSET).await?;
    apps::ensure_live(&app)?;
    let host = find_host(core, &app, cname)?;
    let mut tx = core.db.begin().await?;
    let data = json!({ "cname": host });
    record_change(&mut tx, call, &app, Permission::CERTISSUER_UNSET, data).await?;
    if !orders::has_issuer(&mut *tx, app.id, &host).await? {
        return Err(Error::not_found(format!("App {name} has no issuer for {host}.")));
    }
    orders::set_issuer(&mut tx, app.id, &core.public.domain, &host, None).await?;
    store::delete_ordered(&mut tx, &host).await?;
    commit_change(tx).await
}

/// The certificate of a host for display, or its order.
#[derive(Clone, Debug)]
pub(super) struct HostCertificate {
    pub(super) host: String,
    /// Empty: ordered and not there yet.
    pub(super) chain: String,
    /// Empty: a user has given it.
    pub(super) issuer: String,
    /// Of the last order; empty: it did not fail.
    pub(super) error: String,
}

/// Lists the certificates and orders of an app.
pub(super) async fn list_certificates(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<Vec<HostCertificate>, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_READ_CERTIFICATE).await?;
    let mut orders: BTreeMap<String, OrderRow> = BTreeMap::new();
    for order in orders::list_app_orders(&core.db, app.id).await? {
        orders.insert(order.host.clone(), order);
    }
    let mut list = Vec::new();
    for row in store::list_app_certificates(&core.db, app.id).await? {
        let order = orders.remove(&row.host);
        list.push(HostCertificate {
            host: row.host,
            chain: row.chain,
            issuer: row.issuer,
            error: order.map(|order| order.error).unwrap_or_default(),
        });
    }
    list.extend(orders.into_values().map(|order| HostCertificate {
        host: order.host,
        chain: String::new(),
        issuer: order.issuer,
        error: order.error,
    }));
    Ok(list)
}

/// How the hosts of an app that have a certificate are to be served; what is `None` stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpsOptions {
    /// Redirect plain requests.
    pub redirects: Option<bool>,
    /// 0: no HSTS.
    pub hsts_seconds: Option<i32>,
}

/// Sets how the hosts of an app are served. Errors: `NotFound`, `Forbidden`, `Invalid`.
pub async fn set_https_options(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    options: HttpsOptions,
) -> Result<(), Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE_ROUTER_UPDATE).await?;
    apps::ensure_live(&app)?;
    if options
        .hsts_seconds
        .is_some_and(|seconds| !(0..=MAX_HSTS_SECONDS).contains(&seconds))
    {
        return Err(Error::invalid(format!(
            "The option hsts is a number of seconds from 0 to {MAX_HSTS_SECONDS}."
        )));
    }
    let mut tx = core.db.begin().await?;
    let data = json!({ "https-redirect": options.redirects, "hsts": options.hsts_seconds });
    record_change(&mut tx, call, &app, Permission::APP_UPDATE_ROUTER_UPDATE, data).await?;
    store::upsert_options(&mut tx, app.id, options.redirects, options.hsts_seconds).await?;
    commit_change(tx).await
}

/// Returns the host of an app in lower case. Errors: `NotFound` if the app does not have it.
fn find_host(core: &Core, app: &App, cname: &CName) -> Result<String, Error> {
    let host = cname.as_str().trim_end_matches('.').to_ascii_lowercase();
    let is_own = || host == format!("{}.{}", app.label, core.public.domain);
    match app.cnames.contains(&host) || is_own() {
        true => Ok(host),
        false => Err(host_error(app, &host)),
    }
}

fn host_error(app: &App, host: &str) -> Error {
    Error::not_found(format!("App {} has no cname {host}: add it first.", app.name))
}

async fn record_change(
    tx: &mut PgConnection,
    call: &RequestContext,
    app: &App,
    kind: Permission,
    data: Value,
) -> Result<(), Error> {
    let target = EventTarget::for_app(&app.name);
    let event = NewEvent::new(target, kind, app.permission_contexts(), data);
    events::record_event(tx, call, &event).await?;
    Ok(())
}

async fn commit_change(mut tx: sqlx::Transaction<'_, sqlx::Postgres>) -> Result<(), Error> {
    db::send_notice(&mut tx, NoticeChannel::Routes, "").await?;
    Ok(tx.commit().await?)
}
