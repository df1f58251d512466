//! The saga `mail.send`: sends one mail. Its text is stored encrypted until it is sent, then deleted.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::Core;
use crate::kernel::encryption::{AssociatedData, SealedColumn};
use crate::kernel::error::{Error, ErrorKind};
use crate::kernel::names::Email;
use crate::kernel::secret::Secret;
use crate::mail::MailMessage;
use crate::sagas::{self, Saga, SagaQueue, StepContext, StepError, saga_steps};
use crate::users::reset::store;

/// The delay before the first retry; later delays are longer, a quarter of an hour in total.
const RETRY_DELAY: Duration = Duration::from_secs(60);

saga_steps! {
    /// The steps of a message.
    pub enum SendMailStep {
        /// Sends it.
        Send = "send",
    }
}

/// What the step knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResetMailData {
    mail: Uuid,
    to: Email,
    subject: String,
}

/// Enqueues a mail, to be sent after the transaction commits.
pub(super) async fn enqueue_mail(
    core: &Core,
    tx: &mut PgConnection,
    to: &Email,
    subject: &str,
    text: String,
) -> Result<(), Error> {
    let mail = Uuid::now_v7();
    let data = ResetMailData {
        mail,
        to: to.clone(),
        subject: subject.to_owned(),
    };
    let sealed = core.keys.encrypt(&mail_associated_data(mail), &Secret::new(text));
    store::insert_mail(tx, mail, &sealed).await?;
    sagas::enqueue_saga::<SendResetMail>(tx, None, &data)
        .await
        .map(drop)
}

fn mail_associated_data(mail: Uuid) -> AssociatedData {
    AssociatedData::new(SealedColumn::OUTGOING_MAIL, &[&mail])
}

/// Sends one mail. See the module.
pub struct SendResetMail {
    core: Core,
}

impl SendResetMail {
    /// Creates the saga with the services its step needs.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    fn decrypt_mail(&self, data: &ResetMailData, sealed: &[u8]) -> Result<MailMessage, Error> {
        Ok(MailMessage {
            id: data.mail,
            to: data.to.clone(),
            subject: data.subject.clone(),
            text: self.core.keys.decrypt(&mail_associated_data(data.mail), sealed)?,
        })
    }

    async fn send(&self, data: &ResetMailData, ctx: &StepContext) -> Result<(), StepError> {
        let Some(sealed) = store::find_mail(&self.core.db, data.mail).await? else {
            // It was sent before this process died.
            return Ok(());
        };
        let message = self.decrypt_mail(data, &sealed)?;
        match ctx.without_worker(self.core.mail.send_message(&message)).await {
            Ok(()) => delete_mail(ctx, data.mail).await,
            Err(why) if why.kind() == ErrorKind::Unavailable => Err(StepError::Retry {
                why,
                after: RETRY_DELAY,
            }),
            Err(why) => Err(why.into()),
        }
    }
}

async fn delete_mail(ctx: &StepContext, mail: Uuid) -> Result<(), StepError> {
    ctx.write_fenced(async |tx| Ok(store::delete_mail(tx, mail).await?))
        .await
}

#[async_trait]
impl Saga for SendResetMail {
    const KIND: &'static str = "mail.send";
    type Step = SendMailStep;
    type Data = ResetMailData;

    fn queue(_data: &ResetMailData) -> SagaQueue {
        SagaQueue::Background
    }

    async fn run_step(
        &self,
        step: SendMailStep,
        data: &mut ResetMailData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            SendMailStep::Send => self.send(data, ctx).await,
        }
    }

    /// A mail cannot be recalled; its text is deleted.
    async fn undo_step(
        &self,
        step: SendMailStep,
        data: &mut ResetMailData,
        ctx: &StepContext,
    ) -> Result<(), StepError> {
        match step {
            SendMailStep::Send => {
                let why = ctx.failure_reason().map(Error::report).unwrap_or_default();
                tracing::warn!(to = %data.to, error = why, "gave up sending a mail");
                delete_mail(ctx, data.mail).await
            }
        }
    }
}
