//! The database operations of a rollout: create a release, make it the candidate, promote or discard it. The
//! steps are in `rollout_steps`.

use std::collections::BTreeMap;

use sqlx::{Connection, PgConnection};

use crate::core::Core;
use crate::db;
use crate::db::notices::NoticeChannel;
use crate::envs::{self, VarSource};
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::kernel::names::{AppName, EnvName};
use crate::kernel::secret::Secret;
use crate::releases::sides::{self, ReleaseSide};
use crate::releases::store;

fn associated_data(column: SealedColumn, app: AppId, version: i32) -> AssociatedData {
    AssociatedData::new(column, &[&app, &version])
}

/// Creates a release of the current version of a side with the present environment, and makes it the candidate.
/// Returns `None` if nothing is deployed, or if no unit should run: then there is nothing to wait for.
pub(super) async fn create_candidate(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
) -> Result<Option<i64>, Error> {
    let state = load_release_state(tx, app, side).await?;
    let Some(version) = state.version else {
        return Ok(None);
    };
    let release = create_release(core, tx, app, &state, (version, side)).await?;
    if state.wanted == 0 {
        store::set_current(tx, app, side, release).await?;
        return Ok(None);
    }
    store::set_candidate(tx, app, side, release).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    Ok(Some(release))
}

/// A variable set by a user, as stored in a snapshot: name, value, whether it is public.
pub(super) type UserVar = (EnvName, Secret, bool);

/// Creates a release of a version and makes it the candidate of a side. The environment is the present one, or with
/// `vars` the one that would result if users had set only these. The app's variables do not change.
pub async fn create_version_candidate(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    (version, side): (i32, ReleaseSide),
    vars: Option<&[UserVar]>,
) -> Result<i64, Error> {
    let state = load_release_state(tx, app, side).await?;
    let release = match vars {
        None => create_release(core, tx, app, &state, (version, side)).await?,
        Some(vars) => {
            // The database computes the resulting environment in a nested transaction.
            let mut trial = tx.begin().await?;
            replace_user_vars(core, &mut trial, app, vars).await?;
            // The variables become the app's at the promotion, without another check.
            envs::effective_environment(core, &mut trial, app, &state.name)
                .await?
                .check_stays_fit()?;
            let (env, user_env) = encrypt_snapshot(core, &mut trial, app, &state.name, version).await?;
            trial.rollback().await?;
            let routable = starts_routable(&state, side);
            store::insert_release(tx, app, version, (&env, &user_env), (side, routable)).await?
        }
    };
    store::set_candidate(tx, app, side, release).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    Ok(release)
}

/// Creates a release of a side with the present environment and makes it current at once, for stopped processes,
/// which have no units. The units of other processes stay. Returns `None` if nothing is deployed.
pub async fn create_current_release(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
    processes: &[String],
) -> Result<Option<i64>, Error> {
    let state = load_release_state(tx, app, side).await?;
    let Some(version) = state.version else {
        return Ok(None);
    };
    let release = create_release(core, tx, app, &state, (version, side)).await?;
    store::limit_to_processes(tx, release, processes).await?;
    store::set_current(tx, app, side, release).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    Ok(Some(release))
}

async fn load_release_state(
    tx: &mut PgConnection,
    app: AppId,
    side: ReleaseSide,
) -> Result<store::ReleaseState, Error> {
    let state = store::find_release_state(tx, app, side).await?;
    let state = state.ok_or_else(|| Error::not_found("The app no longer exists."))?;
    if state.candidate.is_some() {
        tracing::debug!(app = %state.name, "replacing an earlier candidate");
    }
    Ok(state)
}

async fn create_release(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    state: &store::ReleaseState,
    (version, side): (i32, ReleaseSide),
) -> Result<i64, Error> {
    let (env, user_env) = encrypt_snapshot(core, tx, app, &state.name, version).await?;
    let routable = starts_routable(state, side);
    Ok(store::insert_release(tx, app, version, (&env, &user_env), (side, routable)).await?)
}

/// A release gets requests if the one before it on its side does; a new version beside others gets none at first.
fn starts_routable(state: &store::ReleaseState, side: ReleaseSide) -> bool {
    match (side, state.current) {
        (ReleaseSide::Beside(_), None) => false,
        _ => state.routable,
    }
}

/// Returns the whole environment, and the part that users have set, both encrypted.
async fn encrypt_snapshot(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    name: &AppName,
    version: i32,
) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let all = envs::effective_environment(core, tx, app, name).await?;
    all.check_size()?;
    let user: BTreeMap<&str, (&str, bool)> = all
        .iter()
        .filter(|var| matches!(var.source, VarSource::User { .. }))
        .map(|var| (var.name.as_str(), (var.value.expose_secret(), var.public)))
        .collect();
    let env = encrypt_json(
        core,
        &associated_data(SealedColumn::RELEASE_ENV, app, version),
        &all.to_map(),
    )?;
    let user_env = encrypt_json(
        core,
        &associated_data(SealedColumn::RELEASE_USER_ENV, app, version),
        &user,
    )?;
    Ok((env, user_env))
}

fn encrypt_json(core: &Core, aad: &AssociatedData, value: &impl serde::Serialize) -> Result<Vec<u8>, Error> {
    let text = serde_json::to_string(value).map_err(Error::internal)?;
    Ok(core.keys.encrypt(aad, &Secret::new(text)))
}

/// Returns the environment of the units of a release.
pub async fn load_environment(core: &Core, release: i64) -> Result<Vec<(EnvName, Secret)>, Error> {
    let sealed = store::find_encrypted_env(&core.db, release).await?;
    let sealed = sealed.ok_or_else(|| Error::not_found("The release no longer exists."))?;
    let text = core.keys.decrypt(
        &associated_data(SealedColumn::RELEASE_ENV, sealed.app, sealed.version),
        &sealed.env,
    )?;
    let map: BTreeMap<String, String> =
        serde_json::from_str(text.expose_secret()).map_err(Error::internal)?;
    map.into_iter()
        .map(|(name, value)| Ok((EnvName::parse(&name)?, Secret::new(value))))
        .collect()
}

/// Returns the variables that users had set when a version was first released, and whether each is public.
pub async fn load_user_environment(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> Result<Option<Vec<UserVar>>, Error> {
    let Some(release) = store::find_first_release(tx, app, version).await? else {
        return Ok(None);
    };
    let Some(sealed) = store::find_encrypted_env(&mut *tx, release).await? else {
        return Ok(None);
    };
    let text = core.keys.decrypt(
        &associated_data(SealedColumn::RELEASE_USER_ENV, app, version),
        &sealed.user_env,
    )?;
    let map: BTreeMap<String, (String, bool)> =
        serde_json::from_str(text.expose_secret()).map_err(Error::internal)?;
    let vars: Result<Vec<_>, Error> = map
        .into_iter()
        .map(|(name, (value, public))| Ok((EnvName::parse(&name)?, Secret::new(value), public)))
        .collect();
    vars.map(Some)
}

/// Restores the user variables of the time when a version was first released.
pub async fn restore_user_environment(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    version: i32,
) -> Result<(), Error> {
    match load_user_environment(core, tx, app, version).await? {
        Some(vars) => replace_user_vars(core, tx, app, &vars).await,
        None => Ok(()),
    }
}

async fn replace_user_vars(
    core: &Core,
    tx: &mut PgConnection,
    app: AppId,
    vars: &[UserVar],
) -> Result<(), Error> {
    envs::store::delete_all_user_vars(tx, app).await?;
    let to_upsert = |var| {
        let (name, value, public): &UserVar = var;
        envs::store::EnvVarUpsert {
            name,
            value,
            public: *public,
            managed_by: "",
            alias: "",
        }
    };
    let upserts: Vec<envs::store::EnvVarUpsert<'_>> = vars.iter().map(to_upsert).collect();
    envs::store::upsert_vars(tx, &core.keys, app, &upserts).await
}

/// Promotes a release to current; from then on its units get the requests. Returns false if it is current
/// already.
pub(super) async fn promote_candidate(
    tx: &mut PgConnection,
    app: AppId,
    release: i64,
) -> Result<bool, Error> {
    let side = sides::store::find_side(tx, release).await?;
    let side = side.ok_or_else(|| Error::not_found("The release no longer exists."))?;
    if load_release_state(tx, app, side).await?.current == Some(release) {
        return Ok(false);
    }
    store::set_current(tx, app, side, release).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    db::send_notice(tx, NoticeChannel::Routes, "").await?;
    Ok(true)
}

/// Discards a candidate; its units are stopped. No effect if it is no longer the candidate.
pub async fn discard_candidate(tx: &mut PgConnection, app: AppId, release: i64) -> Result<(), Error> {
    store::clear_candidate(tx, app, release).await?;
    db::send_notice(tx, NoticeChannel::Units, &app.to_string()).await?;
    Ok(())
}
