//! Bearer tokens: 256 random bits, shown once, kept as a digest.
//!
//! Kinds: *session* (a login, lives `auth.token_days`), *API key* (one per user, lives until it is made
//! anew), *app* (made with the app, in its environment).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::{Core, Known};
use crate::kernel::problem::Problem;
use crate::kernel::seal::digest;
use crate::kernel::secret::Secret;
use crate::users::store;

/// Who a token stands for; `None` if it is none of ours, or has ended.
pub async fn authenticate(core: &Core, token: &Secret) -> Result<Option<([u8; 32], Known)>, Problem> {
    let digest = digest(token);
    if let Some(known) = core.callers.get(&digest).await {
        return Ok(Some((digest, known)));
    }
    let Some(found) = store::find_bearer(&core.db, &digest).await? else {
        return Ok(None);
    };
    let known = Known {
        actor: found.actor,
        grants: Arc::from(found.grants),
        until: found
            .seconds_left
            .map(|left| Instant::now() + Duration::from_secs_f64(left.max(0.0))),
    };
    core.callers.put(digest, known.clone()).await;
    Ok(Some((digest, known)))
}
