//! The types of event blocks, and their rules.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::events::model::EventTargetKind;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;
use crate::kernel::ids::EventBlockId;
use crate::kernel::permission::{self, Permission};

/// The maximum length of a reason, in bytes.
const MAX_REASON_BYTES: usize = 2000;
/// The maximum length of a name or a value, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// The maximum number of conditions.
const MAX_CONDITIONS: usize = 20;

/// What a block matches, and why. An empty string matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewEventBlock {
    /// Matches the kinds of events that begin with it.
    pub kind_name: String,
    /// An e-mail address, or the name of an app or a token.
    pub owner_name: String,
    pub target_kind: String,
    /// One target of that kind; empty: all of them.
    pub target_value: String,
    /// Each must be a value of that name in the request of the event.
    pub conditions: BTreeMap<String, String>,
    pub reason: String,
}

/// A stored block.
#[derive(Clone, Debug)]
pub struct EventBlock {
    pub id: EventBlockId,
    pub started_at: DateTime<Utc>,
    /// Not set while the block is active.
    pub ended_at: Option<DateTime<Utc>>,
    pub rule: NewEventBlock,
}

impl EventBlock {
    /// Returns the sentence that a refused caller reads.
    pub(super) fn describe(&self) -> String {
        let NewEventBlock {
            kind_name,
            owner_name,
            target_kind,
            target_value,
            reason,
            ..
        } = &self.rule;
        let or = |text: &str, all: &str| {
            if text.is_empty() {
                all.to_owned()
            } else {
                text.to_owned()
            }
        };
        let target = match (target_kind.as_str(), target_value.as_str()) {
            ("", _) => String::from("all targets"),
            (kind, "") => format!("every {kind}"),
            (kind, value) => format!("{kind}({value})"),
        };
        format!(
            "block {} {} by {} on {target}: {reason}",
            self.id,
            or(kind_name, "all actions"),
            or(owner_name, "all users"),
        )
    }
}

impl NewEventBlock {
    /// Checks the rules of a block. Errors: `Invalid`.
    pub(super) fn check(&self) -> Result<(), Error> {
        if self.reason.trim().is_empty() {
            return Err(Error::invalid("reason is required"));
        }
        if self.reason.len() > MAX_REASON_BYTES {
            return Err(Error::invalid("The reason is longer than 2000 bytes."));
        }
        let conditions = self.conditions.iter().flat_map(|(name, value)| [name, value]);
        let mut strings = [&self.kind_name, &self.owner_name, &self.target_value]
            .into_iter()
            .chain(conditions);
        if self.conditions.len() > MAX_CONDITIONS || strings.any(|string| string.len() > MAX_NAME_BYTES) {
            return Err(Error::invalid(
                "A block has at most 20 conditions, and its names and values have at most 255 bytes.",
            ));
        }
        check_target(&self.target_kind, &self.target_value)?;
        check_kind(&self.kind_name)
    }
}

fn check_target(kind: &str, value: &str) -> Result<(), Error> {
    match EventTargetKind::parse(kind) {
        None if kind.is_empty() && value.is_empty() => Ok(()),
        None if kind.is_empty() => Err(Error::invalid(
            "Target.Value needs Target.Type: name the type of the target as well.",
        )),
        None => {
            let known: Vec<&str> = EventTargetKind::ALL.iter().map(|kind| kind.as_str()).collect();
            Err(Error::invalid(format!(
                "{:?} is not the type of a target: use one of {}.",
                quote_excerpt(kind),
                known.join(", ")
            )))
        }
        Some(EventTargetKind::EventBlock) => Err(own_removal_error()),
        Some(_) => Ok(()),
    }
}

/// A kind must begin the name of an event; otherwise the block would match nothing.
fn check_kind(name: &str) -> Result<(), Error> {
    let mut matched = permission::all_permissions()
        .filter(|kind| kind.as_str().starts_with(name))
        .peekable();
    if matched.peek().is_none() {
        return Err(Error::invalid(format!(
            "No kind of event begins with {:?}: list the kinds with GET /events/kinds.",
            quote_excerpt(name)
        )));
    }
    match matched.all(|kind| Permission::EVENT_BLOCK.covers(kind)) {
        true => Err(own_removal_error()),
        false => Ok(()),
    }
}

fn own_removal_error() -> Error {
    Error::invalid("A block cannot block the adding and removal of blocks: choose another kind or target.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(change: impl FnOnce(&mut NewEventBlock)) -> NewEventBlock {
        let mut block = NewEventBlock {
            reason: String::from("moving"),
            ..NewEventBlock::default()
        };
        change(&mut block);
        block
    }

    #[test]
    fn block_of_everything_or_of_known_kinds_and_targets_is_accepted() {
        for good in [
            block(|_| {}),
            block(|b| b.kind_name = "app".into()),
            block(|b| b.kind_name = "app.update.env".into()),
            block(|b| b.target_kind = "app".into()),
            block(|b| (b.target_kind, b.target_value) = ("app".into(), "shop".into())),
            block(|b| b.owner_name = "ana@example.com".into()),
        ] {
            good.check().unwrap();
        }
    }

    #[test]
    fn block_that_matches_nothing_or_its_own_removal_is_refused() {
        for (bad, part) in [
            (block(|b| b.reason = " ".into()), "reason is required"),
            (block(|b| b.reason = "x".repeat(2001)), "2000 bytes"),
            (block(|b| b.kind_name = "app.deplay".into()), "No kind of event"),
            (block(|b| b.kind_name = "event-block".into()), "cannot block"),
            (block(|b| b.kind_name = "ev".into()), "cannot block"),
            (block(|b| b.target_kind = "event-block".into()), "cannot block"),
            (
                block(|b| b.target_kind = "house".into()),
                "not the type of a target",
            ),
            (block(|b| b.target_value = "shop".into()), "needs Target.Type"),
            (block(|b| b.owner_name = "x".repeat(256)), "255 bytes"),
            (
                block(|b| b.conditions = (0..21).map(|n| (n.to_string(), String::new())).collect()),
                "20 conditions",
            ),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.message().contains(part), "{bad:?}: {error}");
        }
    }
}
