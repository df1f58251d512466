//! Use cases of plans: list, create, remove.

use serde_json::json;

use crate::core::Core;
use crate::db;
use crate::events;
use crate::kernel::error::Error;
use crate::kernel::names::PlanName;
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::plans::model::{Plan, plan_event};
use crate::plans::store;

/// The maximum number of plans.
const MAX_PLANS: i64 = 1000;

/// Lists all plans, by name. Every user may see them.
pub(super) async fn list_plans(core: &Core) -> Result<Vec<Plan>, Error> {
    Ok(store::list_plans(&core.db).await?)
}

/// Creates a plan; a default one takes the place of the present default plan. Errors: `Forbidden`, `Invalid`,
/// `Conflict` for a taken name.
pub(super) async fn create_plan(core: &Core, call: &RequestContext, plan: &Plan) -> Result<(), Error> {
    call.authorize(Permission::PLAN_CREATE, &[])?;
    plan.check()?;
    let mut tx = core.db.begin().await?;
    let data = json!({
        "name": plan.name, "memory": plan.memory_bytes, "cpumilli": plan.cpu_milli,
        "cpuBurst": plan.burst.map(|burst| json!({ "default": burst.default, "maxAllowed": burst.max_allowed })),
        "default": plan.is_default,
    });
    let event = plan_event(&plan.name, Permission::PLAN_CREATE, data);
    events::record_event(&mut tx, call, &event).await?;
    if plan.is_default {
        store::clear_default(&mut tx).await?;
    }
    match store::insert_plan(&mut tx, plan).await {
        Err(error) if db::violates_constraint(&error, "plan_one_default") => {
            return Err(Error::conflict("The default plan was just changed; try again."));
        }
        inserted => {
            db::map_constraint_violation(inserted, "plan_pkey", || Error::conflict("Plan already exists."))?
        }
    }
    if store::count_plans(&mut *tx).await? > MAX_PLANS {
        return Err(Error::invalid(format!(
            "There are at most {MAX_PLANS} plans: remove some that no app has."
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Removes a plan that no app has. Errors: `NotFound`; `Forbidden`, also while an app or a process has the plan.
pub(super) async fn remove_plan(core: &Core, call: &RequestContext, name: &PlanName) -> Result<(), Error> {
    call.authorize(Permission::PLAN_DELETE, &[])?;
    let mut tx = core.db.begin().await?;
    let event = plan_event(name, Permission::PLAN_DELETE, json!({ "name": name }));
    events::record_event(&mut tx, call, &event).await?;
    let removed = store::delete_plan(&mut tx, name).await;
    let in_use = |whose: &str| {
        Error::forbidden(format!(
            "This plan has {whose}: give them another plan before removing it."
        ))
    };
    let removed = match removed {
        Err(error) if db::violates_constraint(&error, "process_plan_plan_fkey") => {
            return Err(in_use("processes of apps"));
        }
        removed => db::map_constraint_violation(removed, "app_plan_fkey", || in_use("apps"))?,
    };
    if !removed {
        return Err(Error::plan_not_found(name));
    }
    tx.commit().await?;
    Ok(())
}
