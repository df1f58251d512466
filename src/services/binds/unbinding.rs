//! Unbinding, as a saga. The bind is in state `unbinding` from the beginning.
//!
//! units: `DELETE …/bind` for each unit the service may know; undo: `bound` again, and the reconciler tells
//! of the units anew · call: `DELETE …/bind-app`, then the bind and its variables go; a refusal leaves the
//! bind as it was; when nobody knows, the bind stays `unbinding` and the unbind is repeated until the
//! service confirms · release, start, switch: the app runs without the variables.
//!
//! Once the service has confirmed, the app is unbound. If it cannot be rolled out then, the event fails and
//! says why, and its units keep the variables until they are started anew.

use async_trait::async_trait;
use serde_json::json;
use sqlx::PgConnection;

use crate::core::Core;
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::ids::{AppId, BindId, EventId};
use crate::kernel::permission::Permission;
use crate::kernel::problem::{Kind, Problem};
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};
use crate::services::binds::rollout::{self, HasRollout, Rollout};
use crate::services::binds::store::{self, Unheard};
use crate::services::binds::telling;
use crate::services::broker::Fault;
use crate::services::instances;
use crate::services::model;
use crate::services::orphans::{self, NewOrphan};
use crate::services::sagas::{Heard, behalf, heed, lateness};

const KIND: &str = "app.unbind";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Data {
    bind: BindId,
    user: String,
    force: bool,
    /// An earlier unbind is unconfirmed: the service may have done it, so only its yes counts now.
    again: bool,
    heard: Heard,
    rollout: Rollout,
}

impl Data {
    pub(super) fn new(bind: BindId, user: String, force: bool, again: bool, rollout: Option<AppId>) -> Self {
        Self {
            bind,
            user,
            force,
            again,
            heard: Heard::Nothing,
            rollout: Rollout::of(rollout),
        }
    }
}

impl HasRollout for Data {
    fn rollout(&mut self) -> &mut Rollout {
        &mut self.rollout
    }
}

pub(super) async fn enqueue(
    tx: &mut PgConnection,
    event: &EventId,
    lane: Lane,
    data: &Data,
) -> Result<(), Problem> {
    let saga = NewSaga {
        kind: KIND,
        lane,
        event: Some(event),
        host: None,
        data,
    };
    sagas::enqueue(tx, saga).await.map(drop)
}

/// Ends an unbind that a service has confirmed late; by force, whatever the service says. False: something else
/// is going on with the app or the instance; later, then.
pub(in crate::services) async fn unbind_again(
    core: &Core,
    call: &Call,
    bind: &model::Bind,
    force: bool,
) -> Result<bool, Problem> {
    let mut tx = core.db.begin().await?;
    let Some(instance) = instances::store::find_by_id(&mut *tx, bind.instance_id).await? else {
        return Ok(false);
    };
    let kind = Permission::APP_UPDATE_UNBIND;
    let data =
        json!({ "service": instance.service, "instance": instance.name, "again": true, "force": force });
    let target = Target::new(TargetKind::ServiceInstance, instance.full_name());
    let event = NewEvent::new(Target::app(&bind.app), kind, instance.contexts(), data).locking(target);
    let event = match events::begin(&mut tx, call, &event).await {
        Err(problem) if problem.kind() == Kind::Locked => return Ok(false),
        event => event?,
    };
    let data = Data::new(bind.id, String::new(), force, true, Some(bind.app_id));
    enqueue(&mut tx, &event, Lane::Housekeeping, &data).await?;
    tx.commit().await?;
    Ok(true)
}

/// See the module.
pub struct Unbind {
    core: Core,
}

impl Unbind {
    /// The kind of saga, with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn units(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some(bind) = store::find(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        run.say(&format!(
            "---- Unbinding the app \"{}\" from the service instance \"{}\" ----",
            bind.app, bind.instance
        ))
        .await;
        let broker = telling::broker(&self.core, &bind).await?;
        let app = telling::bound(&self.core, &bind);
        let by = behalf(run, &data.user);
        let telling = telling::tell_units_unbound(&self.core, &broker, &by, &bind, &app);
        match heed(run, telling).await?? {
            Err(fault) if !data.force => Err(fault.problem.into()),
            _ => Ok(()),
        }
    }

    async fn call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let Some(bind) = store::find(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        let unheard = data.heard == Heard::Sent;
        data.heard = Heard::Sent;
        run.set_data(&data)?;
        let mut tx = run.begin().await?;
        if unheard {
            store::note_unheard(&mut tx, bind.id, Unheard::Unbind, lateness(&self.core)).await?;
        }
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        let by = behalf(run, &data.user);
        let told = heed(run, telling::tell_unbound(&self.core, &by, &bind)).await??;
        data.heard = told.as_ref().map_or_else(|f| f.fate.into(), |()| Heard::Yes);
        run.set_data(&data)?;
        let left = match told {
            Ok(()) => None,
            Err(fault) if data.force => Some(fault),
            Err(fault) => return Err(fault.problem.into()),
        };
        self.forget(run, &bind, left.as_ref()).await
    }

    async fn forget(&self, run: &Run, bind: &model::Bind, left: Option<&Fault>) -> Result<(), StepError> {
        if let Some(fault) = left {
            run.say(&format!("Ignored: {}", fault.problem)).await;
        }
        let variables = store::list_variables(&self.core.db, bind.id).await?.len();
        let mut tx = run.begin().await?;
        telling::forget(&self.core, &mut tx, bind, left).await?;
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        run.say(&format!("---- Unsetting {variables} environment variables ----"))
            .await;
        run.say(&format!(
            "\nInstance \"{}\" is not bound to the app \"{}\" anymore.",
            bind.instance, bind.app
        ))
        .await;
        Ok(())
    }

    async fn undo_units(&self, run: &mut Run) -> Result<(), StepError> {
        let data: Data = run.data()?;
        let Some(bind) = store::find(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        let unheard = matches!(data.heard, Heard::Sent | Heard::Unknown);
        let mut tx = run.begin().await?;
        if unheard {
            store::note_unheard(&mut tx, bind.id, Unheard::Unbind, lateness(&self.core)).await?;
        }
        if data.again || unheard {
            let units = store::list_unit_hosts(&mut *tx, bind.id).await?;
            let reason = run.problem().map(ToString::to_string).unwrap_or_default();
            let orphan = NewOrphan::bind(&bind, telling::bound(&self.core, &bind), units, &reason);
            orphans::leave(&mut tx, &orphan).await?;
        } else {
            store::update_state(&mut tx, bind.id, "bound").await?;
            orphans::end_bind(&mut tx, bind.id).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

#[async_trait]
impl Saga for Unbind {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["units", "call", "release", "start", "switch"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "units" => self.units(run).await,
            "call" => self.call(run).await,
            step => rollout::forward::<Data>(&self.core, step, run).await,
        }
    }

    fn forward_only(&self, _step: &'static str, run: &Run) -> bool {
        rollout::is_adopted::<Data>(run)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "units" => self.undo_units(run).await,
            "call" => Ok(()),
            step => rollout::undo::<Data>(step, run).await,
        }
    }
}
