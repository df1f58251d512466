//! The sides of an app: its main side, whose release is replaced by deploys and rollbacks, and the versions that run
//! beside it until a deploy replaces all of them.

mod actions;
pub(super) mod store;

pub use actions::{
    end_other_sides, find_deploy_side, list_running_sides, list_running_versions, set_version_routable,
};

/// A side of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReleaseSide {
    /// The one that every app has.
    #[default]
    Main,
    /// A version beside it.
    Beside(i32),
}

impl ReleaseSide {
    /// Returns the number that rows have of it: 0, or the version.
    pub fn number(self) -> i32 {
        match self {
            ReleaseSide::Main => 0,
            ReleaseSide::Beside(version) => version,
        }
    }

    /// Returns the side that rows mean by a number.
    pub fn from_number(number: i32) -> Self {
        match number {
            0 => ReleaseSide::Main,
            version => ReleaseSide::Beside(version),
        }
    }
}
