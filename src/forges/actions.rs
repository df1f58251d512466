//! A forge set, shown, taken away; a delivery taken.

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::apps::{self, App};
use crate::core::Core;
use crate::events::{self, NewEvent, Target};
use crate::forges::address::Address;
use crate::forges::model::{Delivery, pushed};
use crate::forges::saga::{DeployFromForge, ForgeData};
use crate::forges::store::{self, Forge};
use crate::kernel::call::Call;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, BranchName};
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::repositories;
use crate::sagas::{self, Lane, NewSaga};
use crate::ssh::client::KeyPair;

/// Shorter secrets can be guessed from one signature.
const SHORTEST_SECRET: usize = 16;
const LONGEST_TEXT: usize = 1000;

/// A forge to be.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) address: Address,
    pub(super) branch: Option<BranchName>,
    /// `None`: one is made.
    pub(super) secret: Option<Secret>,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    /// The fingerprint of the host key that the forge must show. `None`: the first one that it shows.
    pub(super) host_key: Option<String>,
}

/// A forge as it is shown.
pub(super) struct Shown {
    pub(super) forge: Forge,
    /// A line for the forge; empty: none is needed.
    pub(super) deploy_key: String,
}

pub(super) fn secret_place(app: AppId) -> Place {
    Place::new(Column::FORGE_SECRET, &[&app.0])
}

pub(super) fn password_place(app: AppId) -> Place {
    Place::new(Column::FORGE_PASSWORD, &[&app.0])
}

fn deploy_key_place(app: AppId) -> Place {
    Place::new(Column::FORGE_DEPLOY_KEY, &[&app.0])
}

/// By which a forge is read over SSH, if it ever was to be.
pub(super) fn deploy_key(core: &Core, forge: &Forge) -> Result<Option<KeyPair>, Problem> {
    let Some(sealed) = &forge.deploy_key else {
        return Ok(None);
    };
    let seed = core.keys.open(&deploy_key_place(forge.app), sealed)?;
    KeyPair::from_seed(&seed).map(Some)
}

/// What a forge is told of a deploy key: a line as in `authorized_keys`.
pub(super) fn deploy_line(key: &KeyPair, app: &AppName) -> String {
    format!("{} tancho-{app}", key.public().line())
}

fn shown(core: &Core, name: &AppName, forge: Forge) -> Result<Shown, Problem> {
    let key = match Address::parse(&forge.url)? {
        Address::Http(_) => None,
        Address::Ssh(_) => deploy_key(core, &forge)?,
    };
    let deploy_key = key.map(|key| deploy_line(&key, name)).unwrap_or_default();
    Ok(Shown { forge, deploy_key })
}

/// Sets an app's forge; answers it with its secret. Errors: `Invalid`, `NotFound`, `Forbidden`.
pub(super) async fn set(
    core: &Core,
    call: &Call,
    name: &AppName,
    wish: Wish,
) -> Result<(Shown, Secret), Problem> {
    let app = may_change(core, call, name).await?;
    check(&wish)?;
    let secret = wish.secret.unwrap_or_else(Secret::random);
    let mut forge = Forge {
        app: app.id,
        url: wish.address.to_string(),
        branch: wish
            .branch
            .unwrap_or_else(|| core.settings.git.default_branch.clone()),
        user: wish.user,
        secret: core.keys.seal(&secret_place(app.id), &secret),
        password: wish
            .password
            .map(|password| core.keys.seal(&password_place(app.id), &password)),
        deploy_key: None,
        host_key: String::new(),
        delivered_at: None,
        commit: String::new(),
        problem: String::new(),
    };
    let mut tx = core.db.begin().await?;
    let old = store::find(&mut *tx, app.id).await?;
    forge.host_key = wish.host_key.unwrap_or_else(|| kept(old, &wish.address));
    let data = json!({ "forge": forge.url, "branch": forge.branch, "hostKey": forge.host_key });
    events::record(&mut tx, call, &event(&app, data)).await?;
    store::set(&mut tx, &forge).await?;
    if let Address::Ssh(_) = wish.address {
        let fresh = core.keys.seal(&deploy_key_place(app.id), &Secret::random());
        store::give_key(&mut tx, app.id, &fresh).await?;
    }
    let forge = store::find(&mut *tx, app.id).await?.ok_or_else(|| none(name))?;
    tx.commit().await?;
    Ok((shown(core, name, forge)?, secret))
}

/// Refuses what does not fit together, and what is too short or too long.
fn check(wish: &Wish) -> Result<(), Problem> {
    let length = |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().len());
    let (secret, password) = (length(&wish.secret), length(&wish.password));
    if secret.is_some_and(|length| length < SHORTEST_SECRET) {
        return Err(Problem::invalid(format!(
            "The secret is too short: give {SHORTEST_SECRET} characters at least, or none and get one."
        )));
    }
    let longest = secret.max(password).unwrap_or(0).max(wish.user.len());
    if longest > LONGEST_TEXT || wish.user.contains(':') {
        return Err(Problem::invalid(
            "A user name, password or secret is too long, or the user name has a colon in it.",
        ));
    }
    match &wish.address {
        Address::Http(_) if wish.host_key.is_some() => Err(Problem::invalid(
            "`host_key` is for addresses of SSH: leave it out.",
        )),
        Address::Ssh(_) if password.is_some() || !wish.user.is_empty() => Err(Problem::invalid(
            "`user` and `password` are for https: over SSH the user is part of the address, and the deploy key opens.",
        )),
        _ => Ok(()),
    }
}

/// The host key that stays, because the forge is where it was.
fn kept(old: Option<Forge>, new: &Address) -> String {
    let same = |old: &Forge| match (Address::parse(&old.url), new) {
        (Ok(Address::Ssh(old)), Address::Ssh(new)) => old.server() == new.server(),
        _ => false,
    };
    old.filter(same).map(|old| old.host_key).unwrap_or_default()
}

/// An app's forge. Errors: `NotFound` if it has none.
pub(super) async fn show(core: &Core, call: &Call, name: &AppName) -> Result<Shown, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_READ).await?;
    let forge = store::find(&core.db, app.id).await?;
    shown(core, name, forge.ok_or_else(|| none(name))?)
}

/// Takes an app's forge away. Errors: `NotFound` if it has none.
pub(super) async fn remove(core: &Core, call: &Call, name: &AppName) -> Result<(), Problem> {
    let app = may_change(core, call, name).await?;
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(&app, json!({ "forge": "" }))).await?;
    if !store::delete(&mut tx, app.id).await? {
        return Err(none(name));
    }
    Ok(tx.commit().await?)
}

fn none(name: &AppName) -> Problem {
    Problem::not_found(format!("App {name} is not deployed from a forge."))
}

async fn may_change(core: &Core, call: &Call, name: &AppName) -> Result<App, Problem> {
    let app = apps::find_for(core, call, name, Permission::APP_UPDATE).await?;
    apps::ensure_live(&app)?;
    // Whoever sets a forge decides what is deployed.
    call.allow(Permission::APP_DEPLOY_GIT, &app.contexts())?;
    Ok(app)
}

fn event(app: &App, data: serde_json::Value) -> NewEvent {
    NewEvent::new(
        Target::app(&app.name),
        Permission::APP_UPDATE,
        app.contexts(),
        data,
    )
}

/// Takes a delivery: checks it, remembers it, and has its commit deployed. Answers what will be done.
/// Errors: `Forbidden` for one that nobody signed, `Conflict` for one that has been taken before, unless it came to
/// nothing.
pub(super) async fn deliver(
    core: &Core,
    call: &Call,
    name: &str,
    delivery: &Delivery<'_>,
) -> Result<String, Problem> {
    let found = match AppName::parse(name) {
        Ok(name) => store::find_by_name(&core.db, &name).await?,
        Err(_) => None,
    };
    let secret = match &found {
        Some(forge) => core.keys.open(&secret_place(forge.app), &forge.secret)?,
        // Takes as long.
        None => Secret::random(),
    };
    let (true, Some(forge)) = (delivery.is_signed_by(&secret), found) else {
        return Err(Problem::forbidden(
            "The signature does not fit: is the app's name in the address, and its secret in the forge?",
        ));
    };
    if !delivery.has_sane_id() {
        return Err(Problem::invalid(
            "A delivery needs an id in X-GitHub-Delivery or X-Gitea-Delivery.",
        ));
    }
    let mut tx = core.db.begin().await?;
    let digest = Sha256::digest(delivery.body);
    if !store::take(&mut tx, forge.app, delivery.id, &digest).await? {
        return Err(Problem::conflict("This delivery has been taken before."));
    }
    if delivery.event != "push" {
        tx.commit().await?;
        return Ok(format!(
            "Nothing to do for {:?}: pushes are deployed.",
            delivery.event
        ));
    }
    let new = pushed(delivery.body)?.filter(|new| new.branch == forge.branch);
    let Some(new) = new else {
        tx.commit().await?;
        return Ok(format!("Nothing to do: pushes of {} are deployed.", forge.branch));
    };
    store::note(&mut tx, forge.app, &new.commit, "").await?;
    let data = ForgeData {
        app: forge.app,
        commit: new.commit.clone(),
        source_ip: call.source_ip.to_string(),
        digest: hex::encode(digest),
        is_current: false,
    };
    let host = repositories::host(core, forge.app).await?;
    let saga = NewSaga {
        kind: DeployFromForge::KIND,
        // The people's lane is for what it waits for: deploys.
        lane: Lane::Housekeeping,
        event: None,
        host: Some(&host),
        data: &data,
    };
    sagas::enqueue(&mut tx, saga).await?;
    tx.commit().await?;
    Ok(format!(
        "{} of {} will be fetched and deployed.",
        new.commit, new.branch
    ))
}
