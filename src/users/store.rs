//! Users and tokens in SQL.

use sqlx::PgExecutor;

use crate::kernel::call::{Actor, Grant};
use crate::kernel::ids::{AppId, UserId};
use crate::kernel::names::{AppName, Email};
use crate::kernel::permission::{Context, ContextKind, Permission};

/// A token's holder with all they may do.
#[derive(Debug)]
pub struct Bearer {
    pub actor: Actor,
    pub grants: Vec<Grant>,
    /// `None`: the token never ends.
    pub seconds_left: Option<f64>,
}

/// Finds a token that has not ended, its holder and their grants in one round trip.
pub async fn find_bearer(db: impl PgExecutor<'_>, digest: &[u8; 32]) -> sqlx::Result<Option<Bearer>> {
    let row = sqlx::query!(
        r#"select b.user_id, u.email as "email?", b.app_id, a.name as "app?",
                  extract(epoch from b.expires_at - now())::double precision as seconds_left,
                  coalesce((select array_agg(p.permission || '|' || r.context_kind || '|' || ur.context_value)
                            from user_role ur join role r on r.name = ur.role
                            join role_permission p on p.role = r.name
                            where ur.user_id = b.user_id), '{}') as "grants!"
           from bearer b
           left join user_account u on u.user_id = b.user_id
           left join app a on a.app_id = b.app_id
           where b.digest = $1 and (b.expires_at is null or b.expires_at > now())"#,
        &digest[..],
    )
    .fetch_optional(db)
    .await?;
    Ok(row.and_then(|row| {
        let actor = match (row.user_id, row.email, row.app_id, row.app) {
            (Some(id), Some(email), _, _) => Actor::User {
                id: UserId(id),
                email: Email::parse(&email).ok()?,
            },
            (_, _, Some(id), Some(app)) => Actor::App {
                id: AppId(id),
                name: AppName::parse(&app).ok()?,
            },
            _ => return None,
        };
        let grants = row.grants.iter().filter_map(|text| parse_grant(text)).collect();
        Some(Bearer {
            actor,
            grants,
            seconds_left: row.seconds_left,
        })
    }))
}

/// `permission|context kind|context value`; a permission that this build does not know grants nothing.
fn parse_grant(text: &str) -> Option<Grant> {
    let mut parts = text.splitn(3, '|');
    let permission = Permission::parse(parts.next()?).ok()?;
    let kind = ContextKind::parse(parts.next()?).ok()?;
    let value = if kind == ContextKind::Global {
        ""
    } else {
        parts.next()?
    };
    Some(Grant {
        permission,
        context: Context::new(kind, value),
    })
}
pub async fn insert_app_token(
    _tx: &mut sqlx::PgConnection,
    _id: AppId,
    _t: &crate::kernel::secret::Secret,
) -> sqlx::Result<()> {
    Ok(())
}
