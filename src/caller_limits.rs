//! What users share in this process, bounded and shared fairly by key, so that one user leaves the others theirs. What
//! belongs to one module alone (workers of sagas, connections of the router, calls to services) lies there.

use std::sync::Arc;

use crate::config::Settings;
use crate::kernel::fair_slots::{FairSlots, SlotKey, SlotLimits};
use crate::kernel::feeds::FeedHub;
use crate::kernel::ids::{AppId, UserId};
use crate::kernel::log_text::LogEntry;
use crate::kernel::rate_limiter::RateLimiter;
use crate::kernel::request_context::{Actor, RequestContext};

/// Lines per second that an app may log; the burst is twice as many.
pub const LOG_LINES_PER_SECOND: u32 = 1000;
/// Log followers per caller.
pub const MAX_FOLLOWERS_PER_CALLER: usize = 100;
/// Requests that one caller may have under way, those whose answers are streams included.
const REQUESTS_PER_CALLER: usize = 250;
/// Additions to the log of one app that may wait for their turn.
const MAX_WAITING_LOG_APPENDS: usize = 16;
/// Concurrent uploads per caller.
const MAX_UPLOADS_PER_CALLER: usize = 4;
/// Waiting uploads per caller.
const MAX_WAITING_UPLOADS: usize = 32;
/// Concurrent uploads in total.
const MAX_UPLOADS: usize = 32;

/// Password hashes of one network that may wait.
const WAITING_HASHES: usize = 100;
/// Clones, fetches and archives of repositories at once.
const GIT_READS: usize = 24;
/// Pushes at once. Most of them wait for their deploys.
const GIT_PUSHES: usize = 48;
/// Of each, what one user may have.
const GIT_PER_USER: usize = 6;
/// Of each, those of one user that may wait.
const WAITING_GIT: usize = 30;

/// Commands and shells in units at once, in total, of one caller, and in one app.
const EXEC_SESSIONS: usize = 256;
const EXEC_SESSIONS_PER_CALLER: usize = 64;
const EXEC_SESSIONS_PER_APP: usize = 128;

/// See the module.
#[derive(Debug)]
pub struct CallerLimits {
    /// Requests under way, from the moment their caller is known to the end of their answer, by caller.
    pub requests: FairSlots<String>,
    /// How fast an app writes to its log, by its units and by whoever posts lines.
    pub log_rates: RateLimiter<AppId>,
    /// Slots for writing to the log of an app; taken before a database connection.
    pub log_appends: FairSlots<AppId>,
    /// Slots for followers of logs, by caller.
    pub log_followers: FairSlots<String>,
    /// New log lines by app, read once for all followers.
    pub log_feeds: FeedHub<AppId, Arc<[LogEntry]>>,
    /// Slots for uploads, by caller.
    pub uploads: FairSlots<String>,
    /// Slots for uploads, by app: one each.
    pub app_uploads: FairSlots<AppId>,
    /// Password hashes, which are heavy on purpose, for people who have an account; by the caller's network.
    pub login_hashes: FairSlots<String>,
    /// The same for strangers: who signs up, or has forgotten their password.
    pub new_password_hashes: FairSlots<String>,
    /// Builds, by the key of their sagas: the user.
    pub builds: FairSlots<String>,
    /// Git children for clones, fetches, archives, and what a repository has; by user, `None` is Tancho itself.
    pub git_reads: FairSlots<Option<UserId>>,
    /// Git children for pushes, from their first byte to the end of their deploy; by user.
    pub git_pushes: FairSlots<Option<UserId>>,
    /// Commands and shells in units, by caller.
    pub exec_sessions: FairSlots<String>,
    /// The same, by app.
    pub app_exec_sessions: FairSlots<AppId>,
}

impl CallerLimits {
    /// Creates the limits from the settings.
    pub fn new(settings: &Settings) -> Self {
        let requests = settings.api.max_connections;
        let followers = (settings.api.max_connections / 2).max(1);
        let connections = usize::try_from(settings.database.max_connections).unwrap_or(usize::MAX);
        Self {
            requests: FairSlots::new(SlotLimits {
                total: requests,
                per_key: REQUESTS_PER_CALLER.min(requests.div_ceil(4)),
                waiting_per_key: 0,
            }),
            log_rates: RateLimiter::new(LOG_LINES_PER_SECOND, 2 * LOG_LINES_PER_SECOND),
            log_appends: FairSlots::new(SlotLimits {
                total: (connections / 4).max(1),
                per_key: 1,
                waiting_per_key: MAX_WAITING_LOG_APPENDS,
            }),
            log_followers: FairSlots::new(SlotLimits {
                total: followers,
                per_key: MAX_FOLLOWERS_PER_CALLER.min(followers.div_ceil(4)),
                waiting_per_key: 0,
            }),
            log_feeds: FeedHub::default(),
            uploads: FairSlots::new(SlotLimits {
                total: MAX_UPLOADS,
                per_key: MAX_UPLOADS_PER_CALLER,
                waiting_per_key: MAX_WAITING_UPLOADS,
            }),
            // Not limited in total, or one caller's waiting uploads to many apps would leave no slot to others.
            app_uploads: FairSlots::new(SlotLimits {
                total: usize::MAX,
                per_key: 1,
                waiting_per_key: 0,
            }),
            login_hashes: hashes(settings.auth.hash_concurrency),
            new_password_hashes: hashes(1),
            builds: FairSlots::new(SlotLimits::with_one_reserved(settings.builds.concurrency)),
            git_reads: git(GIT_READS),
            git_pushes: git(GIT_PUSHES),
            exec_sessions: exec_sessions(EXEC_SESSIONS_PER_CALLER),
            app_exec_sessions: exec_sessions(EXEC_SESSIONS_PER_APP),
        }
    }
}

/// A hash is short, so that one network may have all places while nobody else waits.
fn hashes(total: usize) -> FairSlots<String> {
    FairSlots::new(SlotLimits {
        total,
        per_key: total,
        waiting_per_key: WAITING_HASHES,
    })
}

fn git(total: usize) -> FairSlots<Option<UserId>> {
    FairSlots::new(SlotLimits {
        total,
        per_key: GIT_PER_USER,
        waiting_per_key: WAITING_GIT,
    })
}

fn exec_sessions<K: SlotKey>(per_key: usize) -> FairSlots<K> {
    FairSlots::new(SlotLimits {
        total: EXEC_SESSIONS,
        per_key,
        waiting_per_key: 0,
    })
}

/// By what a caller shares with others: who they are, however many tokens and addresses they use; for a team token the
/// user who created it, else its team; the address of who has not logged in.
pub fn caller_key(call: &RequestContext) -> String {
    match &call.actor {
        Actor::User { id, .. } => format!("user:{id}"),
        Actor::App { id, .. } => format!("app:{id}"),
        Actor::TeamToken {
            creator: Some(creator),
            ..
        } => format!("user:{}", creator.id),
        Actor::TeamToken { team, .. } => format!("team:{team}"),
        Actor::Nobody => format!("address:{}", call.source_ip),
        Actor::Internal => "internal".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::ids::TeamTokenId;
    use crate::kernel::names::{Email, TeamName, TeamTokenName};
    use crate::kernel::request_context::TokenCreator;

    #[test]
    fn team_token_shares_with_the_user_who_created_it() {
        let (id, email) = (UserId::new(), Email::parse("Ana@example.com").unwrap());
        let call = |actor| RequestContext {
            actor,
            ..RequestContext::new_internal()
        };
        let token = |name: &str, creator| {
            call(Actor::TeamToken {
                id: TeamTokenId::new(),
                name: TeamTokenName::parse(name).unwrap(),
                team: TeamName::parse("red").unwrap(),
                creator,
            })
        };
        let user = call(Actor::User {
            id,
            email: email.clone(),
        });
        for name in ["one", "two"] {
            let hers = token(
                name,
                Some(TokenCreator {
                    id,
                    email: email.clone(),
                }),
            );
            assert_eq!(caller_key(&hers), caller_key(&user));
            assert_eq!(hers.share_key(), user.share_key());
        }
        // Tokens of removed users share by team.
        let (one, two) = (token("one", None), token("two", None));
        assert_eq!(caller_key(&one), caller_key(&two));
        assert_eq!(one.share_key(), "team/red");
    }
}
