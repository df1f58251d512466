//! The lease of a session: its row, its event and its slots, from the beginning to the end.

use std::time::{Duration, Instant};

use crate::apps::{self, App};
use crate::caller_limits::caller_key;
use crate::core::Core;
use crate::db::notices::{NoticeChannel, NoticeSubscription};
use crate::events::{self, EventOutcome, NewEvent};
use crate::exec::one_off::{self, OneOffUnit};
use crate::exec::store::{self, NewExecSession};
use crate::exec::targets::{self, TargetChoice, UnitChoice};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::fair_slots::FairSlot;
use crate::kernel::ids::{AppId, EventId, ReplicaId};
use crate::kernel::permission::Permission;
use crate::kernel::request_context::RequestContext;
use crate::users::tokens;

/// Between two renewals. A notice leads to one at once.
const RENEW_INTERVAL: Duration = Duration::from_secs(10);
/// A session that was not renewed for so long has lost its server.
pub(super) const LEASE_TIME: Duration = Duration::from_secs(60);
const LOST_SESSION: &str = "The server that ran this command has stopped.";

/// A session to begin.
pub(super) struct SessionRequest<'a> {
    pub(super) app: &'a App,
    pub(super) permission: Permission,
    pub(super) event: NewEvent,
    /// Its event holds the lock of the app.
    pub(super) locks_app: bool,
    pub(super) choice: UnitChoice,
}

/// The slots of a session; released on drop.
struct SessionSlots {
    _of_caller: FairSlot<String>,
    _of_app: FairSlot<AppId>,
}

/// A running session. Dropped without `finish`, it ends as failed.
pub(super) struct ExecLease {
    core: Core,
    call: RequestContext,
    app: App,
    permission: Permission,
    event: EventId,
    ending: Option<SessionEnding>,
}

/// What remains to be done at the end of a session.
struct SessionEnding {
    one_off: Option<OneOffUnit>,
    _slots: SessionSlots,
}

/// Begins a session: takes its slots, begins its event, chooses its units, and starts one if it is isolated. Errors:
/// `TooMany`; `Locked`; those of the choice.
pub(super) async fn begin_session(
    core: &Core,
    call: &RequestContext,
    request: SessionRequest<'_>,
) -> Result<(ExecLease, Vec<targets::ExecTarget>), Error> {
    let slots = take_slots(core, call, request.app.id)?;
    let mut tx = core.db.begin().await?;
    let event = match request.locks_app {
        true => events::begin_event(&mut tx, call, &request.event).await?,
        false => events::begin_unlocked_event(&mut tx, call, &request.event).await?,
    };
    let chosen = targets::choose_units(core, &mut tx, request.app, &request.choice).await?;
    let new = NewExecSession {
        event: &event,
        app: request.app.id,
        replica: core.replica,
        host: &core.host,
        one_off: match &chosen {
            TargetChoice::OneOff(plan) => Some((plan.unit.as_str(), plan.version)),
            TargetChoice::Running(_) => None,
        },
    };
    store::insert_session(&mut tx, &new).await?;
    tx.commit().await?;
    let mut lease = ExecLease {
        core: core.clone(),
        call: call.clone(),
        app: request.app.clone(),
        permission: request.permission,
        event,
        ending: Some(SessionEnding {
            one_off: None,
            _slots: slots,
        }),
    };
    let started = match chosen {
        TargetChoice::Running(targets) => Ok(targets),
        TargetChoice::OneOff(plan) => {
            if let Some(ending) = &mut lease.ending {
                ending.one_off = Some(plan.to_unit());
            }
            let started = one_off::start_unit(core, request.app, &plan).await;
            started.and_then(|()| Ok(vec![plan.to_target(request.app)?]))
        }
    };
    match started {
        Ok(targets) => Ok((lease, targets)),
        Err(error) => {
            lease.finish(&EventOutcome::from(&error)).await;
            Err(error)
        }
    }
}

fn take_slots(core: &Core, call: &RequestContext, app: AppId) -> Result<SessionSlots, Error> {
    let limits = &core.caller_limits;
    let refused = |what: &str| {
        Error::too_many(format!(
            "{what} too many commands and shells that run at once; end one of them, then try again."
        ))
    };
    let of_caller = limits.exec_sessions.try_acquire(&caller_key(call));
    let of_caller = of_caller.ok_or_else(|| refused("You have"))?;
    let of_app = limits.app_exec_sessions.try_acquire(&app);
    Ok(SessionSlots {
        _of_caller: of_caller,
        _of_app: of_app.ok_or_else(|| refused("The app has"))?,
    })
}

impl ExecLease {
    /// Returns the event of the session.
    pub(super) fn event(&self) -> &EventId {
        &self.event
    }

    /// Renews the session as long as it may run. Returns why it must end.
    pub(super) async fn wait_for_revocation(&self) -> Error {
        let mut notices = self.core.notices.subscribe();
        let mut renewed_at = Instant::now();
        let mut reauthorize = false;
        loop {
            let renewed = store::renew_session(&self.core.db, &self.event).await;
            match renewed {
                Ok(None) => return Error::unavailable("The server has lost this session; start it again."),
                Ok(Some(state)) if state.is_cancel_requested => {
                    return Error::new(ErrorKind::Cancelled, "canceled by user request");
                }
                Ok(Some(state)) if !state.is_app_live => {
                    return Error::conflict(format!("App {} is being removed.", self.app.name));
                }
                Ok(Some(_)) => renewed_at = Instant::now(),
                Err(_) if renewed_at.elapsed() >= LEASE_TIME => {
                    return Error::unavailable("The database is unavailable; start the session again later.");
                }
                Err(_) => {}
            }
            if reauthorize && let Some(refusal) = self.find_refusal().await {
                return refusal;
            }
            reauthorize = true;
            self.wait_for_notice(&mut notices).await;
        }
    }

    /// Waits for a notice that concerns the session, at most until it is to be renewed.
    async fn wait_for_notice(&self, notices: &mut NoticeSubscription) {
        let channels = [NoticeChannel::Event, NoticeChannel::Units, NoticeChannel::Auth];
        let (event, app) = (self.event.as_str(), self.app.id.to_string());
        let until = Instant::now() + RENEW_INTERVAL;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match notices.wait_for_notice(&channels, left).await {
                // The notice of a changed role is empty.
                Some(about) if !about.is_empty() && about != event && about != app => {}
                _ => return,
            }
        }
    }

    /// Returns the refusal if the caller's token has ended, or the caller no longer has the permission.
    async fn find_refusal(&self) -> Option<Error> {
        let digest = self.call.token_digest?;
        // While the database is unavailable, nobody is refused.
        let known = tokens::authenticate_digest(&self.core, &digest).await.ok()?;
        let Some(known) = known else {
            return Some(Error::unauthenticated("Your session has ended; log in again."));
        };
        let call = RequestContext {
            grants: known.grants,
            ..self.call.clone()
        };
        let found = apps::find_authorized_app(&self.core, &call, &self.app.name, self.permission).await;
        let is_refusal = |error: &Error| matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::NotFound);
        found.err().filter(is_refusal)
    }

    /// Ends the session and its event. What cannot be written now is ended by the healer.
    pub(super) async fn finish(mut self, outcome: &EventOutcome) {
        if let Some(ending) = self.ending.take() {
            end_session(&self.core, &self.event, ending, outcome).await;
        }
    }
}

impl Drop for ExecLease {
    fn drop(&mut self) {
        let Some(ending) = self.ending.take() else { return };
        let (core, event) = (self.core.clone(), self.event.clone());
        let outcome = EventOutcome::from(&Error::new(ErrorKind::Cancelled, "The client has disconnected."));
        self.core
            .tasks
            .spawn(async move { end_session(&core, &event, ending, &outcome).await });
    }
}

async fn end_session(core: &Core, event: &EventId, ending: SessionEnding, outcome: &EventOutcome) {
    if let Some(unit) = &ending.one_off {
        unit.remove().await;
    }
    let ended = async {
        let mut tx = core.db.begin().await?;
        store::delete_session(&mut tx, event).await?;
        events::end_event(&mut tx, event, outcome, None).await?;
        Ok::<_, Error>(tx.commit().await?)
    };
    if let Err(error) = ended.await {
        tracing::warn!(%event, error = %error.report(), "cannot end a session in a unit; the healer ends it");
    }
}

/// Ends the sessions of a server that has exited.
pub async fn end_lost_sessions(core: &Core, replica: ReplicaId) -> Result<(), Error> {
    let mut tx = core.db.begin().await?;
    let lost = store::delete_sessions_of(&mut tx, replica).await?;
    end_lost_events(&mut tx, &lost).await?;
    Ok(tx.commit().await?)
}

/// Ends the events of sessions whose rows this transaction has deleted.
pub(super) async fn end_lost_events(tx: &mut sqlx::PgConnection, lost: &[EventId]) -> Result<(), Error> {
    let outcome = EventOutcome::from(&Error::unavailable(LOST_SESSION));
    for event in lost {
        events::end_event(tx, event, &outcome, None).await?;
    }
    Ok(())
}
