//! The access matrix: every route of every table, as data, is requested as nobody, an unrelated user, a
//! member, a reader, a team token, an app, an ended session, a removed user and an administrator.
//!
//! A refused request changes nothing. An allowed request finds its resources locked by someone else. So the
//! state after the run is the state before it, which is checked.
//!
//! Paths of the modern table are also served without their version, by the same handler with the same policy;
//! the run requests the versioned ones.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use tancho::http::{classic, git, modern};
use tancho::web::route_table::{AuthPolicy, RouteInfo, full_path};

use crate::audit::AuditedChange;
use crate::recorded::test_service::RecordedService;
use crate::test_server::{TestServer, TestUser};

/// A route and the access that callers have; see `tests/access/routes.jsonl`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessRow {
    route: String,
    /// A query string if it begins with `?`, otherwise a body.
    #[serde(default)]
    sends: String,
    stranger: ExpectedAccess,
    reader: ExpectedAccess,
    member: ExpectedAccess,
    /// The access of a team token with the roles of a member, where it differs from that of a member.
    #[serde(default)]
    token: Option<ExpectedAccess>,
    /// The response to allowed callers, where it looks like a refusal.
    #[serde(default)]
    says: Option<String>,
    #[serde(default)]
    no_event: Option<String>,
}

impl AccessRow {
    /// Returns true if the route changes state, by its method or by its row.
    fn changes_state(&self) -> bool {
        !self.route.starts_with("GET ") || self.route.ends_with("/restart") || self.no_event.is_some()
    }
}

/// Reads the rows of a file in `tests/access/`.
pub(crate) fn read_rows<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = format!("{}/tests/access/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// What a caller of a route gets.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum ExpectedAccess {
    /// Neither 401, 403, 404 nor a server error; a conflict with a lock is no error here.
    Passes,
    /// 404, because the request names nothing that exists; callers without permission are refused before
    /// that.
    Absent,
    /// 403.
    Forbidden,
    /// 404, as if the resource did not exist.
    Hidden,
    /// 401.
    Unknown,
}

impl ExpectedAccess {
    fn matches(self, status: u16, inside: bool) -> bool {
        match self {
            ExpectedAccess::Passes => inside || !matches!(status, 401 | 403 | 404 | 405 | 500..),
            ExpectedAccess::Absent | ExpectedAccess::Hidden => status == 404,
            ExpectedAccess::Forbidden => status == 403,
            ExpectedAccess::Unknown => status == 401,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CallerKind {
    Nobody,
    /// A session that has ended.
    ExpiredSession,
    /// A removed user's session.
    RemovedUser,
    /// Has a team and an app of their own, and no access to `web-team`.
    OtherUser,
    /// May read the resources of `web-team`.
    Reader,
    Member,
    /// A team token with the roles of a member.
    TeamToken,
    /// The app that the paths name.
    App,
    /// Another app.
    OtherApp,
    Admin,
}

const ALL: [CallerKind; 10] = [
    CallerKind::Nobody,
    CallerKind::ExpiredSession,
    CallerKind::RemovedUser,
    CallerKind::OtherUser,
    CallerKind::Reader,
    CallerKind::Member,
    CallerKind::TeamToken,
    CallerKind::App,
    CallerKind::OtherApp,
    CallerKind::Admin,
];

/// Combines a row with the policy that its route declares.
fn expected_access(who: CallerKind, route: &RouteInfo, row: &AccessRow) -> ExpectedAccess {
    // Somebody passes each policy, and the response behind it is the same for everybody.
    let inside = match [row.stranger, row.reader, row.member].contains(&ExpectedAccess::Absent) {
        true => ExpectedAccess::Absent,
        false => ExpectedAccess::Passes,
    };
    let app = |enters: bool| if enters { inside } else { ExpectedAccess::Forbidden };
    match (who, route.auth_policy) {
        (CallerKind::App | CallerKind::OtherApp, AuthPolicy::Public) if route.refuses_apps => {
            ExpectedAccess::Forbidden
        }
        (_, AuthPolicy::Public) | (CallerKind::Admin, _) => inside,
        (CallerKind::Nobody | CallerKind::ExpiredSession | CallerKind::RemovedUser, _) => {
            ExpectedAccess::Unknown
        }
        (CallerKind::OtherUser, _) => row.stranger,
        (CallerKind::Reader, _) => row.reader,
        (CallerKind::Member, _) => row.member,
        (CallerKind::TeamToken, _) => row.token.unwrap_or(row.member),
        (CallerKind::App, policy) => app(matches!(
            policy,
            AuthPolicy::AnyToken | AuthPolicy::UserOrAppToken
        )),
        (CallerKind::OtherApp, policy) => app(policy == AuthPolicy::AnyToken),
    }
}

fn all_routes() -> BTreeMap<String, RouteInfo> {
    let all = [
        classic::classic_routes(),
        modern::modern_routes(),
        git::git_routes(),
    ];
    let routes = all
        .iter()
        .flat_map(tancho::web::route_table::RouteTable::list_routes);
    routes
        .map(|route| (format!("{} {}", route.method, full_path(&route)), route))
        .collect()
}

#[test]
fn access_matrix_covers_every_route() {
    let rows: Vec<AccessRow> = read_rows("routes");
    let known: BTreeSet<String> = rows.iter().map(|row| row.route.clone()).collect();
    assert_eq!(known.len(), rows.len(), "a route is in routes.jsonl twice");
    let offered: BTreeSet<String> = all_routes().into_keys().collect();
    let missing: Vec<&String> = offered.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "add to tests/access/routes.jsonl: {missing:#?}"
    );
    let stale: Vec<&String> = known.difference(&offered).collect();
    assert!(stale.is_empty(), "these routes no longer exist: {stale:#?}");
}

#[tokio::test]
async fn every_route_admits_only_declared_callers() {
    let matrix = AccessMatrix::start().await;
    matrix.sql(LOCKS).await;
    let before = matrix.table_digests().await;
    let (routes, rows) = (all_routes(), read_rows::<AccessRow>("routes"));
    let (mut report, mut tried) = (AccessReport::default(), 0);
    let (own, others): (Vec<&AccessRow>, Vec<&AccessRow>) = rows
        .iter()
        .partition(|row| ENDS_CALLER.contains(&row.route.as_str()));
    for (rows, keeps) in [(others, true), (own, false)] {
        for who in ALL {
            for row in &rows {
                matrix
                    .check_access(who, &routes[&row.route], row, &mut report)
                    .await;
                tried += 1;
            }
            let after = matrix.table_digests().await;
            let changed = after.iter().filter(|(table, rows)| before[*table] != **rows);
            let changed: Vec<&String> = changed.map(|(table, _)| table).collect();
            if keeps && !changed.is_empty() {
                report
                    .wrong
                    .push(format!("requests of {who:?} changed these tables: {changed:?}"));
            }
        }
    }
    assert_eq!(tried, routes.len() * ALL.len());
    report.check_events(&rows);
    let wrong = &report.wrong;
    assert!(
        wrong.is_empty(),
        "{} of {tried} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    matrix.tancho.running.drain_and_stop().await;
}

/// The results of a run.
#[derive(Default)]
struct AccessReport {
    wrong: Vec<String>,
    /// Routes that tried to begin an event.
    begin: BTreeSet<String>,
}

impl AccessReport {
    /// Every changing route begins an event here, records one in the test of changes, or gives a reason for
    /// recording none.
    fn check_events(&mut self, rows: &[AccessRow]) {
        let made: Vec<AuditedChange> = read_rows("changes");
        for row in rows {
            let begins = self.begin.contains(&row.route);
            let leaves = begins || made.iter().any(|change| change.route == row.route);
            match (&row.no_event, leaves) {
                (None, false) if row.changes_state() => {
                    let route = &row.route;
                    self.wrong
                        .push(format!("{route} records no event and gives no reason"));
                }
                (Some(reason), true) => {
                    let route = &row.route;
                    self.wrong
                        .push(format!("{route} records an event despite its reason: {reason}"));
                }
                _ => {}
            }
        }
    }
}

/// Routes that end the session or the account of their caller. They are requested last, by a caller made for
/// each.
const ENDS_CALLER: &[&str] = &[
    "DELETE /users/tokens",
    "DELETE /1.0/users/tokens",
    "DELETE /users",
    "DELETE /1.0/users",
];

/// The values of the path parameters.
const NAMES: &[(&str, &str)] = &[
    ("{app}", "shop"),
    ("{job}", "nightly"),
    ("{block}", "5f3e8a1b9c4d2e0001a7b401"),
    ("{email}", "ana@example.com"),
    ("{event}", EVENT),
    ("{group}", "developers"),
    ("{healer}", "no-such-healer"),
    ("{instance}", "shop-db"),
    ("{key}", "no-such-key"),
    ("{orphan}", "019aa1c0-0000-7000-8000-000000000001"),
    ("{permission}", "app.read"),
    ("{*path}", "rules"),
    ("{cluster}", "home"),
    ("{plan}", "small"),
    ("{platform}", "python"),
    ("{pool}", "local"),
    ("{repository}", "shop.git"),
    ("{role}", "reader"),
    ("{router}", "edge"),
    ("{saga}", "019aa1c0-0000-7000-8000-000000000002"),
    ("{service}", "postgres"),
    ("{token}", "ci"),
    ("{unit}", "no-such-unit"),
    ("{version}", "1"),
    ("{webhook}", "chat"),
    ("{volume}", "disk"),
];
const EVENT: &str = "5f3e8a1b9c4d2e0001a7b3d0";

/// Locks on everything, held by someone else; also a version to roll back to, and work for operators.
const LOCKS: &str = "
    insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
    values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{team:web-team}');
    insert into event_lock values
        ('app', 'shop', '5f3e8a1b9c4d2e0001a7b3d0'), ('team', 'web-team', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('job', 'nightly', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('role', 'reader', '5f3e8a1b9c4d2e0001a7b3d0'), ('pool', 'local', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('plan', 'small', '5f3e8a1b9c4d2e0001a7b3d0'), ('platform', 'python', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('router', 'edge', '5f3e8a1b9c4d2e0001a7b3d0'), ('service', 'postgres', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('service-instance', 'postgres/shop-db', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('webhook', 'chat', '5f3e8a1b9c4d2e0001a7b3d0'), ('webhook', 'new', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('volume', 'disk', '5f3e8a1b9c4d2e0001a7b3d0'), ('volume', 'new', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('event-block', '', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('event-block', '5f3e8a1b9c4d2e0001a7b401', '5f3e8a1b9c4d2e0001a7b3d0');
    insert into event_block (block_id, owner_name, reason)
    values ('5f3e8a1b9c4d2e0001a7b401', 'nobody@example.com', 'blocks nobody who exists');
    insert into version (app_id, version, state) select app_id, 1, 'ready' from app where name = 'shop';
    insert into orphan (orphan_id, service, service_id, instance, kind, wake_at)
    select '019aa1c0-0000-7000-8000-000000000001', name, service_id, 'shop-db', 'instance', now() + interval '1 day'
    from service where name = 'postgres';
    insert into saga (saga_id, kind, queue, step, event_id, state, data, ended_at)
    values ('019aa1c0-0000-7000-8000-000000000002', 'app.deploy', 'interactive', 'build', '5f3e8a1b9c4d2e0001a7b3d0', 'stuck', '{}', now());
    insert into event_lock select 'user', email, '5f3e8a1b9c4d2e0001a7b3d0' from user_account";

/// A server with all callers and resources of the run.
pub(crate) struct AccessMatrix {
    pub(crate) tancho: TestServer,
    pub(crate) users: BTreeMap<&'static str, TestUser>,
    /// The tokens of the two apps: one to keep, and one for each route that ends it.
    apps: [Vec<String>; 2],
    /// A token of `web-team` with the roles of a member.
    team_token: String,
}

impl AccessMatrix {
    pub(crate) async fn start() -> Self {
        let tancho = TestServer::start().await;
        let mut users = BTreeMap::from([("root", tancho.login_admin().await)]);
        for name in ["ana", "bob", "rea", "late", "gone"] {
            users.insert(name, tancho.create_user(name).await);
        }
        let mut matrix = Self {
            tancho,
            users,
            apps: [Vec::new(), Vec::new()],
            team_token: String::new(),
        };
        let service = RecordedService::start(&matrix.tancho).await;
        matrix.create_service_data(&service.url).await;
        matrix.team_token = matrix.create_team_token().await;
        for _ in 0..=ENDS_CALLER.len() {
            for (at, app) in ["shop", "theirs"].into_iter().enumerate() {
                let token = matrix.app_token(app).await;
                matrix.apps[at].push(token);
            }
        }
        matrix.request_ok("gone", "DELETE /1.0/users", "").await;
        let late =
            "update access_token set created_at = now() - interval '8 days', expires_at = now() - interval '1 day'
                    where user_id = (select user_id from user_account where email = 'late@example.com')";
        matrix.sql(late).await;
        matrix
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql)
            .execute(&self.tancho.running.core.db)
            .await
            .unwrap();
    }

    async fn create_service_data(&self, service: &str) {
        self.request_ok("ana", "POST /1.0/teams", "name=web-team").await;
        self.request_ok("bob", "POST /1.0/teams", "name=other-team").await;
        self.request_ok(
            "ana",
            "POST /1.0/apps",
            "name=shop&platform=python&teamOwner=web-team",
        )
        .await;
        self.request_ok(
            "bob",
            "POST /1.0/apps",
            "name=theirs&platform=python&teamOwner=other-team",
        )
        .await;
        let job = r#"{"name":"nightly","manual":true,"platform":"python","teamOwner":"web-team"}"#;
        self.request_ok("ana", "POST /1.13/jobs", job).await;
        self.request_ok("root", "POST /1.0/roles", "name=reader&context=team")
            .await;
        for permission in [
            "app.read",
            "job.read",
            "team.read",
            "service.read",
            "service-instance.read",
            "volume.read",
        ] {
            let field = format!("permission={permission}");
            self.request_ok("root", "POST /1.0/roles/reader/permissions", &field)
                .await;
        }
        self.request_ok(
            "root",
            "POST /1.0/roles/reader/user",
            "email=rea@example.com&context=web-team",
        )
        .await;
        let entry = format!("id=postgres&username=admin&password=s3cret&team=web-team&endpoint={service}");
        self.request_ok("root", "POST /1.0/services", &entry).await;
        let instance = "name=shop-db&plan=small&owner=web-team";
        self.request_ok("ana", "POST /1.0/services/postgres/instances", instance)
            .await;
        // Nothing is ever delivered to it.
        let hook = r#"{"name":"chat","team_owner":"web-team","url":"http://example.com/","event_filter":{"kind_names":["cluster.create"]}}"#;
        self.request_ok("ana", "POST /1.6/events/webhooks", hook).await;
        let volume = r#"{"Name":"disk","Plan":{"Name":"default"},"TeamOwner":"web-team"}"#;
        self.request_ok("ana", "POST /1.4/volumes", volume).await;
        // The first request for a repository creates it.
        let look = "GET /git/shop.git/info/refs";
        self.request_ok("ana", look, "?service=git-upload-pack").await;
    }

    /// Creates a token of `web-team` with the roles of a member, and a group with a role; returns its value.
    async fn create_team_token(&self) -> String {
        let new = r#"{"token_id":"ci","team":"web-team"}"#;
        let made = self.request_ok("ana", "POST /1.6/tokens", new).await;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        for line in [
            "POST /1.6/roles/team-member/token",
            "POST /1.6/roles/reader/token",
        ] {
            self.request_ok("root", line, "token_id=ci&context=web-team")
                .await;
        }
        let group = "group_name=developers&context=web-team";
        self.request_ok("root", "POST /1.9/roles/reader/group", group)
            .await;
        made["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn request_ok(&self, who: &str, line: &str, sends: &str) -> String {
        let (status, text) = self.send(Some(&self.users[who].token), line, sends).await;
        assert!(status < 300, "{line} {sends}: {status} {text}");
        text
    }

    async fn app_token(&self, app: &str) -> String {
        let made = self
            .request_ok("root", "POST /tokens", &format!("{{\"client\":\"{app}\"}}"))
            .await;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    async fn send(&self, token: Option<&str>, line: &str, sends: &str) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        // A query, then a space and the body, if there are both.
        let (query, body) = match sends.starts_with('?') {
            true => sends.split_once(' ').unwrap_or((sends, "")),
            false => ("", sends),
        };
        let mut request = self
            .tancho
            .request(method, &format!("{path}{query}"))
            .body(body.to_owned());
        if body.contains('=') {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        if let Some(token) = token {
            request = request.header("authorization", format!("bearer {token}"));
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn check_access(
        &self,
        who: CallerKind,
        route: &RouteInfo,
        row: &AccessRow,
        report: &mut AccessReport,
    ) {
        let token = self.token(who, row).await;
        let (status, text) = self.send(token.as_deref(), &line(&row.route), &row.sends).await;
        let wanted = expected_access(who, route, row);
        let locked = text.contains("event locked");
        if locked {
            report.begin.insert(row.route.clone());
        }
        let inside = locked || row.says.as_ref().is_some_and(|says| text.contains(says));
        if !wanted.matches(status, inside) {
            let text: String = text.trim().chars().take(120).collect();
            report.wrong.push(format!(
                "{who:?} {} ({:?}): expected {wanted:?}, got {status}: {text}",
                row.route, route.auth_policy
            ));
        }
    }

    /// Returns the token of a caller; a new one where the request ends it.
    async fn token(&self, who: CallerKind, row: &AccessRow) -> Option<String> {
        let ends = ENDS_CALLER.iter().position(|route| *route == row.route);
        let nth = ends.map_or(0, |at| at + 1);
        let name = match who {
            CallerKind::Nobody => return None,
            CallerKind::TeamToken => return Some(self.team_token.clone()),
            CallerKind::App => return Some(self.apps[0][nth].clone()),
            CallerKind::OtherApp => return Some(self.apps[1][nth].clone()),
            CallerKind::ExpiredSession => "late",
            CallerKind::RemovedUser => "gone",
            CallerKind::OtherUser => "bob",
            CallerKind::Reader => "rea",
            CallerKind::Member => "ana",
            CallerKind::Admin => "root",
        };
        let user = &self.users[name];
        if ends.is_none() || matches!(who, CallerKind::ExpiredSession | CallerKind::RemovedUser) {
            return Some(user.token.clone());
        }
        if row.route.ends_with("/users") {
            let name = format!("brief{}", uuid::Uuid::new_v4().simple());
            return Some(self.tancho.create_user(&name).await.token);
        }
        Some(self.tancho.login(&user.email).await.token)
    }

    /// Returns a digest of every table that users change; the run must not change them, except for the time
    /// when a token was last used.
    async fn table_digests(&self) -> BTreeMap<String, String> {
        let db = &self.tancho.running.core.db;
        let tables = sqlx::query("select tablename from pg_tables where schemaname = 'public'")
            .fetch_all(db)
            .await
            .unwrap();
        let mut contents = BTreeMap::new();
        for table in tables {
            let table: String = table.get(0);
            if BUSY.contains(&table.as_str()) {
                continue;
            }
            let sql = format!(
                "select md5(coalesce(string_agg(r.said, ',' order by r.said), ''))
                 from \"{table}\" t, lateral (select (to_jsonb(t) - 'last_used_at')::text as said) r"
            );
            let digest: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_one(db)
                .await
                .unwrap();
            contents.insert(table, digest);
        }
        assert!(contents.len() > 20, "{contents:?}");
        contents
    }
}

/// Tables that Tancho itself writes while it runs, the counts of login attempts, and the log, to which
/// members and apps write.
const BUSY: &[&str] = &[
    "login_failure",
    "host",
    "router_seen",
    "encryption_replica",
    "saga",
    "log_line",
    "log_position",
    "_sqlx_migrations",
];

fn line(route: &str) -> String {
    let (team, user) = match (route.contains("/teams/{team}"), route.starts_with("DELETE")) {
        (true, _) if !route.contains("/apps/") => ("web-team", "bob@example.com"),
        (_, true) => ("web-team", "bob@example.com"),
        _ => ("other-team", "bob@example.com"),
    };
    let line = route.replace("{team}", team).replace("{user}", user);
    NAMES.iter().fold(line, |line, (from, to)| line.replace(from, to))
}
