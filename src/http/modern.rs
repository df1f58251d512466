//! THE TABLE of the modern edition: version, method, path, door and handler of every route that today's
//! client asks for.

use axum::http::Method;

use crate::http::table::{Door, Table};
use crate::kernel::permission::Permission as P;
use crate::services::{binds, catalogue, instances};

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// All modern routes, by subject.
pub fn table() -> Table {
    Table::default()
        // Services, their instances and binds.
        .since("1.0", GET, "/services", Door::User, catalogue::modern::list)
        .since(
            "1.0",
            POST,
            "/services",
            Door::May(P::SERVICE_CREATE),
            catalogue::modern::create,
        )
        .since(
            "1.0",
            GET,
            "/services/{service}",
            Door::User,
            catalogue::modern::info,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}",
            Door::May(P::SERVICE_UPDATE),
            catalogue::modern::update,
        )
        .since(
            "1.0",
            DELETE,
            "/services/{service}",
            Door::May(P::SERVICE_DELETE),
            catalogue::modern::remove,
        )
        .since(
            "1.0",
            GET,
            "/services/{service}/plans",
            Door::User,
            catalogue::modern::plans,
        )
        .since(
            "1.0",
            GET,
            "/services/{service}/doc",
            Door::User,
            catalogue::modern::doc,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}/doc",
            Door::May(P::SERVICE_UPDATE_DOC),
            catalogue::modern::set_doc,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}/team/{team}",
            Door::May(P::SERVICE_UPDATE_GRANT_ACCESS),
            catalogue::modern::grant,
        )
        .since(
            "1.0",
            DELETE,
            "/services/{service}/team/{team}",
            Door::May(P::SERVICE_UPDATE_REVOKE_ACCESS),
            catalogue::modern::revoke,
        )
        .since(
            "1.0",
            GET,
            "/services/instances",
            Door::User,
            instances::modern::list,
        )
        .since(
            "1.0",
            POST,
            "/services/{service}/instances",
            Door::May(P::SERVICE_INSTANCE_CREATE),
            instances::modern::create,
        )
        .since(
            "1.0",
            GET,
            "/services/{service}/instances/{instance}",
            Door::User,
            instances::modern::info,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}/instances/{instance}",
            Door::User,
            instances::modern::update,
        )
        .since(
            "1.0",
            DELETE,
            "/services/{service}/instances/{instance}",
            Door::May(P::SERVICE_INSTANCE_DELETE),
            instances::modern::remove,
        )
        .since(
            "1.0",
            GET,
            "/services/{service}/instances/{instance}/status",
            Door::User,
            instances::modern::status,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}/instances/permission/{instance}/{team}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_GRANT),
            instances::modern::grant,
        )
        .since(
            "1.0",
            DELETE,
            "/services/{service}/instances/permission/{instance}/{team}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_REVOKE),
            instances::modern::revoke,
        )
        .since(
            "1.0",
            PUT,
            "/services/{service}/instances/{instance}/{app}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_BIND),
            binds::modern::bind,
        )
        .since(
            "1.0",
            DELETE,
            "/services/{service}/instances/{instance}/{app}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_UNBIND),
            binds::modern::unbind,
        )
        .since(
            "1.13",
            PUT,
            "/services/{service}/instances/{instance}/apps/{app}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_BIND),
            binds::modern::bind,
        )
        .since(
            "1.13",
            DELETE,
            "/services/{service}/instances/{instance}/apps/{app}",
            Door::May(P::SERVICE_INSTANCE_UPDATE_UNBIND),
            binds::modern::unbind,
        )
}
