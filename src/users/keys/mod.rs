//! A user's SSH public keys, for `git` over SSH.

mod model;
mod store;

use std::sync::Arc;

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::error::Error;
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::{Actor, PermissionGrant, RequestContext};
use crate::users::actions::find_user_for;
use crate::users::model::user_context;

use self::model::UserSshKey;

/// A key to be added.
#[derive(Clone, Debug)]
pub(super) struct NewSshKey {
    /// As in `~/.ssh/id_ed25519.pub`.
    pub(super) text: String,
    /// If empty, a name is generated from the e-mail address and a number.
    pub(super) name: String,
    /// Replaces a key of that name.
    pub(super) force: bool,
}

/// Selects the key to remove.
#[derive(Clone, Debug)]
pub(super) enum KeySelector {
    Text(String),
    Name(String),
}

/// Adds a key to the caller. Errors: `Invalid` for an invalid key, `Conflict` for a key or name that exists.
pub(super) async fn add_key(core: &Core, call: &RequestContext, new: &NewSshKey) -> Result<(), Error> {
    let (id, email) = call.require_user()?;
    let key = UserSshKey::parse(&new.text)?;
    let own = core.public.ssh.as_ref().map(|ssh| &ssh.fingerprint);
    if own == Some(&key.fingerprint) {
        return Err(Error::invalid(
            "This is the host key of this server: add a key of your own.",
        ));
    }
    check_key_name(&new.name)?;
    let mut tx = core.db.begin().await?;
    let replaced = match new.force {
        true => store::delete_key_by_name(&mut tx, id, &new.name).await?,
        false => None,
    };
    let event = key_event(email, &key.fingerprint, replaced.as_deref());
    events::record_event(&mut tx, call, &event).await?;
    let name = match new.name.as_str() {
        "" => {
            let names = store::list_key_names(&mut tx, id).await?;
            free_name(email, &names)
        }
        name => name.to_owned(),
    };
    let inserted = db::map_constraint_violation(
        store::insert_key(&mut tx, id, &name, &key.fingerprint, &key.body).await,
        "ssh_key_fingerprint_key",
        || Error::conflict("That key is already in use."),
    );
    match inserted {
        Ok(true) => Ok(tx.commit().await?),
        Ok(false) => Err(Error::conflict(format!("You have a key named {name:?} already."))),
        Err(error) => Err(error),
    }
}

/// Removes a key of the caller. Errors: `NotFound`.
pub(super) async fn remove_key(core: &Core, call: &RequestContext, which: &KeySelector) -> Result<(), Error> {
    let (id, email) = call.require_user()?;
    let unknown = || Error::not_found("You have no such key.");
    let mut tx = core.db.begin().await?;
    let gone = match which {
        KeySelector::Name(name) => store::delete_key_by_name(&mut tx, id, name).await?,
        KeySelector::Text(text) => {
            let key = UserSshKey::parse(text).map_err(|_| unknown())?;
            store::delete_key_by_fingerprint(&mut tx, id, &key.fingerprint).await?
        }
    };
    let fingerprint = gone.ok_or_else(unknown)?;
    events::record_event(&mut tx, call, &key_event(email, &fingerprint, None)).await?;
    Ok(tx.commit().await?)
}

/// Finds the user of a key by its fingerprint, with their permissions; `None` if no user has the key.
pub async fn authenticate_key(
    core: &Core,
    fingerprint: &str,
) -> Result<Option<(Actor, Arc<[PermissionGrant]>)>, Error> {
    let found = store::find_key_owner(&core.db, fingerprint).await?;
    Ok(found.map(|(actor, grants)| (actor, Arc::from(grants))))
}

/// Returns a user's keys by name, to the user and to callers who may read them. Errors: `Forbidden`,
/// `NotFound`.
pub(super) async fn list_keys(
    core: &Core,
    call: &RequestContext,
    email: &Email,
) -> Result<Vec<(String, String)>, Error> {
    let (id, _) = find_user_for(core, call, email, Permission::USER_READ).await?;
    Ok(store::list_keys(&core.db, id).await?)
}

/// Returns the caller's keys by name. Errors: `Forbidden` for a caller that is not a user.
pub(super) async fn list_own_keys(
    core: &Core,
    call: &RequestContext,
) -> Result<Vec<(String, String)>, Error> {
    Ok(store::list_keys(&core.db, call.require_user()?.0).await?)
}

fn check_key_name(name: &str) -> Result<(), Error> {
    let fits = name.len() <= 254 && !name.chars().any(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(Error::invalid("The name of a key has at most 254 characters.")),
    }
}

/// Returns the e-mail address with the first number after all used ones.
fn free_name(email: &Email, names: &[String]) -> String {
    let used = names.iter().filter_map(|name| {
        let rest = name.strip_prefix(email.as_str())?.strip_prefix('-')?;
        rest.parse::<u32>().ok()
    });
    let last = used.max().unwrap_or(0);
    format!("{email}-{}", last.saturating_add(1))
}

/// Builds an event on a key; `replaced` is the fingerprint of the key that lost access.
fn key_event(email: &Email, fingerprint: &str, replaced: Option<&str>) -> NewEvent {
    let mut data = json!({ "key": fingerprint });
    if let Some(replaced) = replaced {
        data["replaced"] = json!(replaced);
    }
    NewEvent::new(
        EventTarget::new(EventTargetKind::User, email),
        Permission::USER_UPDATE,
        vec![user_context(email)],
        data,
    )
}
