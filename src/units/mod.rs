pub mod routes {
    use crate::{
        db::{Db, listen::Notices},
        proxy::Proxy,
    };
    use tokio_util::sync::CancellationToken;
    pub async fn follow(_db: Db, _n: Notices, _d: String, _p: Proxy, _s: CancellationToken) {}
}
