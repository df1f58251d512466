//! Binding, as a saga. The row is there from the beginning, in state `binding`.
//!
//! call: `POST …/bind-app`, which may be repeated; the variables are kept, the bind is `bound`; undo:
//! `DELETE …/bind-app` where it has happened or may have, the row and the variables go · release, start,
//! switch: the app runs with the variables, and there is no way back.

use async_trait::async_trait;
use sqlx::PgConnection;

use crate::core::Core;
use crate::kernel::ids::{AppId, BindId};
use crate::kernel::names::EnvName;
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::sagas::{Run, Saga, StepError};
use crate::services::binds::rollout::{self, HasRollout, Rollout};
use crate::services::binds::store::{self, Unheard};
use crate::services::binds::telling;
use crate::services::broker::{Fate, Fault, Variables};
use crate::services::catalogue;
use crate::services::model;
use crate::services::orphans::{self, NewOrphan};
use crate::services::sagas::{Heard, behalf, heed, heed_making, lateness};

pub(super) const KIND: &str = "app.bind";

#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Data {
    bind: BindId,
    user: String,
    heard: Heard,
    /// The undo was about to tell the service.
    #[serde(default)]
    undo_sent: bool,
    rollout: Rollout,
}

impl Data {
    pub(super) fn new(bind: BindId, user: String, rollout: Option<AppId>) -> Self {
        Self {
            bind,
            user,
            heard: Heard::Nothing,
            undo_sent: false,
            rollout: Rollout::of(rollout),
        }
    }
}

impl HasRollout for Data {
    fn rollout(&mut self) -> &mut Rollout {
        &mut self.rollout
    }
}

/// See the module.
pub struct Bind {
    core: Core,
}

impl Bind {
    /// The kind of saga, with what its steps need.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    async fn call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let bind = store::find(&self.core.db, data.bind)
            .await?
            .ok_or_else(|| Problem::not_found("The app or the service instance is gone."))?;
        let unheard = (data.heard == Heard::Sent).then_some(Unheard::Bind);
        data.heard = Heard::Sent;
        run.set_data(&data)?;
        let mut tx = run.begin().await?;
        self.note(&mut tx, bind.id, unheard).await?;
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        if run.attempts() == 0 {
            run.say(&format!(
                "---- Binding the app \"{}\" to the service instance \"{}\" ----",
                bind.app, bind.instance
            ))
            .await;
        }
        let broker = telling::broker(&self.core, &bind).await?;
        let app = telling::bound(&self.core, &bind);
        let by = behalf(run, &data.user);
        let late = NewOrphan::bind(&bind, app.clone(), Vec::new(), orphans::LATE);
        let asking = broker.bind_app(&by, &bind.instance, &app);
        let (variables, dialect) = match heed_making(&self.core, run, &late, asking).await? {
            Ok(answer) => answer,
            Err(fault) => {
                data.heard = fault.fate.into();
                run.set_data(&data)?;
                return Err(fault.problem.into());
            }
        };
        data.heard = Heard::Yes;
        run.set_data(&data)?;
        self.keep(run, &bind, &variables).await?;
        if broker.dialect().is_none() {
            catalogue::learn_dialect(&self.core.db, bind.service_id, dialect).await?;
        }
        tell(run, &bind, &variables).await;
        Ok(())
    }

    async fn keep(&self, run: &Run, bind: &model::Bind, variables: &Variables) -> Result<(), StepError> {
        let names: Vec<String> = variables.keys().map(ToString::to_string).collect();
        let seal = |(name, value): (&EnvName, &Secret)| {
            let place = Place::new(Column::BIND_ENV, &[&bind.id, name]);
            self.core.keys.seal(&place, value)
        };
        let values: Vec<Vec<u8>> = variables.iter().map(seal).collect();
        let mut tx = run.begin().await?;
        store::replace_variables(&mut tx, bind.id, &names, &values).await?;
        store::update_state(&mut tx, bind.id, "bound").await?;
        run.keep_in(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notes that an earlier call, if there was one, was not heard of.
    async fn note(
        &self,
        tx: &mut PgConnection,
        bind: BindId,
        unheard: Option<Unheard>,
    ) -> Result<(), StepError> {
        if let Some(call) = unheard {
            store::note_unheard(tx, bind, call, lateness(&self.core)).await?;
        }
        Ok(())
    }

    async fn undo_call(&self, run: &mut Run) -> Result<(), StepError> {
        let mut data: Data = run.data()?;
        let Some(bind) = store::find(&self.core.db, data.bind).await? else {
            return Ok(());
        };
        // The service was not told that it is unbound.
        let untold = || Fault {
            fate: Fate::NotSent,
            problem: Problem::failed("it is not known whether the service has bound it"),
        };
        let left = match data.heard {
            Heard::Nothing | Heard::Never | Heard::No(..=499) => {
                // This call did nothing; one before it may have.
                store::is_unheard(&self.core.db, bind.id).await?.then(untold)
            }
            // It hangs, or did: the hunt is at it at once, and the user need not wait for it.
            Heard::Sent | Heard::Unknown => Some(untold()),
            Heard::No(_) | Heard::Yes => {
                let unheard = std::mem::replace(&mut data.undo_sent, true).then_some(Unheard::Unbind);
                run.set_data(&data)?;
                let mut tx = run.begin().await?;
                telling::hush(&mut tx, &bind).await?;
                self.note(&mut tx, bind.id, unheard).await?;
                run.keep_in(&mut tx).await?;
                tx.commit().await?;
                let by = behalf(run, &data.user);
                heed(run, telling::tell_unbound(&self.core, &by, &bind))
                    .await??
                    .err()
            }
        };
        let mut tx = run.begin().await?;
        telling::forget(&self.core, &mut tx, &bind, left.as_ref()).await?;
        tx.commit().await?;
        Ok(())
    }
}

async fn tell(run: &Run, bind: &model::Bind, variables: &Variables) {
    run.say(&format!(
        "---- Setting {} new environment variables ----",
        variables.len()
    ))
    .await;
    let mut text = format!(
        "\nInstance \"{}\" is now bound to the app \"{}\".\nThe following environment variables are available for use in your app:\n",
        bind.instance, bind.app
    );
    for name in variables
        .keys()
        .map(|name| name.as_str())
        .chain(["TSURU_SERVICES"])
    {
        text.push_str("\n- ");
        text.push_str(name);
    }
    run.say(&text).await;
}

#[async_trait]
impl Saga for Bind {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn steps(&self) -> &'static [&'static str] {
        &["call", "release", "start", "switch"]
    }

    async fn forward(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.call(run).await,
            step => rollout::forward::<Data>(&self.core, step, run).await,
        }
    }

    fn forward_only(&self, _step: &'static str, run: &Run) -> bool {
        rollout::is_adopted::<Data>(run)
    }

    async fn undo(&self, step: &'static str, run: &mut Run) -> Result<(), StepError> {
        match step {
            "call" => self.undo_call(run).await,
            step => rollout::undo::<Data>(step, run).await,
        }
    }
}
