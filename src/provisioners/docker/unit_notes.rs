//! What the engine does not keep of a unit: how often it was started again and why, and that it was stopped on
//! purpose. One small file each; a file that is lost or cut costs these, not the unit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ProvisionError, UnitId};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct UnitNotes {
    pub(super) restarts: u32,
    /// Why its last run ended.
    pub(super) reason: Option<String>,
    /// The exit status of its last run.
    pub(super) exit: Option<i32>,
    /// It is not to be started again.
    pub(super) is_stopped: bool,
}

/// The folder of the files. The data folder belongs to one process, so nobody else writes here.
#[derive(Clone)]
pub(super) struct NotesFolder(Arc<Path>);

impl NotesFolder {
    /// Opens the folder, and creates it if necessary.
    pub(super) fn open(folder: &Path) -> Result<Self, ProvisionError> {
        fs::create_dir_all(folder).map_err(|error| {
            ProvisionError::Permanent(format!(
                "The folder {} cannot be used for units: {error}.",
                folder.display()
            ))
        })?;
        Ok(Self(folder.into()))
    }

    fn file(&self, unit: &UnitId) -> PathBuf {
        self.0.join(format!("{unit}.json"))
    }

    /// Reads the notes of a unit; without a file, those of a unit that has just been started.
    pub(super) fn read(&self, unit: &UnitId) -> UnitNotes {
        let text = fs::read(self.file(unit)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes the notes of a unit, as a whole or not at all.
    pub(super) fn write(&self, unit: &UnitId, notes: &UnitNotes) -> Result<(), ProvisionError> {
        let write = || {
            let part = self.0.join(format!(".{unit}.part"));
            fs::write(&part, serde_json::to_vec(notes)?)?;
            fs::rename(part, self.file(unit))
        };
        write().map_err(|error: io::Error| {
            ProvisionError::Transient(format!(
                "The state of the unit {unit} cannot be written: {error}."
            ))
        })
    }

    /// Changes the notes of a unit.
    pub(super) fn update(
        &self,
        unit: &UnitId,
        change: impl FnOnce(&mut UnitNotes),
    ) -> Result<(), ProvisionError> {
        let mut notes = self.read(unit);
        change(&mut notes);
        self.write(unit, &notes)
    }

    /// True if there are notes of no unit.
    pub(super) fn is_empty(&self) -> bool {
        fs::read_dir(&self.0).is_ok_and(|mut files| files.next().is_none())
    }

    /// Removes the notes of a unit.
    pub(super) fn remove(&self, unit: &UnitId) {
        if let Err(error) = fs::remove_file(self.file(unit))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%unit, %error, "the notes of a removed unit are left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_cut_files_are_those_of_a_new_unit() {
        let folder = std::env::temp_dir().join(format!("tancho-notes-{}", uuid::Uuid::new_v4().simple()));
        let notes = NotesFolder::open(&folder).unwrap();
        let unit = UnitId::parse("noted").unwrap();
        assert_eq!(notes.read(&unit), UnitNotes::default());
        notes.update(&unit, |notes| notes.restarts = 3).unwrap();
        notes.update(&unit, |notes| notes.is_stopped = true).unwrap();
        let found = notes.read(&unit);
        assert_eq!((found.restarts, found.is_stopped), (3, true));
        fs::write(folder.join("noted.json"), "{\"restarts\":").unwrap();
        assert_eq!(notes.read(&unit), UnitNotes::default());
        notes.remove(&unit);
        notes.remove(&unit);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }
}
