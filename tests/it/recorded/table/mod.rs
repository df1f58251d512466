//! Every record: how it is replayed, or why not.

mod apps;
mod people;
mod running;

pub(super) use apps::APPS;
pub(super) use people::PEOPLE;
pub(super) use running::RUNNING;

use super::Row;

/// All rows of all chapters.
pub(super) fn all() -> impl Iterator<Item = &'static Row> {
    [PEOPLE, APPS, RUNNING].into_iter().flatten()
}

const NO_204: &str = "an empty list is answered 200 []; the record of that is replayed";
const BROKEN: &str = "a server in trouble: the same request is replayed where all is well";
const NO_IMAGES: &str = "the local provisioner runs no images and builds no Dockerfiles";

/// Records that are not replayed, and why.
pub(super) const NOT_REPLAYED: &[(&str, &str)] = &[
    ("app-list-no-content", NO_204),
];

/// Recorded answers that are empty or cut short, so that the shape of their row would refuse them.
pub(super) const BRIEF: &[&str] = &[];
