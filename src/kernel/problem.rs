//! `Problem`: the only error that crosses a slice border. It knows nothing of HTTP; the edition that
//! answers decides on the status and the form (`http::wording`).
//!
//! The words are for the user: one clear sentence that says what to do, never a secret. The cause is
//! for the log.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;

/// What sort of problem: what the user can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request breaks a rule; changed, it may pass.
    Invalid,
    /// A document in the request cannot be read at all (a manifest that is no YAML). Classic: 500.
    Unreadable,
    /// No token, or none that counts.
    Unauthenticated,
    /// The caller may not do this.
    Forbidden,
    /// A limit of a quota is reached. Both editions say 403.
    QuotaExceeded,
    /// No such thing, or none that the caller may see.
    NotFound,
    /// The path is known, the verb is not.
    MethodNotAllowed,
    /// The world disagrees: the name is taken, it is already bound.
    Conflict,
    /// A service whose id is taken. Classic documents 500 for it, modern 409.
    ServiceExists,
    /// Another event holds the target. Classic: 409, modern: 500 (as its client expects).
    Locked,
    /// What the request presumes is not so: not bound, not ready.
    Precondition,
    /// More bytes than allowed.
    TooLarge,
    /// Too often; try later.
    TooMany,
    /// A service, a build, an app failed us: its own words follow.
    Failed,
    /// Cancelled by a user.
    Cancelled,
    /// We or a part of us are out of reach; try later.
    Unavailable,
    /// Our bug.
    Internal,
}

impl Kind {
    const ALL: [(Kind, &'static str); 17] = [
        (Kind::Invalid, "invalid"),
        (Kind::Unreadable, "unreadable"),
        (Kind::Unauthenticated, "unauthenticated"),
        (Kind::Forbidden, "forbidden"),
        (Kind::QuotaExceeded, "quota-exceeded"),
        (Kind::NotFound, "not-found"),
        (Kind::MethodNotAllowed, "method-not-allowed"),
        (Kind::Conflict, "conflict"),
        (Kind::ServiceExists, "service-exists"),
        (Kind::Locked, "locked"),
        (Kind::Precondition, "precondition"),
        (Kind::TooLarge, "too-large"),
        (Kind::TooMany, "too-many"),
        (Kind::Failed, "failed"),
        (Kind::Cancelled, "cancelled"),
        (Kind::Unavailable, "unavailable"),
        (Kind::Internal, "internal"),
    ];

    /// The word under which an event keeps how it failed.
    pub fn as_str(self) -> &'static str {
        Self::ALL
            .iter()
            .find_map(|(kind, word)| (*kind == self).then_some(*word))
            .unwrap_or("internal")
    }
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL
            .iter()
            .find_map(|(kind, w)| (*w == word).then_some(*kind))
            .ok_or(())
    }
}

/// See the module.
pub struct Problem {
    kind: Kind,
    words: Cow<'static, str>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {
        $($(#[$doc])*
        pub fn $name(words: impl Into<Cow<'static, str>>) -> Self {
            Self::new(Kind::$kind, words)
        })*
    };
}

impl Problem {
    /// A problem of a kind, in words for the user.
    pub fn new(kind: Kind, words: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            words: words.into(),
            cause: None,
        }
    }

    constructors! {
        /// The request breaks a rule.
        invalid => Invalid;
        /// No valid token.
        unauthenticated => Unauthenticated;
        /// The caller may not.
        forbidden => Forbidden;
        /// No such thing.
        not_found => NotFound;
        /// The world disagrees.
        conflict => Conflict;
        /// What is presumed is not so.
        precondition => Precondition;
        /// Too many bytes.
        too_large => TooLarge;
        /// Too often.
        too_many => TooMany;
        /// A service, a build or an app failed.
        failed => Failed;
        /// Try later.
        unavailable => Unavailable;
    }

    /// Our bug: the user sees a plain sentence, the log sees the cause.
    pub fn internal(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind: Kind::Internal,
            words: Cow::Borrowed("Something went wrong on our side; the log of the server has the details."),
            cause: Some(cause.into()),
        }
    }

    /// Adds what the log should know.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What sort of problem.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What the user reads.
    pub fn words(&self) -> &str {
        &self.words
    }

    /// The cause and its causes, for one log line.
    pub fn chain(&self) -> String {
        let mut text = self.words.to_string();
        if self.cause.is_some() && text.ends_with('.') {
            text.pop();
        }
        let mut next: Option<&(dyn StdError + 'static)> = self.cause.as_deref().map(|e| e as _);
        while let Some(cause) = next {
            let said = cause.to_string();
            // Many causes repeat their own.
            if !text.ends_with(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            next = cause.source();
        }
        text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.as_str(), self.chain())
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_word_of_its_own() {
        for (kind, word) in Kind::ALL {
            assert_eq!(kind.as_str(), word);
            assert_eq!(word.parse(), Ok(kind));
        }
    }

    #[test]
    fn the_cause_is_for_the_log_alone() {
        let problem = Problem::internal("disk on fire");
        assert!(!problem.to_string().contains("fire"));
        assert!(problem.chain().contains("fire"));
    }
}
