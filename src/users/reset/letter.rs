//! The saga `mail.send`: one letter, its text sealed until it is sent and gone from the row afterwards.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::Core;
use crate::kernel::names::Email;
use crate::kernel::problem::{Kind, Problem};
use crate::kernel::seal::Place;
use crate::kernel::secret::Secret;
use crate::mail::Letter;
use crate::sagas::{self, Lane, NewSaga, Run, Saga, StepError};

/// Before the first new try; the next ones wait longer, a quarter of an hour in all.
const PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct LetterData {
    letter: Uuid,
    to: Email,
    subject: String,
    /// In hexadecimal; empty once the letter is sent or given up.
    sealed: String,
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
        sealed: hex::encode(core.keys.seal(&place(letter), &Secret::new(text))),
    };
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
    Place::new("mail", &[&letter])
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

    fn open(&self, data: &LetterData) -> Result<Letter, Problem> {
        let sealed = hex::decode(&data.sealed).map_err(Problem::internal)?;
        Ok(Letter {
            id: data.letter,
            to: data.to.clone(),
            subject: data.subject.clone(),
            text: self.core.keys.open(&place(data.letter), &sealed)?,
        })
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
        match self.core.mail.send(&self.open(&data)?).await {
            Ok(()) => run.set_data(&LetterData {
                sealed: String::new(),
                ..data
            }),
            Err(why) if why.kind() == Kind::Unavailable => Err(StepError::Retry { why, after: PAUSE }),
            Err(why) => Err(why.into()),
        }
    }

    /// A letter cannot be called back; its text is forgotten.
    async fn undo(&self, _step: &'static str, run: &mut Run) -> Result<(), StepError> {
        let data: LetterData = run.data()?;
        let why = run.problem().map(Problem::chain).unwrap_or_default();
        tracing::warn!(to = %data.to, problem = why, "a mail was given up");
        run.set_data(&LetterData {
            sealed: String::new(),
            ..data
        })
    }
}
