//! Sets, shows and removes an app's forge; accepts deliveries.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::apps::{self, App};
use crate::core::Core;
use crate::events::{self, EventTarget, NewEvent};
use crate::forges::address::ForgeAddress;
use crate::forges::model::{WebhookDelivery, parse_push};
use crate::forges::saga::{DeployFromForge, ForgeData};
use crate::forges::store::{self, Forge};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::kernel::secret::Secret;
use crate::repositories;
use crate::sagas;
use crate::ssh::client::KeyPair;

/// A shorter secret could be guessed from one signature.
const MIN_SECRET_LENGTH: usize = 16;
const MAX_TEXT_LENGTH: usize = 1000;

/// The settings of a forge.
#[derive(Debug)]
pub(super) struct ForgeConfig {
    pub(super) address: ForgeAddress,
    pub(super) branch: Option<BranchName>,
    /// `None`: generate one.
    pub(super) secret: Option<Secret>,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    /// The fingerprint of the forge's host key. `None`: pin the first one that it shows.
    pub(super) host_key: Option<String>,
}

/// A forge for display.
pub(super) struct ForgeDetails {
    pub(super) forge: Forge,
    /// A line for the forge; empty: no key is needed.
    pub(super) deploy_key: String,
}

pub(super) fn secret_associated_data(app: AppId) -> AssociatedData {
    AssociatedData::new(SealedColumn::FORGE_SECRET, &[&app.0])
}

pub(super) fn password_associated_data(app: AppId) -> AssociatedData {
    AssociatedData::new(SealedColumn::FORGE_PASSWORD, &[&app.0])
}

fn deploy_key_associated_data(app: AppId) -> AssociatedData {
    AssociatedData::new(SealedColumn::FORGE_DEPLOY_KEY, &[&app.0])
}

/// Decrypts the SSH deploy key of a forge, if it has one.
pub(super) fn decrypt_deploy_key(core: &Core, forge: &Forge) -> Result<Option<KeyPair>, Error> {
    let Some(sealed) = &forge.deploy_key else {
        return Ok(None);
    };
    let seed = core
        .keys
        .decrypt(&deploy_key_associated_data(forge.app), sealed)?;
    KeyPair::from_seed(&seed).map(Some)
}

/// Formats a deploy key for the forge, as a line of `authorized_keys`.
pub(super) fn deploy_key_line(key: &KeyPair, app: &AppName) -> String {
    format!("{} tancho-{app}", key.public_key().openssh_line())
}

fn build_details(core: &Core, name: &AppName, forge: Forge) -> Result<ForgeDetails, Error> {
    let key = match ForgeAddress::parse(&forge.url)? {
        ForgeAddress::Http(_) => None,
        ForgeAddress::Ssh(_) => decrypt_deploy_key(core, &forge)?,
    };
    let deploy_key = key.map(|key| deploy_key_line(&key, name)).unwrap_or_default();
    Ok(ForgeDetails { forge, deploy_key })
}

/// Sets an app's forge; returns it with its secret. Errors: `Invalid`, `NotFound`, `Forbidden`.
pub(super) async fn set_forge(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    config: ForgeConfig,
) -> Result<(ForgeDetails, Secret), Error> {
    let app = authorize_change(core, call, name).await?;
    check_config(&config)?;
    let secret = config.secret.unwrap_or_else(Secret::random_hex);
    let mut forge = Forge {
        app: app.id,
        url: config.address.to_string(),
        branch: config
            .branch
            .unwrap_or_else(|| core.settings.git.default_branch.clone()),
        user: config.user,
        secret: core.keys.encrypt(&secret_associated_data(app.id), &secret),
        password: config
            .password
            .map(|password| core.keys.encrypt(&password_associated_data(app.id), &password)),
        deploy_key: None,
        host_key: String::new(),
        delivered_at: None,
        commit: String::new(),
        error: String::new(),
    };
    let mut tx = core.db.begin().await?;
    let old = store::find_forge(&mut *tx, app.id).await?;
    forge.host_key = config
        .host_key
        .unwrap_or_else(|| retained_host_key(old, &config.address));
    let data = json!({ "forge": forge.url, "branch": forge.branch, "hostKey": forge.host_key });
    events::record_event(&mut tx, call, &change_event(&app, data)).await?;
    store::upsert_forge(&mut tx, &forge).await?;
    if let ForgeAddress::Ssh(_) = config.address {
        let fresh = core
            .keys
            .encrypt(&deploy_key_associated_data(app.id), &Secret::random_hex());
        store::ensure_deploy_key(&mut tx, app.id, &fresh).await?;
    }
    let forge = store::find_forge(&mut *tx, app.id)
        .await?
        .ok_or_else(|| no_forge_error(name))?;
    tx.commit().await?;
    Ok((build_details(core, name, forge)?, secret))
}

/// Refuses settings that do not fit together, or that are too short or too long.
fn check_config(config: &ForgeConfig) -> Result<(), Error> {
    let length = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose_secret().len());
    let (secret, password) = (length(&config.secret), length(&config.password));
    if secret.is_some_and(|length| length < MIN_SECRET_LENGTH) {
        return Err(Error::invalid(format!(
            "The secret is too short: give at least {MIN_SECRET_LENGTH} characters, or none to have one generated."
        )));
    }
    let longest = secret.max(password).unwrap_or(0).max(config.user.len());
    if longest > MAX_TEXT_LENGTH || config.user.contains(':') {
        return Err(Error::invalid(
            "A user name, password or secret is too long, or the user name has a colon in it.",
        ));
    }
    match &config.address {
        ForgeAddress::Http(_) if config.host_key.is_some() => Err(Error::invalid(
            "`host_key` is for SSH addresses only: leave it out.",
        )),
        ForgeAddress::Ssh(_) if password.is_some() || !config.user.is_empty() => Err(Error::invalid(
            "`user` and `password` are for https: over SSH the address contains the user, and the login is by deploy key.",
        )),
        _ => Ok(()),
    }
}

/// Returns the pinned host key if the forge's server stays the same.
fn retained_host_key(old: Option<Forge>, new: &ForgeAddress) -> String {
    let same = |old: &Forge| match (ForgeAddress::parse(&old.url), new) {
        (Ok(ForgeAddress::Ssh(old)), ForgeAddress::Ssh(new)) => old.host_and_port() == new.host_and_port(),
        _ => false,
    };
    old.filter(same).map(|old| old.host_key).unwrap_or_default()
}

/// Shows an app's forge. Errors: `NotFound` if it has none.
pub(super) async fn show_forge(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
) -> Result<ForgeDetails, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_READ).await?;
    let forge = store::find_forge(&core.db, app.id).await?;
    build_details(core, name, forge.ok_or_else(|| no_forge_error(name))?)
}

/// Removes an app's forge. Errors: `NotFound` if it has none.
pub(super) async fn remove_forge(core: &Core, call: &RequestContext, name: &AppName) -> Result<(), Error> {
    let app = authorize_change(core, call, name).await?;
    let mut tx = core.db.begin().await?;
    events::record_event(&mut tx, call, &change_event(&app, json!({ "forge": "" }))).await?;
    if !store::delete_forge(&mut tx, app.id).await? {
        return Err(no_forge_error(name));
    }
    Ok(tx.commit().await?)
}

fn no_forge_error(name: &AppName) -> Error {
    Error::not_found(format!("App {name} is not deployed from a forge."))
}

async fn authorize_change(core: &Core, call: &RequestContext, name: &AppName) -> Result<App, Error> {
    let app = apps::find_authorized_app(core, call, name, Permission::APP_UPDATE).await?;
    apps::ensure_live(&app)?;
    // Setting a forge decides what is deployed.
    call.authorize(Permission::APP_DEPLOY_GIT, &app.permission_contexts())?;
    Ok(app)
}

fn change_event(app: &App, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        EventTarget::for_app(&app.name),
        Permission::APP_UPDATE,
        app.permission_contexts(),
        data,
    )
}

/// Accepts a delivery: verifies it, records it, and enqueues the deploy of its commit. Returns a message
/// about what will happen. Errors: `Forbidden` if the signature is invalid, `Conflict` if it was accepted
/// before and did not fail.
pub(super) async fn accept_delivery(
    core: &Core,
    call: &RequestContext,
    name: &AppName,
    delivery: &WebhookDelivery<'_>,
) -> Result<String, Error> {
    let found = store::find_forge_by_app_name(&core.db, name).await?;
    let secret = match &found {
        Some(forge) => core
            .keys
            .decrypt(&secret_associated_data(forge.app), &forge.secret)?,
        // Same amount of work for unknown apps.
        None => Secret::random_hex(),
    };
    let (true, Some(forge)) = (delivery.is_signed_by(&secret), found) else {
        return Err(Error::forbidden(
            "Invalid signature: check the app's name in the webhook's address and the secret in the forge.",
        ));
    };
    if !delivery.has_valid_id() {
        return Err(Error::invalid(
            "A delivery needs an id in X-GitHub-Delivery or X-Gitea-Delivery.",
        ));
    }
    let mut tx = core.db.begin().await?;
    let digest = Sha256::digest(delivery.body);
    if !store::record_delivery(&mut tx, forge.app, delivery.id, &digest).await? {
        return Err(Error::conflict("This delivery was already accepted."));
    }
    if delivery.event != "push" {
        tx.commit().await?;
        return Ok(format!("Ignored {:?}: only pushes are deployed.", delivery.event));
    }
    let new = parse_push(delivery.body)?.filter(|new| new.branch == forge.branch);
    let Some(new) = new else {
        tx.commit().await?;
        return Ok(format!("Ignored: only pushes to {} are deployed.", forge.branch));
    };
    store::record_outcome(&mut tx, forge.app, &new.commit, "").await?;
    let host = repositories::find_or_claim_host(core, &mut tx, forge.app).await?;
    let data = ForgeData {
        app: forge.app,
        commit: new.commit.clone(),
        source_ip: call.source_ip.to_string(),
        digest: hex::encode(digest),
        is_current: false,
        host: Some(host.to_string()),
    };
    sagas::enqueue_saga::<DeployFromForge>(&mut tx, None, &data).await?;
    tx.commit().await?;
    Ok(format!(
        "{} of {} will be fetched and deployed.",
        new.commit, new.branch
    ))
}
