//! What builds of an app keep from one another on a host, and when it is dropped.

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::AppId;
use crate::versions::{self, healer, store};

/// Drops the cache of an app's builds on this host if the app has asked for that since it was last dropped. For
/// the one build of the app that runs. Returns true if the build begins without a cache.
pub async fn drop_stale_cache(core: &Core, app: AppId) -> Result<bool, Error> {
    let Some(epoch) = store::find_stale_cache(&core.db, &core.host, app).await? else {
        return Ok(false);
    };
    healer::remove_folder(versions::cache_folder(core, app)).await?;
    store::set_cache_epoch(&core.db, &core.host, app, epoch).await?;
    Ok(true)
}
