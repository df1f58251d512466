//! A walk past every door: all routes of all tables, as data, each tried as nobody, as a stranger, a
//! member, a reader, an app, a session that has ended, somebody who is gone, and an administrator.
//!
//! Whoever is turned away changes nothing, and whoever passes finds the things of the stage locked by
//! somebody else: so the world is the same after the walk, whatever was asked. That it is, is checked.
//!
//! A path of the modern table is served without its version as well, by the same handler behind the same
//! door; the walk takes the versioned one.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use sqlx::Row as _;
use tancho::http::table::{Door, Route, full_path};
use tancho::http::{classic, git, modern};

use crate::audit::Change;
use crate::house::{House, Person};
use crate::recorded::props::Service;

/// A route and what people get there; see `tests/doors/routes.jsonl`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    route: String,
    /// A query if it begins with `?`, else a body.
    #[serde(default)]
    sends: String,
    stranger: Sees,
    reader: Sees,
    member: Sees,
    /// What those are told who pass, where that looks like a refusal.
    #[serde(default)]
    says: Option<String>,
    #[serde(default)]
    no_event: Option<String>,
}

impl Row {
    /// More than a reading, by its method or because it says so.
    fn changes(&self) -> bool {
        !self.route.starts_with("GET ") || self.route.ends_with("/restart") || self.no_event.is_some()
    }
}

/// The rows of a file in `tests/doors/`.
pub(crate) fn read_rows<T: DeserializeOwned>(file: &str) -> Vec<T> {
    let path = format!("{}/tests/doors/{file}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}

/// What somebody gets who tries a door.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Sees {
    /// Neither 401, 403, 404 nor a fault; that somebody else is at work there is none.
    Passes,
    /// 404, because the walk names nothing that is there; who may not pass does not get that far.
    Absent,
    /// 403.
    Forbidden,
    /// 404, as if there were no such thing.
    Hidden,
    /// 401.
    Unknown,
}

impl Sees {
    fn is(self, status: u16, inside: bool) -> bool {
        match self {
            Sees::Passes => inside || !matches!(status, 401 | 403 | 404 | 405 | 500..),
            Sees::Absent | Sees::Hidden => status == 404,
            Sees::Forbidden => status == 403,
            Sees::Unknown => status == 401,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    /// A session that has ended.
    Late,
    /// Had a session and an account.
    Gone,
    /// Has a team and an app of their own, and nothing to do with `web-team`.
    Stranger,
    /// May read what is `web-team`'s.
    Reader,
    Member,
    /// The app in the paths.
    App,
    /// Another app.
    OtherApp,
    Admin,
}

const ALL: [Who; 9] = [
    Who::Nobody,
    Who::Late,
    Who::Gone,
    Who::Stranger,
    Who::Reader,
    Who::Member,
    Who::App,
    Who::OtherApp,
    Who::Admin,
];

/// What a row and the door that its route declares say together.
fn expected(who: Who, route: &Route, row: &Row) -> Sees {
    // Somebody gets behind each door, and what they find there is the same for all.
    let inside = match [row.stranger, row.reader, row.member].contains(&Sees::Absent) {
        true => Sees::Absent,
        false => Sees::Passes,
    };
    let app = |enters: bool| if enters { inside } else { Sees::Forbidden };
    match (who, route.door) {
        (_, Door::Open) | (Who::Admin, _) => inside,
        (Who::Nobody | Who::Late | Who::Gone, _) => Sees::Unknown,
        (Who::Stranger, _) => row.stranger,
        (Who::Reader, _) => row.reader,
        (Who::Member, _) => row.member,
        (Who::App, door) => app(matches!(door, Door::Token | Door::UserOrItsApp)),
        (Who::OtherApp, door) => app(door == Door::Token),
    }
}

fn routes() -> BTreeMap<String, Route> {
    let all = [classic::table(), modern::table(), git::table()];
    let routes = all.iter().flat_map(tancho::http::table::Table::routes);
    routes
        .map(|route| (format!("{} {}", route.method, full_path(&route)), route))
        .collect()
}

#[test]
fn the_walk_knows_every_route() {
    let rows: Vec<Row> = read_rows("routes");
    let known: BTreeSet<String> = rows.iter().map(|row| row.route.clone()).collect();
    assert_eq!(known.len(), rows.len(), "a route is in the walk twice");
    let offered: BTreeSet<String> = routes().into_keys().collect();
    let missing: Vec<&String> = offered.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "add to tests/doors/routes.jsonl: {missing:#?}"
    );
    let stale: Vec<&String> = known.difference(&offered).collect();
    assert!(stale.is_empty(), "no such routes any more: {stale:#?}");
}

#[tokio::test]
async fn every_door_lets_in_whom_it_declares() {
    let street = Street::build().await;
    street.sql(LOCKS).await;
    let before = street.contents().await;
    let (routes, rows) = (routes(), read_rows::<Row>("routes"));
    let (mut walk, mut tried) = (Walk::default(), 0);
    let (own, others): (Vec<&Row>, Vec<&Row>) = rows
        .iter()
        .partition(|row| ENDS_CALLER.contains(&row.route.as_str()));
    for (rows, keeps) in [(others, true), (own, false)] {
        for who in ALL {
            for row in &rows {
                street.try_door(who, &routes[&row.route], row, &mut walk).await;
                tried += 1;
            }
            let after = street.contents().await;
            let changed = after.iter().filter(|(table, rows)| before[*table] != **rows);
            let changed: Vec<&String> = changed.map(|(table, _)| table).collect();
            if keeps && !changed.is_empty() {
                walk.wrong
                    .push(format!("since {who:?}, these are others: {changed:?}"));
            }
        }
    }
    assert_eq!(tried, routes.len() * ALL.len());
    walk.check_events(&rows);
    let wrong = &walk.wrong;
    assert!(
        wrong.is_empty(),
        "{} of {tried} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    street.house.running.stop().await;
}

/// What the walk has found.
#[derive(Default)]
struct Walk {
    wrong: Vec<String>,
    /// Routes that wanted to begin an event.
    begin: BTreeSet<String>,
}

impl Walk {
    /// Every change begins an event here, leaves one in the test of changes, or says why it leaves none.
    fn check_events(&mut self, rows: &[Row]) {
        let made: Vec<Change> = read_rows("changes");
        for row in rows {
            let begins = self.begin.contains(&row.route);
            let leaves = begins || made.iter().any(|change| change.route == row.route);
            match (&row.no_event, leaves) {
                (None, false) if row.changes() => {
                    let route = &row.route;
                    self.wrong
                        .push(format!("{route} leaves no event and does not say why"));
                }
                (Some(reason), true) => {
                    let route = &row.route;
                    self.wrong
                        .push(format!("{route} leaves an event all the same: {reason}"));
                }
                _ => {}
            }
        }
    }
}

/// Routes that end the session or the account of who calls them; tried last, by somebody made for it.
const ENDS_CALLER: &[&str] = &[
    "DELETE /users/tokens",
    "DELETE /1.0/users/tokens",
    "DELETE /users",
    "DELETE /1.0/users",
];

/// What stands in the paths.
const NAMES: &[(&str, &str)] = &[
    ("{app}", "shop"),
    ("{email}", "ana@example.com"),
    ("{event}", EVENT),
    ("{healer}", "no-such-healer"),
    ("{instance}", "shop-db"),
    ("{key}", "no-such-key"),
    ("{orphan}", "019aa1c0-0000-7000-8000-000000000001"),
    ("{permission}", "app.read"),
    ("{platform}", "python"),
    ("{pool}", "local"),
    ("{repository}", "shop.git"),
    ("{role}", "reader"),
    ("{saga}", "019aa1c0-0000-7000-8000-000000000002"),
    ("{service}", "postgres"),
    ("{unit}", "no-such-unit"),
];
const EVENT: &str = "5f3e8a1b9c4d2e0001a7b3d0";

/// Somebody is at work on everything. There is a version to go back to, too, and something for operators.
const LOCKS: &str = "
    insert into event (event_id, target_kind, target_value, kind, owner_kind, owner_name, contexts)
    values ('5f3e8a1b9c4d2e0001a7b3d0', 'app', 'shop', 'app.deploy', 'user', 'ana@example.com', '{team:web-team}');
    insert into event_lock values
        ('app', 'shop', '5f3e8a1b9c4d2e0001a7b3d0'), ('team', 'web-team', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('role', 'reader', '5f3e8a1b9c4d2e0001a7b3d0'), ('service', 'postgres', '5f3e8a1b9c4d2e0001a7b3d0'),
        ('service-instance', 'postgres/shop-db', '5f3e8a1b9c4d2e0001a7b3d0');
    insert into version (app_id, version, state) select app_id, 1, 'ready' from app where name = 'shop';
    insert into orphan (orphan_id, service, service_id, instance, what, wake_at)
    select '019aa1c0-0000-7000-8000-000000000001', name, service_id, 'shop-db', 'instance', now() + interval '1 day'
    from service where name = 'postgres';
    insert into saga (saga_id, kind, lane, event_id, state, data, ended_at)
    values ('019aa1c0-0000-7000-8000-000000000002', 'app.deploy', 'people', '5f3e8a1b9c4d2e0001a7b3d0', 'stuck', '{}', now());
    insert into event_lock select 'user', email, '5f3e8a1b9c4d2e0001a7b3d0' from user_account";

/// The house with everybody and everything that the walk meets.
pub(crate) struct Street {
    pub(crate) house: House,
    pub(crate) people: BTreeMap<&'static str, Person>,
    /// The tokens of the two apps: one to keep, and one for each route that ends it.
    apps: [Vec<String>; 2],
}

impl Street {
    pub(crate) async fn build() -> Self {
        let house = House::start().await;
        let mut people = BTreeMap::from([("root", house.admin().await)]);
        for name in ["ana", "bob", "rea", "late", "gone"] {
            people.insert(name, house.person(name).await);
        }
        let mut street = Self {
            house,
            people,
            apps: [Vec::new(), Vec::new()],
        };
        let service = Service::start(&street.house).await;
        street.furnish(&service.url).await;
        for _ in 0..=ENDS_CALLER.len() {
            for (at, app) in ["shop", "theirs"].into_iter().enumerate() {
                let token = street.app_token(app).await;
                street.apps[at].push(token);
            }
        }
        street.must("gone", "DELETE /1.0/users", "").await;
        let late =
            "update bearer set created_at = now() - interval '8 days', expires_at = now() - interval '1 day'
                    where user_id = (select user_id from user_account where email = 'late@example.com')";
        street.sql(late).await;
        street
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql)
            .execute(&self.house.running.core.db)
            .await
            .unwrap();
    }

    async fn furnish(&self, service: &str) {
        self.must("ana", "POST /1.0/teams", "name=web-team").await;
        self.must("bob", "POST /1.0/teams", "name=other-team").await;
        self.must(
            "ana",
            "POST /1.0/apps",
            "name=shop&platform=python&teamOwner=web-team",
        )
        .await;
        self.must(
            "bob",
            "POST /1.0/apps",
            "name=theirs&platform=python&teamOwner=other-team",
        )
        .await;
        self.must("root", "POST /1.0/roles", "name=reader&context=team")
            .await;
        for permission in ["app.read", "team.read", "service.read", "service-instance.read"] {
            let field = format!("permission={permission}");
            self.must("root", "POST /1.0/roles/reader/permissions", &field)
                .await;
        }
        self.must(
            "root",
            "POST /1.0/roles/reader/user",
            "email=rea@example.com&context=web-team",
        )
        .await;
        let entry = format!("id=postgres&username=admin&password=s3cret&team=web-team&endpoint={service}");
        self.must("root", "POST /1.0/services", &entry).await;
        let instance = "name=shop-db&plan=small&owner=web-team";
        self.must("ana", "POST /1.0/services/postgres/instances", instance)
            .await;
        // The first look at a repository makes it.
        let look = "GET /git/shop.git/info/refs";
        self.must("ana", look, "?service=git-upload-pack").await;
    }

    pub(crate) async fn must(&self, who: &str, line: &str, sends: &str) -> String {
        let (status, text) = self.send(Some(&self.people[who].token), line, sends).await;
        assert!(status < 300, "{line} {sends}: {status} {text}");
        text
    }

    async fn app_token(&self, app: &str) -> String {
        let made = self
            .must("root", "POST /tokens", &format!("{{\"client\":\"{app}\"}}"))
            .await;
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        made["token"].as_str().unwrap().to_owned()
    }

    async fn send(&self, token: Option<&str>, line: &str, sends: &str) -> (u16, String) {
        let (method, path) = line.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let (query, body) = match sends.starts_with('?') {
            true => (sends, ""),
            false => ("", sends),
        };
        let mut request = self
            .house
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

    async fn try_door(&self, who: Who, route: &Route, row: &Row, walk: &mut Walk) {
        let token = self.token(who, row).await;
        let (status, text) = self.send(token.as_deref(), &line(&row.route), &row.sends).await;
        let wanted = expected(who, route, row);
        let locked = text.contains("event locked");
        if locked {
            walk.begin.insert(row.route.clone());
        }
        let inside = locked || row.says.as_ref().is_some_and(|says| text.contains(says));
        if !wanted.is(status, inside) {
            let text: String = text.trim().chars().take(120).collect();
            walk.wrong.push(format!(
                "{who:?} {} ({:?}): wanted {wanted:?}, got {status}: {text}",
                row.route, route.door
            ));
        }
    }

    /// The token of a caller; a fresh one where it will not outlive the call.
    async fn token(&self, who: Who, row: &Row) -> Option<String> {
        let ends = ENDS_CALLER.iter().position(|route| *route == row.route);
        let nth = ends.map_or(0, |at| at + 1);
        let name = match who {
            Who::Nobody => return None,
            Who::App => return Some(self.apps[0][nth].clone()),
            Who::OtherApp => return Some(self.apps[1][nth].clone()),
            Who::Late => "late",
            Who::Gone => "gone",
            Who::Stranger => "bob",
            Who::Reader => "rea",
            Who::Member => "ana",
            Who::Admin => "root",
        };
        let person = &self.people[name];
        if ends.is_none() || matches!(who, Who::Late | Who::Gone) {
            return Some(person.token.clone());
        }
        if row.route.ends_with("/users") {
            let name = format!("brief{}", uuid::Uuid::new_v4().simple());
            return Some(self.house.person(&name).await.token);
        }
        Some(self.house.login(&person.email).await.token)
    }

    /// A digest of every table that people change: what the walk leaves as it found it.
    async fn contents(&self) -> BTreeMap<String, String> {
        let db = &self.house.running.core.db;
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
                "select md5(coalesce(string_agg(t::text, ',' order by t::text), '')) from \"{table}\" t"
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

/// Tables in which Tancho itself notes things while it runs, the count of tries at passwords, and the log, to which members and apps write.
const BUSY: &[&str] = &[
    "login_failure",
    "host",
    "router_seen",
    "seal_follower",
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
