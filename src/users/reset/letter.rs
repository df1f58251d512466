//! The saga `mail.send`: one letter, its text kept sealed until it is sent and forgotten afterwards.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::Core;
use crate::kernel::names::Email;
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::seal::{Column, Place};
use crate::kernel::secret::Secret;
use crate::mail::Letter;
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};
use crate::users::reset::store;

/// Before the first new try; the next ones wait longer, a quarter of an hour in all.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct LetterData {
    letter: Uuid,
    to: Email,
    subject: String,
}

/// Has a letter sent once the transaction commits.
pub(super) async fn post(
    core: &Core,
    tx: &mut PgConnection,
    to: &Email,
    subject: &str,
    text: String,
) -> Result<(), Problem> {
    let letter = Uuid::now_v7();
    let data = LetterData {
        letter,
        to: to.clone(),
        subject: subject.to_owned(),
    };
    let sealed = core.keys.seal(&place(letter), &Secret::new(text));
    store::insert_letter(tx, letter, &sealed).await?;
    let saga = NewSaga {
        kind: SendLetter::KIND,
        lane: Lane::Housekeeping,
        event: None,
        host: None,
        data: &data,
    };
    sagas::enqueue(tx, saga).await.map(drop)
}

fn place(letter: Uuid) -> Place {
    Place::new(Column::LETTER, &[&letter])
}

/// See the module.
pub struct SendLetter {
    core: Core,
}

impl SendLetter {
    /// The name under which its rows are kept.
    pub const KIND: &str = "mail.send";

    /// The saga with what its step needs.
    pub fn new(core: &Core) -> Self {
        Self { core: core.clone() }
    }

    fn open(&self, data: &LetterData, sealed: &[u8]) -> Result<Letter, Problem> {
        Ok(Letter {
            id: data.letter,
            to: data.to.clone(),
            subject: data.subject.clone(),
            text: self.core.keys.open(&place(data.letter), sealed)?,
        })
    }

    async fn forget(&self, run: &Run, letter: Uuid) -> Result<(), StepError> {
        let mut tx = run.begin().await?;
        store::delete_letter(&mut tx, letter).await?;
        tx.commit().await?;
        Ok(())
    }
}

#[async_trait]
impl Saga for SendLetter {
    fn kind(&self) -> &'static str {
        Self::KIND
    }

    fn lane(&self) -> Lane {
        Lane::Housekeeping
    }

    fn steps(&self) -> &'static [&'static str] {
        &["send"]
    }

    async fn forward(&self, _step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: LetterData = run.data()?;
        let Some(sealed) = store::find_letter(&self.core.db, data.letter).await? else {
            // Sent, and then this process died.
            return Ok(());
        };
        match self.core.mail.send(&self.open(&data, &sealed)?).await {
            Ok(()) => self.forget(run, data.letter).await,
            Err(why) if why.kind() == Kind::Unavailable => Err(StepError::Retry { why, after: PAUSE }),
            Err(why) => Err(why.into()),
        }
    }

    /// A letter cannot be called back; its text is forgotten.
    async fn undo(&self, _step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: LetterData = run.data()?;
        let why = run.problem().map(Problem::chain).unwrap_or_default();
        tracing::warn!(to = %data.to, problem = why, "a mail was given up");
        self.forget(run, data.letter).await
    }
}
