//! How calls to a service end, and what a service reports.

use crate::kernel::error::Error;

/// The outcome of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDelivery {
    /// The service did not receive the call.
    NotSent,
    /// The service refused the call with this status.
    Refused(u16),
    /// The service executed the call, but its response cannot be used.
    Done,
    /// The call may have been executed or not.
    Unknown,
}

/// The error of a call to a service.
#[derive(Debug)]
pub struct BrokerError {
    pub delivery: CallDelivery,
    /// For the user; contains the message of the service.
    pub error: Error,
}

impl BrokerError {
    /// Returns whether the service has no such route, or no such resource.
    pub fn is_missing(&self) -> bool {
        matches!(self.delivery, CallDelivery::Refused(404 | 405))
    }

    /// Returns whether the service has no such resource. A 405 does not count: the route exists, but refuses
    /// the method.
    pub(super) fn is_not_found(&self) -> bool {
        self.delivery == CallDelivery::Refused(404)
    }
}

/// How a service confirms that a resource is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// The service has just deleted the resource.
    Deleted,
    /// The service knows no such resource; a request that is still in transit may yet create it.
    NotFound,
}

/// The state of an instance as its service reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportedStatus {
    Up,
    Pending,
    Down,
    /// A state in the service's own words.
    Custom(String),
    /// The service does not report a state.
    Unsupported,
}
