//! `Error`: the only error type that crosses a slice boundary. It knows nothing of HTTP; `web::errors` maps
//! it to a status and a body, per edition of the API.
//!
//! The message is for the user: one clear sentence that says what to do, never a secret. The source is for
//! the log.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

use crate::kernel::excerpt::quote_excerpt;

/// The kind of an error, by what the user can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request breaks a rule and must be changed.
    Invalid,
    /// A document in the request cannot be parsed at all (a manifest that is not YAML). Classic: 500.
    Unreadable,
    /// No token, or an invalid one.
    Unauthenticated,
    /// The caller lacks the permission.
    Forbidden,
    /// A quota is exhausted. Both editions return 403.
    QuotaExceeded,
    /// The object does not exist, or the caller may not see it.
    NotFound,
    /// What the request asks for is not offered any more.
    Gone,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The request conflicts with the current state: the name is taken, it is already bound.
    Conflict,
    /// The service id is taken. Classic documents 500 for it, modern 409.
    ServiceExists,
    /// Another event locks the target. Classic: 409, modern: 500 (as its client expects).
    Locked,
    /// An administrator has blocked changes of this kind. Classic: 409, modern: 500 (as its client expects).
    Blocked,
    /// A precondition does not hold: not bound, not ready.
    Precondition,
    /// The body is larger than allowed.
    TooLarge,
    /// Too many requests; retry later.
    TooMany,
    /// A service, a build or an app failed; the message includes its output.
    Failed,
    /// Cancelled by a user.
    Cancelled,
    /// Tancho or a part of it is unavailable; retry later.
    Unavailable,
    /// A bug in Tancho.
    Internal,
}

impl ErrorKind {
    const ALL: [(ErrorKind, &'static str); 19] = [
        (ErrorKind::Invalid, "invalid"),
        (ErrorKind::Unreadable, "unreadable"),
        (ErrorKind::Unauthenticated, "unauthenticated"),
        (ErrorKind::Forbidden, "forbidden"),
        (ErrorKind::QuotaExceeded, "quota-exceeded"),
        (ErrorKind::NotFound, "not-found"),
        (ErrorKind::Gone, "gone"),
        (ErrorKind::MethodNotAllowed, "method-not-allowed"),
        (ErrorKind::Conflict, "conflict"),
        (ErrorKind::ServiceExists, "service-exists"),
        (ErrorKind::Locked, "locked"),
        (ErrorKind::Blocked, "blocked"),
        (ErrorKind::Precondition, "precondition"),
        (ErrorKind::TooLarge, "too-large"),
        (ErrorKind::TooMany, "too-many"),
        (ErrorKind::Failed, "failed"),
        (ErrorKind::Cancelled, "cancelled"),
        (ErrorKind::Unavailable, "unavailable"),
        (ErrorKind::Internal, "internal"),
    ];

    /// Returns the name under which events store the kind.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(kind, word)| (*kind == self).then_some(*word))
            .unwrap_or("internal")
    }
}

impl FromStr for ErrorKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .find_map(|(kind, w)| (*w == word).then_some(*kind))
            .ok_or(())
    }
}

/// An error with its kind, a message for the user, and an optional source for the log. See the module.
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
    retry_after: Option<u32>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        })*
    };
}

/// Declares a constructor for each kind of thing: "App shop not found."
macro_rules! missing_things {
    ($($name:ident => $what:literal;)*) => {
        $(#[doc = concat!($what, " of this name that the caller may see does not exist.")]
        pub fn $name(name: impl AsRef<str>) -> Self {
            Self::not_found(format!("{} {} not found.", $what, quote_excerpt(name.as_ref())))
        })*
    };
}

impl Error {
    missing_things! {
        app_not_found => "App";
        job_not_found => "Job";
        team_not_found => "Team";
        user_not_found => "User";
        role_not_found => "Role";
        team_token_not_found => "Token";
        group_not_found => "Group";
        service_not_found => "Service";
        instance_not_found => "Service instance";
        pool_not_found => "Pool";
        platform_not_found => "Platform";
        plan_not_found => "Plan";
        router_not_found => "Router";
        cluster_not_found => "Cluster";
        saga_not_found => "Saga";
        orphan_not_found => "Orphan";
        webhook_not_found => "Webhook";
        volume_not_found => "Volume";
    }

    /// A path that is no permission. The contracts have 400 for it.
    pub fn permission_not_found(path: &str) -> Self {
        Self::invalid(format!("permission named {:?} not found.", quote_excerpt(path)))
    }

    /// A problem of a kind, in words for the user.
    pub fn new(kind: ErrorKind, words: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: words.into(),
            cause: None,
            retry_after: None,
        }
    }

    constructors! {
        /// The request breaks a rule.
        invalid => Invalid;
        /// No valid token.
        unauthenticated => Unauthenticated;
        /// The caller lacks the permission.
        forbidden => Forbidden;
        /// The object does not exist.
        not_found => NotFound;
        /// What the request asks for is not offered any more.
        gone => Gone;
        /// The request conflicts with the current state.
        conflict => Conflict;
        /// A precondition does not hold.
        precondition => Precondition;
        /// The body is too large.
        too_large => TooLarge;
        /// Too many requests.
        too_many => TooMany;
        /// A service, a build or an app failed.
        failed => Failed;
        /// Temporarily unavailable; retry later.
        unavailable => Unavailable;
    }

    /// Makes an internal error: the user gets a generic message, the log gets the cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind: ErrorKind::Internal,
            message: Cow::Borrowed("An internal error occurred; the log of the server has the details."),
            cause: Some(cause.into()),
            retry_after: None,
        }
    }

    /// Adds the source for the log.
    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Sets after how many seconds a retry makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// Returns after how many seconds a retry makes sense, if known.
    pub fn retry_seconds(&self) -> Option<u32> {
        self.retry_after
    }

    /// Returns the kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the message for the user.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns the message with the chain of sources, for one log line.
    pub fn report(&self) -> String {
        let mut text = self.message.to_string();
        if self.cause.is_some() && text.ends_with('.') {
            text.pop();
        }
        let mut next: Option<&(dyn StdError + 'static)> = self.cause.as_deref().map(|e| e as _);
        while let Some(cause) = next {
            let said = cause.to_string();
            // Many errors repeat their source in their own message.
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_distinct_name() {
        for (kind, word) in ErrorKind::ALL {
            assert_eq!(kind.as_str(), word);
            assert_eq!(word.parse(), Ok(kind));
        }
    }

    #[test]
    fn a_missing_thing_is_named_in_short() {
        assert_eq!(
            Error::instance_not_found("db").message(),
            "Service instance db not found."
        );
        assert!(Error::app_not_found("x".repeat(9000)).message().len() < 100);
        assert_eq!(Error::team_not_found("red").kind(), ErrorKind::NotFound);
    }

    #[test]
    fn cause_appears_in_the_report_only() {
        let error = Error::internal("disk on fire");
        assert!(!error.to_string().contains("fire"));
        assert!(error.report().contains("fire"));
    }
}
