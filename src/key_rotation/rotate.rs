//! The rotation, stage by stage; see the module. Every stage is idempotent.

use std::fmt::Display;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::db::notices::NoticeChannel;
use crate::db::{self, Db};
use crate::events::{self, EventTarget, EventTargetKind, NewEvent};
use crate::kernel::encryption::{AssociatedData, Keyring, SealedColumn};
use crate::kernel::error::Error;
use crate::kernel::permission::{Permission, PermissionContext};
use crate::kernel::request_context::RequestContext;
use crate::key_rotation::key_source::KeySource;
use crate::key_rotation::store::{self, ReplicaKeys};

/// How long to wait for replicas and old transactions by default.
const WAIT_LIMIT: Duration = Duration::from_secs(90);
/// The interval between two checks of them.
const CHECK_INTERVAL: Duration = Duration::from_millis(200);
/// Rows per transaction.
const ROWS_PER_TRANSACTION: i64 = 100;
/// Blocks of a table that are scanned at once.
const BLOCKS_PER_RANGE: i64 = 64;

/// `tancho keys list`: returns a line for each key, whether it is current, how many values it encrypts, and
/// which replicas have it.
pub async fn list_keys(db: &Db, source: &KeySource) -> Result<Vec<String>, Error> {
    let current = store::find_current(db).await?;
    let ring = source.load_keyring()?;
    let followers = store::list_replica_keys(db).await?;
    let mut counts = Vec::new();
    for column in SealedColumn::ALL {
        for (key, count) in store::count_by_key(db, *column).await? {
            counts.push((key, *column, count));
        }
    }
    let mut ids = ring.key_ids();
    ids.extend(counts.iter().map(|(key, ..)| *key));
    ids.extend(current);
    ids.sort_unstable();
    ids.dedup();
    let mut lines = Vec::new();
    for id in ids {
        let here = if ring.key_ids().contains(&id) {
            ""
        } else {
            ", not on this machine"
        };
        let marker = if current == Some(id) { ", current" } else { "" };
        lines.push(format!("key {id}{marker}{here}"));
        let of_key = counts.iter().filter(|(key, ..)| *key == id);
        lines.extend(of_key.map(|(_, column, count)| format!("  {column}: {count}")));
        let has = followers
            .iter()
            .filter(|follower| follower.known_keys.contains(&id));
        lines.extend(has.map(|follower| format!("  known to {} ({})", follower.host, follower.replica)));
    }
    Ok(lines)
}

/// The parameters of a rotation.
#[derive(Clone, Copy)]
pub struct KeyRotation<'a> {
    pub db: &'a Db,
    pub source: &'a KeySource,
    /// How long to wait for replicas and old transactions.
    pub wait_limit: Duration,
    /// Receives a line for each completed action.
    pub report: &'a (dyn Fn(&str) + Sync),
}

/// `tancho keys rotate`. Errors: `Conflict` while another rotation is in progress; `Precondition` and
/// `Failed` with the reason it cannot finish; then nothing is lost, and the next rotation resumes.
pub async fn rotate_keys(rotation: &KeyRotation<'_>) -> Result<(), Error> {
    let Some(held) = store::lock_rotation(rotation.db).await? else {
        return Err(Error::conflict("Another key rotation is in progress."));
    };
    let done = rotation.run_stages().await;
    // The lock ends with the connection. Where it cannot be closed it is gone already, and `done` is what counts.
    if let Err(error) = held.close().await {
        tracing::debug!(%error, "the connection of a rotation could not be closed");
    }
    done
}

impl<'a> KeyRotation<'a> {
    /// Creates a rotation with the default wait limit.
    pub fn new(db: &'a Db, source: &'a KeySource, report: &'a (dyn Fn(&str) + Sync)) -> Self {
        Self {
            db,
            source,
            wait_limit: WAIT_LIMIT,
            report,
        }
    }

    async fn run_stages(&self) -> Result<(), Error> {
        let ring = self.source.load_keyring()?;
        let current = store::find_or_set_current(self.db, ring.current_id()).await?;
        let next = self.pick_next_key(&ring, current).await?;
        let ring = self.source.load_keyring()?;
        if !ring.select_key(next) {
            return Err(Error::precondition(format!("Key {next} is not in the key file.")));
        }
        self.wait_for_replicas(&format!("have key {next}"), |f| f.known_keys.contains(&next))
            .await?;
        if current != next {
            self.switch_key(current, next).await?;
            (self.report)(&format!("key {next} is the current key"));
        }
        self.wait_for_replicas(&format!("encrypt with key {next}"), |f| f.current_key == next)
            .await?;
        store::set_oldest(self.db, next).await?;
        self.wait_for_writers().await?;
        let mut failed = Vec::new();
        for column in SealedColumn::ALL {
            failed.extend(self.reencrypt_column(&ring, *column).await?);
        }
        let mut left = 0;
        for column in SealedColumn::ALL {
            let stale = count_stale_values(self.db, *column, next).await?;
            (self.report)(&format!("{column}: {stale} values are left under other keys"));
            left += stale;
        }
        if left > 0 {
            failed.iter().for_each(|line| (self.report)(line));
            return Err(Error::failed(format!(
                "{left} values are still encrypted with other keys, which stay in the key file; run this again."
            )));
        }
        self.retire_old_keys(&ring, next).await
    }

    /// Returns the key to rotate to: an existing unused one, the current one if older ones are still present,
    /// or a new one.
    async fn pick_next_key(&self, ring: &Keyring, current: u32) -> Result<u32, Error> {
        let newest = ring.key_ids().last().copied().unwrap_or(current);
        if newest > current {
            (self.report)(&format!("resuming with key {newest}"));
            return Ok(newest);
        }
        let mut is_stale = ring.key_ids().iter().any(|id| *id != current);
        for column in SealedColumn::ALL {
            is_stale |= count_stale_values(self.db, *column, current).await? > 0;
        }
        if is_stale {
            (self.report)(&format!("finishing the rotation to key {current}"));
            return Ok(current);
        }
        let next = current
            .checked_add(1)
            .ok_or_else(|| Error::precondition("There is no id left for another key."))?;
        self.source.add_key(next)?;
        (self.report)(&format!("created key {next}"));
        Ok(next)
    }

    /// Waits until the running replicas satisfy a condition: no replica may encrypt with a key that another
    /// one lacks.
    async fn wait_for_replicas(
        &self,
        what: &str,
        is_there: impl Fn(&ReplicaKeys) -> bool,
    ) -> Result<(), Error> {
        let until = Instant::now() + self.wait_limit;
        loop {
            let mut followers = store::list_replica_keys(self.db).await?;
            followers.retain(|follower| !is_there(follower));
            if followers.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                let hosts: Vec<&str> = followers.iter().map(|f| f.host.as_str()).collect();
                return Err(Error::failed(format!(
                    "The Tancho on {} does not {what}: copy the key file there, and run this again.",
                    hosts.join(", ")
                )));
            }
            notify_replicas(self.db).await?;
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn switch_key(&self, from: u32, to: u32) -> Result<(), Error> {
        let mut tx = self.db.begin().await?;
        record_rotation(&mut tx, json!({ "from": from, "to": to })).await?;
        store::set_current(&mut tx, to).await?;
        db::send_notice(&mut tx, NoticeChannel::Keys, "").await?;
        Ok(tx.commit().await?)
    }

    /// Transactions that began before older keys were rejected may still write with one.
    async fn wait_for_writers(&self) -> Result<(), Error> {
        let next = store::next_transaction_id(self.db).await?;
        let until = Instant::now() + self.wait_limit;
        while !store::have_writers_ended(self.db, next).await? {
            if Instant::now() >= until {
                return Err(Error::failed(
                    "A database transaction has been open for too long; end it, and run this again.",
                ));
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        Ok(())
    }

    /// Re-encrypts a column from its first block to its last, until nothing more can be done. Returns a line
    /// for each value that cannot be decrypted.
    async fn reencrypt_column(&self, ring: &Keyring, column: SealedColumn) -> Result<Vec<String>, Error> {
        let until = Instant::now() + self.wait_limit;
        let mut done = 0;
        loop {
            let mut failed = Vec::new();
            let blocks = store::count_blocks(self.db, column).await?;
            let mut from = 0;
            while from <= blocks {
                done += self.reencrypt_blocks(ring, column, from, &mut failed).await?;
                from += BLOCKS_PER_RANGE;
            }
            let stale = count_stale_values(self.db, column, ring.current_id()).await?;
            // The remaining rows were locked by other transactions, which will end soon.
            let held = usize::try_from(stale).unwrap_or(usize::MAX) > failed.len();
            if !held || Instant::now() >= until {
                if done > 0 {
                    (self.report)(&format!("{column}: re-encrypted {done} values"));
                }
                return Ok(failed);
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    async fn reencrypt_blocks(
        &self,
        ring: &Keyring,
        column: SealedColumn,
        from: i64,
        failed: &mut Vec<String>,
    ) -> Result<u64, Error> {
        let (mut done, mut passed) = (0, Vec::new());
        loop {
            let mut tx = self.db.begin().await?;
            let range = (from, from + BLOCKS_PER_RANGE);
            let stale = store::lock_stale_values(
                &mut tx,
                column,
                ring.current_id(),
                range,
                &passed,
                ROWS_PER_TRANSACTION,
            )
            .await?;
            if stale.is_empty() {
                return Ok(done);
            }
            for value in stale {
                let row: Vec<&dyn Display> = value.row_key.iter().map(|part| part as &dyn Display).collect();
                let place = AssociatedData::new(column, &row);
                match ring.decrypt(&place, &value.sealed) {
                    Ok(plain) => {
                        store::replace_value(&mut tx, column, &value.ctid, &ring.encrypt(&place, &plain))
                            .await?;
                        done += 1;
                    }
                    Err(error) => {
                        failed.push(error.report());
                        passed.push(value.ctid);
                    }
                }
            }
            tx.commit().await?;
        }
    }

    /// Removes the old keys, which encrypt nothing any more.
    async fn retire_old_keys(&self, ring: &Keyring, next: u32) -> Result<(), Error> {
        let old: Vec<String> = ring
            .key_ids()
            .iter()
            .filter(|id| **id != next)
            .map(u32::to_string)
            .collect();
        if old.is_empty() {
            (self.report)(&format!("nothing to do; key {next} encrypts everything"));
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        record_rotation(&mut tx, json!({ "to": next, "retired": old })).await?;
        tx.commit().await?;
        match self.source.retain_key(next) {
            Ok(()) => (self.report)(&format!("removed key {} from the key file", old.join(", "))),
            Err(error) => (self.report)(&format!(
                "key {} is no longer needed. {}",
                old.join(", "),
                error.message()
            )),
        }
        notify_replicas(self.db).await
    }
}

/// Returns how many values of a column are encrypted with another key.
async fn count_stale_values(db: &Db, column: SealedColumn, current: u32) -> Result<i64, Error> {
    let counts = store::count_by_key(db, column).await?;
    let stale = counts.iter().filter(|(key, _)| *key != current);
    Ok(stale.map(|(_, count)| count).sum())
}

async fn notify_replicas(db: &Db) -> Result<(), Error> {
    let mut tx = db.begin().await?;
    db::send_notice(&mut tx, NoticeChannel::Keys, "").await?;
    Ok(tx.commit().await?)
}

async fn record_rotation(tx: &mut sqlx::PgConnection, what: serde_json::Value) -> Result<(), Error> {
    let target = EventTarget::new(EventTargetKind::Global, "sealing-keys");
    let contexts = vec![PermissionContext::global()];
    let event = NewEvent::new(target, Permission::SEALING_KEY_ROTATE, contexts, what).ignore_blocks();
    events::record_event(tx, &RequestContext::new_internal(), &event)
        .await
        .map(drop)
}
