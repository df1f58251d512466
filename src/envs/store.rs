//! Variables in SQL; sealed on the way in, opened on the way out.

use sqlx::{PgConnection, PgExecutor};

use crate::envs::model::{Source, Var};
use crate::kernel::ids::{AppId, BindId};
use crate::kernel::names::EnvName;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Keyring, Place};
use crate::kernel::secret::Secret;

/// A variable to keep.
pub(crate) struct Put<'a> {
    pub(crate) name: &'a EnvName,
    pub(crate) value: &'a Secret,
    pub(crate) public: bool,
    pub(crate) managed_by: &'a str,
    pub(crate) alias: &'a str,
}

fn place(app: AppId, name: &EnvName) -> Place {
    Place::new(Column::ENV_VAR, &[&app, name])
}

/// Keeps a variable, new or again.
pub(crate) async fn put(
    tx: &mut PgConnection,
    keys: &Keyring,
    app: AppId,
    put: &Put<'_>,
) -> Result<(), Problem> {
    let sealed = keys.seal(&place(app, put.name), put.value);
    sqlx::query!(
        "insert into env_var (app_id, name, value, is_public, managed_by, alias) values ($1, $2, $3, $4, $5, $6)
         on conflict on constraint env_var_pkey
         do update set value = excluded.value, is_public = excluded.is_public,
                       managed_by = excluded.managed_by, alias = excluded.alias",
        app.0,
        put.name.as_str(),
        sealed,
        put.public,
        put.managed_by,
        put.alias,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The variables that are set on the app itself.
pub(crate) async fn list_set(
    db: impl PgExecutor<'_>,
    keys: &Keyring,
    app: AppId,
) -> Result<Vec<Var>, Problem> {
    let rows = sqlx::query_as!(
        Row,
        r#"select name as "name: EnvName", value, is_public, managed_by, alias from env_var where app_id = $1"#,
        app.0,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| row.open(keys, app)).collect()
}

struct Row {
    name: EnvName,
    value: Vec<u8>,
    is_public: bool,
    managed_by: String,
    alias: String,
}

impl Row {
    fn open(self, keys: &Keyring, app: AppId) -> Result<Var, Problem> {
        Ok(Var {
            value: keys.open(&place(app, &self.name), &self.value)?,
            name: self.name,
            public: self.is_public,
            alias: self.alias,
            source: match self.managed_by.as_str() {
                "tsuru" => Source::Own,
                _ => Source::User {
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
    pub(crate) var: Option<Var>,
}

/// The variables of the app's binds, in the order of binding.
pub(crate) async fn list_bound(
    db: impl PgExecutor<'_>,
    keys: &Keyring,
    app: AppId,
) -> Result<Vec<BoundVar>, Problem> {
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
                (Some(name), Some(value)) => Some(Var {
                    value: keys.open(&Place::new(Column::BIND_ENV, &[&row.bind_id, &name]), &value)?,
                    name,
                    public: false,
                    alias: String::new(),
                    source: Source::Service {
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
pub(crate) async fn delete(tx: &mut PgConnection, app: AppId, names: &[String]) -> sqlx::Result<u64> {
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
pub(crate) async fn delete_all_of_users(tx: &mut PgConnection, app: AppId) -> sqlx::Result<()> {
    sqlx::query!(
        "delete from env_var where app_id = $1 and managed_by <> 'tsuru'",
        app.0
    )
    .execute(tx)
    .await
    .map(drop)
}
