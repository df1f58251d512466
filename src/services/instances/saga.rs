//! Creates an instance, as a saga. The row exists from the beginning, in state `creating`.
//!
//! - `call-service`: `POST /resources`; undo: `DELETE /resources/<name>` if the service has created the
//!   instance or may have, and the row is deleted. What the service has refused is never destroyed: it may
//!   belong to another user of the service.
//! - `mark-ready`: the instance may be used.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::error::Error;
use crate::kernel::ids::InstanceId;
use crate::sagas::{Saga, StepContext, StepError, saga_steps};
use crate::services::broker::{BrokerClient, CallDelivery, InstanceParams, ReportedStatus};
use crate::services::calls::{CallState, cancellable, cancellable_create, late_arrival_window, on_behalf_of};
use crate::services::catalogue;
use crate::services::instances::store;
use crate::services::model::{Instance, InstanceState};
use crate::services::orphans::{self, NewOrphan};

saga_steps! {
    /// The steps of the creation of an instance.
    pub enum CreateInstanceStep {
        /// Asks the service to create the instance.
        CallService = "call-service",
        /// Makes the instance usable.
        MarkReady = "mark-ready",
    }
}

/// The persisted data of the saga.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct CreateInstanceData {
    instance: InstanceId,
    heard: CallState,
    /// An earlier attempt may have created the instance, so an instance of that name in the service is
    /// Tancho's.
    #[serde(default)]
    resumed: bool,
    /// The undo was about to call the service.
    #[serde(default)]
    undo_sent: bool,
}

impl CreateInstanceData {
    pub(super) fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            heard: CallState::Nothing,
            resumed: false,
            undo_sent: false,
        }
    }
}

/// The saga that creates an instance; its steps are described in the module.
pub struct CreateInstanceSaga {
    core: Core,
}

impl CreateInstanceSaga {
    /// Creates the saga.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn load_instance(
        &self,
        data: &CreateInstanceData,
    ) -> Result<Option<(Instance, BrokerClient)>, StepError> {
        let Some(instance) = store::find_instance_by_id(&self.core.db, data.instance).await? else {
            return Ok(None);
        };
        let service = catalogue::find_service_by_id(&self.core.db, instance.service_id).await?;
        let service = service.ok_or_else(|| Error::internal("an instance without a service"))?;
        let broker = BrokerClient::new(&self.core, &service)?;
        Ok(Some((instance, broker)))
    }

    async fn call_service(&self, data: &mut CreateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let (instance, broker) = self
            .load_instance(data)
            .await?
            .ok_or_else(|| Error::internal("the instance is gone"))?;
        if data.heard == CallState::Yes {
            // Done before a crash: on a repeated call, the service would respond that the name is taken.
            return Ok(());
        }
        let is_repeated = data.heard == CallState::Sent;
        data.resumed |= is_repeated;
        if data.resumed && service_has_instance(ctx, &broker, &instance).await? {
            data.heard = CallState::Yes;
            return Ok(());
        }
        ctx.checkpoint(data, async |tx, data: &mut CreateInstanceData| {
            data.heard = CallState::Sent;
            self.note_uncertain_call(tx, instance.id, is_repeated).await
        })
        .await?;
        ctx.append_log(&format!(
            "Creating the instance {} of {}",
            instance.name, instance.service
        ))
        .await;
        let params = InstanceParams {
            team: instance.team_owner.as_str(),
            plan: &instance.plan,
            description: &instance.description,
            tags: &instance.tags,
            parameters: &instance.parameters,
        };
        let by = on_behalf_of(ctx, &instance.owner);
        let late = NewOrphan::for_instance(&instance, orphans::REASON_LATE_CREATE);
        let call = broker.create_instance(&by, &instance.name, &params);
        let result = cancellable_create(&self.core, ctx, &late, call).await?;
        let fault = match result {
            Ok(()) => None,
            // On a repeated call after a crash, the service reports a conflict with Tancho's own instance.
            Err(fault) if data.resumed && fault.delivery == CallDelivery::Refused(409) => None,
            Err(fault) => Some(fault),
        };
        data.heard = fault
            .as_ref()
            .map_or(CallState::Yes, |fault| fault.delivery.into());
        ctx.checkpoint(data, async |_, _| Ok(())).await?;
        match fault {
            None => Ok(()),
            Some(fault) => Err(fault.error.into()),
        }
    }

    /// Notes on the row that an earlier call, if there was one, got no response.
    async fn note_uncertain_call(
        &self,
        tx: &mut PgConnection,
        instance: InstanceId,
        is_repeated: bool,
    ) -> Result<(), StepError> {
        if is_repeated {
            store::set_uncertain_until(tx, instance, late_arrival_window(&self.core)).await?;
        }
        Ok(())
    }

    async fn undo_call(&self, data: &mut CreateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        let Some((instance, broker)) = self.load_instance(data).await? else {
            return Ok(());
        };
        let is_unknown = match data.heard {
            CallState::Yes => return self.destroy_instance(data, ctx, &instance, &broker).await,
            // A refused call has created nothing, and the service would have refused an earlier call of this
            // saga as well.
            CallState::Nothing | CallState::No(_) => false,
            CallState::Never => store::is_uncertain(&self.core.db, instance.id).await?,
            // The service hangs, or did: the orphan reaper starts at once, and the user need not wait for it.
            CallState::Sent | CallState::Unknown => true,
        };
        ctx.write_fenced(async |tx| {
            if is_unknown {
                let reason = "it is not known whether the service has created it";
                orphans::record_orphan(tx, &NewOrphan::for_instance(&instance, reason)).await?;
            }
            Ok(store::delete_instance(tx, instance.id).await?)
        })
        .await
    }

    /// Asks the service to destroy what it has created.
    async fn destroy_instance(
        &self,
        data: &mut CreateInstanceData,
        ctx: &StepContext,
        instance: &Instance,
        broker: &BrokerClient,
    ) -> Result<(), StepError> {
        ctx.checkpoint(data, async |tx, data: &mut CreateInstanceData| {
            let is_repeated = std::mem::replace(&mut data.undo_sent, true);
            self.note_uncertain_call(tx, instance.id, is_repeated).await
        })
        .await?;
        let by = on_behalf_of(ctx, &instance.owner);
        let gone = cancellable(ctx, broker.destroy_instance(&by, &instance.name)).await?;
        ctx.write_fenced(async |tx| {
            match gone {
                Ok(_) => {
                    let orphan = NewOrphan::for_instance(instance, orphans::REASON_CONFIRMED);
                    orphans::record_confirmed(tx, &orphan).await?;
                }
                Err(fault) => {
                    if fault.delivery == CallDelivery::Unknown {
                        store::set_uncertain_until(tx, instance.id, late_arrival_window(&self.core)).await?;
                    }
                    let orphan = NewOrphan::for_instance(instance, fault.error.message());
                    orphans::record_orphan(tx, &orphan).await?;
                }
            }
            Ok(store::delete_instance(tx, instance.id).await?)
        })
        .await
    }

    async fn mark_ready(&self, data: &CreateInstanceData, ctx: &StepContext) -> Result<(), StepError> {
        ctx.write_fenced(async |tx| {
            Ok(store::update_instance_state(tx, data.instance, InstanceState::Ready, "").await?)
        })
        .await
    }
}

/// Returns whether the service reports that it has the instance. Called after a crash, when it is unknown
/// whether the request arrived.
async fn service_has_instance(
    ctx: &StepContext,
    broker: &BrokerClient,
    instance: &Instance,
) -> Result<bool, StepError> {
    let status = cancellable(ctx, broker.fetch_status(&instance.name)).await?;
    Ok(matches!(status, Ok(ReportedStatus::Up | ReportedStatus::Pending)))
}

#[async_trait]
impl Saga for CreateInstanceSaga {
    const KIND: &'static str = "service-instance.create";
    type Step = CreateInstanceStep;
    type Data = CreateInstanceData;

    async fn run_step(
        &self,
        step: CreateInstanceStep,
        data: &mut CreateInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            CreateInstanceStep::CallService => self.call_service(data, ctx).await,
            CreateInstanceStep::MarkReady => self.mark_ready(data, ctx).await,
        }
    }

    async fn undo_step(
        &self,
        step: CreateInstanceStep,
        data: &mut CreateInstanceData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            CreateInstanceStep::CallService => self.undo_call(data, ctx).await,
            CreateInstanceStep::MarkReady => Ok(()),
        }
    }
}
