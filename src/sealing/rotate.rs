//! The change of the key, stage by stage; see the module. All of it may be run again at any time.

use std::fmt::Display;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::db::listen::Channel;
use crate::db::{self, Db};
use crate::events::{self, NewEvent, Target, TargetKind};
use crate::kernel::call::Call;
use crate::kernel::permission::{Context, Permission};
use crate::kernel::problem::Problem;
use crate::kernel::seal::{Column, Keyring, Place};
use crate::sealing::source::Source;
use crate::sealing::store::{self, Follower};

/// How long replicas and old transactions are waited for, as a rule.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(200);
/// Rows in one transaction.
const BATCH: i64 = 100;
/// Blocks of a table that are looked through at once.
const BLOCKS: i64 = 64;

/// `tancho keys list`: each key with whether it seals, what is sealed with it, and who has it; a line each.
pub async fn list(db: &Db, source: &Source) -> Result<Vec<String>, Problem> {
    let current = store::find_current(db).await?;
    let ring = source.read()?;
    let followers = store::list_followers(db).await?;
    let mut counts = Vec::new();
    for column in Column::ALL {
        for (key, count) in store::count(db, *column).await? {
            counts.push((key, *column, count));
        }
    }
    let mut ids = ring.ids();
    ids.extend(counts.iter().map(|(key, ..)| *key));
    ids.extend(current);
    ids.sort_unstable();
    ids.dedup();
    let mut lines = Vec::new();
    for id in ids {
        let here = if ring.ids().contains(&id) {
            ""
        } else {
            ", not on this machine"
        };
        let seals = if current == Some(id) { ", seals" } else { "" };
        lines.push(format!("key {id}{seals}{here}"));
        let of_key = counts.iter().filter(|(key, ..)| *key == id);
        lines.extend(of_key.map(|(_, column, count)| format!("  {column}: {count}")));
        let has = followers.iter().filter(|follower| follower.known.contains(&id));
        lines.extend(has.map(|follower| format!("  known to {} ({})", follower.host, follower.replica)));
    }
    Ok(lines)
}

/// What a rotation works with.
#[derive(Clone, Copy)]
pub struct Rotation<'a> {
    pub db: &'a Db,
    pub source: &'a Source,
    /// How long replicas and old transactions are waited for.
    pub patience: Duration,
    /// Gets a line for each thing done.
    pub say: &'a (dyn Fn(&str) + Sync),
}

/// `tancho keys rotate`. Errors: `Conflict` while another one is under way, `Precondition` and `Failed` with what
/// is in the way; then nothing is lost, and the next one goes on.
pub async fn rotate(rotation: &Rotation<'_>) -> Result<(), Problem> {
    let Some(held) = store::hold(rotation.db).await? else {
        return Err(Problem::conflict("Another rotation of the keys is under way."));
    };
    let done = rotation.stages().await;
    store::release(held).await?;
    done
}

impl<'a> Rotation<'a> {
    /// One with the usual patience.
    pub fn new(db: &'a Db, source: &'a Source, say: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self {
            db,
            source,
            patience: PATIENCE,
            say,
        }
    }

    async fn stages(&self) -> Result<(), Problem> {
        let ring = self.source.read()?;
        let current = store::current_or(self.db, ring.current()).await?;
        let next = self.pick(&ring, current).await?;
        let ring = self.source.read()?;
        if !ring.choose(next) {
            return Err(Problem::precondition(format!(
                "Key {next} is not in the key file."
            )));
        }
        self.wait_for_all(&format!("have key {next}"), |f| f.known.contains(&next))
            .await?;
        if current != next {
            self.switch(current, next).await?;
            (self.say)(&format!("key {next} seals"));
        }
        self.wait_for_all(&format!("seal with key {next}"), |f| f.current == next)
            .await?;
        store::set_oldest(self.db, next).await?;
        self.wait_for_writers().await?;
        let mut failed = Vec::new();
        for column in Column::ALL {
            failed.extend(self.reseal(&ring, *column).await?);
        }
        let mut left = 0;
        for column in Column::ALL {
            let stale = stale(self.db, *column, next).await?;
            (self.say)(&format!("{column}: {stale} left under other keys"));
            left += stale;
        }
        if left > 0 {
            failed.iter().for_each(|line| (self.say)(line));
            return Err(Problem::failed(format!(
                "{left} values are still sealed with other keys, which stay in the key file; run this again."
            )));
        }
        self.retire(&ring, next).await
    }

    /// The key to go to: one that is there and waits, the one that seals if older ones are still about, or a new one.
    async fn pick(&self, ring: &Keyring, current: u32) -> Result<u32, Problem> {
        let newest = ring.ids().last().copied().unwrap_or(current);
        if newest > current {
            (self.say)(&format!("going on with key {newest}"));
            return Ok(newest);
        }
        let mut is_stale = ring.ids().iter().any(|id| *id != current);
        for column in Column::ALL {
            is_stale |= stale(self.db, *column, current).await? > 0;
        }
        if is_stale {
            (self.say)(&format!("finishing the change to key {current}"));
            return Ok(current);
        }
        let next = current
            .checked_add(1)
            .ok_or_else(|| Problem::precondition("There is no number left for another key."))?;
        self.source.add(next)?;
        (self.say)(&format!("key {next} is made"));
        Ok(next)
    }

    /// Nobody seals with a key that somebody else cannot open.
    async fn wait_for_all(&self, what: &str, is_there: impl Fn(&Follower) -> bool) -> Result<(), Problem> {
        let until = Instant::now() + self.patience;
        loop {
            let mut followers = store::list_followers(self.db).await?;
            followers.retain(|follower| !is_there(follower));
            if followers.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let hosts: Vec<&str> = followers.iter().map(|f| f.host.as_str()).collect();
                return Err(Problem::failed(format!(
                    "The Tancho on {} does not {what}: copy the key file there, and run this again.",
                    hosts.join(", ")
                )));
            }
            nudge(self.db).await?;
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn switch(&self, from: u32, to: u32) -> Result<(), Problem> {
        let mut tx = self.db.begin().await?;
        record(&mut tx, json!({ "from": from, "to": to })).await?;
        store::set_current(&mut tx, to).await?;
        db::notify(&mut tx, Channel::Keys, "").await?;
        Ok(tx.commit().await?)
    }

    /// Whoever began before older keys were refused may still write with one.
    async fn wait_for_writers(&self) -> Result<(), Problem> {
        let next = store::next_transaction(self.db).await?;
        let until = Instant::now() + self.patience;
        while !store::have_ended(self.db, next).await? {
            if Instant::now() >= until {
                return Err(Problem::failed(
                    "A transaction of the database has been open for long; end it, and run this again.",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Seals a column anew, from its first block to its last, until nothing more can be done. Answers what does not
    /// open, a line each.
    async fn reseal(&self, ring: &Keyring, column: Column) -> Result<Vec<String>, Problem> {
        let until = Instant::now() + self.patience;
        let mut done = 0;
        loop {
            let mut failed = Vec::new();
            let blocks = store::blocks(self.db, column).await?;
            let mut from = 0;
            while from <= blocks {
                done += self.reseal_blocks(ring, column, from, &mut failed).await?;
                from += BLOCKS;
            }
            let stale = stale(self.db, column, ring.current()).await?;
            // What is left over was held by somebody else, who will be done with it soon.
            let held = usize::try_from(stale).unwrap_or(usize::MAX) > failed.len();
            if !held || Instant::now() >= until {
                if done > 0 {
                    (self.say)(&format!("{column}: {done} sealed anew"));
                }
                return Ok(failed);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn reseal_blocks(
        &self,
        ring: &Keyring,
        column: Column,
        from: i64,
        failed: &mut Vec<String>,
    ) -> Result<u64, Problem> {
        let (mut done, mut passed) = (0, Vec::new());
        loop {
            let mut tx = self.db.begin().await?;
            let range = (from, from + BLOCKS);
            let stale = store::hold_stale(&mut tx, column, ring.current(), range, &passed, BATCH).await?;
            if stale.is_empty() {
                return Ok(done);
            }
            for value in stale {
                let row: Vec<&dyn Display> = value.row.iter().map(|part| part as &dyn Display).collect();
                let place = Place::new(column, &row);
                match ring.open(&place, &value.sealed) {
                    Ok(plain) => {
                        store::replace(&mut tx, column, &value.at, &ring.seal(&place, &plain)).await?;
                        done += 1;
                    }
                    Err(problem) => {
                        failed.push(problem.chain());
                        passed.push(value.at);
                    }
                }
            }
            tx.commit().await?;
        }
    }

    /// Nothing is sealed with the old keys: they go.
    async fn retire(&self, ring: &Keyring, next: u32) -> Result<(), Problem> {
        let old: Vec<String> = ring
            .ids()
            .iter()
            .filter(|id| **id != next)
            .map(u32::to_string)
            .collect();
        if old.is_empty() {
            (self.say)(&format!("nothing is left to do; key {next} seals everything"));
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        record(&mut tx, json!({ "to": next, "retired": old })).await?;
        tx.commit().await?;
        match self.source.keep_only(next) {
            Ok(()) => (self.say)(&format!("key {} is out of the key file", old.join(", "))),
            Err(problem) => (self.say)(&format!(
                "key {} is of no use any more. {}",
                old.join(", "),
                problem.words()
            )),
        }
        nudge(self.db).await
    }
}

/// How many values of a column are sealed with another key.
async fn stale(db: &Db, column: Column, current: u32) -> Result<i64, Problem> {
    let counts = store::count(db, column).await?;
    let stale = counts.iter().filter(|(key, _)| *key != current);
    Ok(stale.map(|(_, count)| count).sum())
}

async fn nudge(db: &Db) -> Result<(), Problem> {
    let mut tx = db.begin().await?;
    db::notify(&mut tx, Channel::Keys, "").await?;
    Ok(tx.commit().await?)
}

async fn record(tx: &mut sqlx::PgConnection, what: serde_json::Value) -> Result<(), Problem> {
    let target = Target::new(TargetKind::Global, "sealing-keys");
    let contexts = vec![Context::global()];
    let event = NewEvent::new(target, Permission::SEALING_KEY_ROTATE, contexts, what);
    events::record(tx, &Call::internal(), &event).await.map(drop)
}
