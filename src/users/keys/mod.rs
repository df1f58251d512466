//! A user's SSH public keys, for pushing code.

mod model;
mod store;

use std::sync::Arc;

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::{Actor, Call, Grant};
use crate::kernel::ids::UserId;
use crate::kernel::names::Email;
use crate::kernel::permission::Permission;
use crate::kernel::problem::Problem;
use crate::users::actions::is_self;
use crate::users::model::context;
use crate::users::store::find_id;

use self::model::PublicKey;

/// A key to be.
#[derive(Clone, Debug)]
pub(super) struct NewKey {
    /// As in `~/.ssh/id_ed25519.pub`.
    pub(super) text: String,
    /// Empty: one is made of the address and a number.
    pub(super) name: String,
    /// Takes the place of a key of that name.
    pub(super) force: bool,
}

/// Which key to remove.
#[derive(Clone, Debug)]
pub(super) enum Which {
    Text(String),
    Name(String),
}

/// Adds a key to the caller. Errors: `Invalid` for what is no key, `Conflict` for a key or name that
/// is there.
pub(super) async fn add(core: &Core, call: &Call, new: &NewKey) -> Result<(), Problem> {
    let (id, email) = call.user()?;
    let key = PublicKey::parse(&new.text)?;
    let own = core.public.ssh.as_ref().map(|ssh| &ssh.fingerprint);
    if own == Some(&key.fingerprint) {
        return Err(Problem::invalid(
            "That is this server's own key, by which you know it: add one of yours.",
        ));
    }
    check_name(&new.name)?;
    let mut tx = core.db.begin().await?;
    events::record(&mut tx, call, &event(email, &key.fingerprint)).await?;
    let name = match new.name.as_str() {
        "" => {
            let names = store::list_names(&mut tx, id).await?;
            free_name(email, &names)
        }
        name => name.to_owned(),
    };
    if new.force {
        store::delete_named(&mut tx, id, &name).await?;
    }
    let inserted = db::on_constraint(
        store::insert(&mut tx, id, &name, &key.fingerprint, &key.body).await,
        "ssh_key_fingerprint_key",
        || Problem::conflict("That key is already in use."),
    );
    match inserted {
        Ok(true) => Ok(tx.commit().await?),
        Ok(false) => Err(Problem::conflict(format!(
            "You have a key named {name:?} already."
        ))),
        Err(problem) => Err(problem),
    }
}

/// Removes a key of the caller. Errors: `NotFound`.
pub(super) async fn remove(core: &Core, call: &Call, which: &Which) -> Result<(), Problem> {
    let (id, email) = call.user()?;
    let unknown = || Problem::not_found("You have no such key.");
    let mut tx = core.db.begin().await?;
    let gone = match which {
        Which::Name(name) => store::delete_named(&mut tx, id, name).await?,
        Which::Text(text) => {
            let key = PublicKey::parse(text).map_err(|_| unknown())?;
            store::delete_fingerprint(&mut tx, id, &key.fingerprint).await?
        }
    };
    let fingerprint = gone.ok_or_else(unknown)?;
    events::record(&mut tx, call, &event(email, &fingerprint)).await?;
    Ok(tx.commit().await?)
}

/// Who a key stands for, by its fingerprint, and what they may do; `None`: it is nobody's.
pub async fn admit_key(core: &Core, fingerprint: &str) -> Result<Option<(Actor, Arc<[Grant]>)>, Problem> {
    let found = store::find_owner(&core.db, fingerprint).await?;
    Ok(found.map(|(actor, grants)| (actor, Arc::from(grants))))
}

/// A user's keys by name, for themselves and who may read them. Errors: `Forbidden`, `NotFound`.
pub(super) async fn list(core: &Core, call: &Call, email: &Email) -> Result<Vec<(String, String)>, Problem> {
    if !is_self(call, email) {
        call.allow(Permission::USER_READ, &[context(email)])?;
    }
    let id: UserId = find_id(&core.db, email)
        .await?
        .ok_or_else(|| Problem::not_found("user not found"))?;
    Ok(store::list(&core.db, id).await?)
}

fn check_name(name: &str) -> Result<(), Problem> {
    let fits = name.len() <= 254 && !name.chars().any(char::is_control);
    match fits {
        true => Ok(()),
        false => Err(Problem::invalid("The name of a key has at most 254 characters.")),
    }
}

/// The address with the first number after all that were used.
fn free_name(email: &Email, names: &[String]) -> String {
    let used = names.iter().filter_map(|name| {
        let rest = name.strip_prefix(email.as_str())?.strip_prefix('-')?;
        rest.parse::<u32>().ok()
    });
    let last = used.max().unwrap_or(0);
    format!("{email}-{}", last.saturating_add(1))
}

fn event(email: &Email, fingerprint: &str) -> NewEvent {
    NewEvent::new(
        Target::new(TargetKind::User, email),
        Permission::USER_UPDATE,
        vec![context(email)],
        json!({ "key": fingerprint }),
    )
}
