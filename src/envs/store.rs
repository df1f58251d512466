//! Variables in SQL; sealed on the way in, opened on the way out.

use sqlx::{PgConnection, PgExecutor};

use crate::envs::model::{EnvVar, VarSource};
use crate::kernel::encryption::{AssociatedData, Keyring, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::ids::{AppId, BindId};
use crate::kernel::names::EnvName;
use crate::kernel::secret::Secret;

/// A variable to keep.
pub(crate) struct EnvVarUpsert<'a> {
    pub(crate) name: &'a EnvName,
    pub(crate) value: &'a Secret,
    pub(crate) public: bool,
    pub(crate) managed_by: &'a str,
    pub(crate) alias: &'a str,
}

fn associated_data(app: AppId, name: &EnvName) -> AssociatedData {
    AssociatedData::new(SealedColumn::ENV_VAR, &[&app, name])
}

/// Keeps a variable, new or again.
pub(crate) async fn upsert_var(
    tx: &mut PgConnection,
    keys: &Keyring,
    app: AppId,
    put: &EnvVarUpsert<'_>,
) -> Result<(), Error> {
    upsert_vars(tx, keys, app, std::slice::from_ref(put)).await
}

/// Keeps variables, new or again, in one statement; no two of one name.
pub(crate) async fn upsert_vars(
    tx: &mut PgConnection,
    keys: &Keyring,
    app: AppId,
    puts: &[EnvVarUpsert<'_>],
) -> Result<(), Error> {
    let sealed: Vec<Vec<u8>> = puts
        .iter()
        .map(|put| keys.encrypt(&associated_data(app, put.name), put.value))
        .collect();
    sqlx::query!(
        "insert into env_var (app_id, name, value, is_public, managed_by, alias)
         select $1, n.name, n.value, n.is_public, n.managed_by, n.alias
         from unnest($2::text[], $3::bytea[], $4::boolean[], $5::text[], $6::text[])
              as n (name, value, is_public, managed_by, alias)
         on conflict on constraint env_var_pkey
         do update set value = excluded.value, is_public = excluded.is_public,
                       managed_by = excluded.managed_by, alias = excluded.alias",
        app.0,
        &puts.iter().map(|put| put.name.to_string()).collect::<Vec<_>>(),
        &sealed,
        &puts.iter().map(|put| put.public).collect::<Vec<_>>(),
        &puts
            .iter()
            .map(|put| put.managed_by.to_owned())
            .collect::<Vec<_>>(),
        &puts.iter().map(|put| put.alias.to_owned()).collect::<Vec<_>>(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The variables that are set on the app itself.
pub(crate) async fn list_app_vars(
    db: impl PgExecutor<'_>,
    keys: &Keyring,
    app: AppId,
) -> Result<Vec<EnvVar>, Error> {
    let rows = sqlx::query_as!(
        EnvVarRow,
        r#"select name as "name: EnvName", value, is_public, managed_by, alias from env_var where app_id = $1"#,
        app.0,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| row.decrypt_var(keys, app)).collect()
}

struct EnvVarRow {
    name: EnvName,
    value: Vec<u8>,
    is_public: bool,
    managed_by: String,
    alias: String,
}

impl EnvVarRow {
    fn decrypt_var(self, keys: &Keyring, app: AppId) -> Result<EnvVar, Error> {
        Ok(EnvVar {
            value: keys.decrypt(&associated_data(app, &self.name), &self.value)?,
            name: self.name,
            public: self.is_public,
            alias: self.alias,
            source: match self.managed_by.as_str() {
                "tsuru" => VarSource::Platform,
                _ => VarSource::User {
                    managed_by: self.managed_by,
                },
            },
        })
    }
}

/// A bound instance with one of its variables; an instance that gives none has one row without.
pub(crate) struct BoundVar {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) var: Option<EnvVar>,
}

/// The variables of the app's binds, in the order of binding.
pub(crate) async fn list_bound_vars(
    db: impl PgExecutor<'_>,
    keys: &Keyring,
    app: AppId,
) -> Result<Vec<BoundVar>, Error> {
    let rows = sqlx::query!(
        r#"select b.bind_id as "bind_id: BindId", s.name as service, i.name as instance,
                  e.name as "name?: EnvName", e.value as "value?"
           from bind b join service_instance i using (instance_id) join service s using (service_id)
           left join bind_env e on e.bind_id = b.bind_id
           where b.app_id = $1 and b.state = 'bound' order by b.seq, e.name"#,
        app.0,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| {
            let var = match (row.name, row.value) {
                (Some(name), Some(value)) => Some(EnvVar {
                    value: keys.decrypt(
                        &AssociatedData::new(SealedColumn::BIND_ENV, &[&row.bind_id, &name]),
                        &value,
                    )?,
                    name,
                    public: false,
                    alias: String::new(),
                    source: VarSource::Service {
                        service: row.service.clone(),
                        instance: row.instance.clone(),
                    },
                }),
                _ => None,
            };
            Ok(BoundVar {
                service: row.service,
                instance: row.instance,
                var,
            })
        })
        .collect()
}

/// Removes variables that a user has set.
pub(crate) async fn delete_user_vars(
    tx: &mut PgConnection,
    app: AppId,
    names: &[String],
) -> sqlx::Result<u64> {
    sqlx::query!(
        "delete from env_var where app_id = $1 and name = any($2) and managed_by <> 'tsuru'",
        app.0,
        names
    )
    .execute(tx)
    .await
    .map(|done| done.rows_affected())
}

/// Removes all variables that users have set.
pub(crate) async fn delete_all_user_vars(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from env_var where app_id = $1 and managed_by <> 'tsuru'",
        app.0
    )
    .execute(tx)
    .await
    .map(drop)
}
