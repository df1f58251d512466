//! A batch of log reads of several units, written in one transaction or app by app.

use std::collections::{HashMap, HashSet};

use crate::kernel::ids::AppId;
use crate::provisioners::{LogLine, UnitId};
use crate::units::logs::NewLogLine;

/// The result of one read of a unit's log.
pub(super) struct LogRead {
    pub(super) unit: UnitId,
    pub(super) app_id: AppId,
    pub(super) process: String,
    pub(super) from: i64,
    pub(super) to: i64,
    pub(super) lines: Vec<LogLine>,
}

/// The results of reading several logs, with the lines that pass the rate limit.
pub(super) struct Batch {
    pub(super) reads: Vec<LogRead>,
    pub(super) lines: Vec<NewLogLine>,
}

impl Batch {
    /// Returns the apps whose logs were read.
    pub(super) fn apps(&self) -> Vec<AppId> {
        let apps: HashSet<AppId> = self.reads.iter().map(|read| read.app_id).collect();
        apps.into_iter().collect()
    }

    /// Removes all but these apps.
    pub(super) fn retain_apps(&mut self, apps: &[AppId]) {
        self.reads.retain(|read| apps.contains(&read.app_id));
        self.lines.retain(|line| apps.contains(&line.app_id));
    }

    /// Splits the batch by app.
    pub(super) fn split(self) -> HashMap<AppId, Batch> {
        let mut parts: HashMap<AppId, Batch> = HashMap::new();
        let empty = || Batch {
            reads: Vec::new(),
            lines: Vec::new(),
        };
        for read in self.reads {
            let part = parts.entry(read.app_id).or_insert_with(empty);
            part.reads.push(read);
        }
        for line in self.lines {
            parts.entry(line.app_id).or_insert_with(empty).lines.push(line);
        }
        parts
    }
}
