//! The four services, each written by one document, and the calls that each expects in the life cycle of an
//! instance.

use super::*;

/// One of the four services.
pub(super) struct ServiceProgram {
    script: &'static str,
    pub(super) dialect: &'static str,
    /// To create an instance, bind, add a unit, remove a unit, unbind, delete: the verb, and the end of the
    /// path, where `{}` is the instance. The 2012 service gets no calls for units.
    pub(super) calls: [(&'static str, &'static str); 6],
    /// All calls that it expects for my-db in a life cycle with two units of which one is removed.
    pub(super) life: &'static [&'static str],
    /// The fields of the bind that it uses.
    pub(super) fields: &'static [&'static str],
    /// The response to the bind of the app shop to my-db.
    pub(super) variables: fn() -> Value,
}

const NO_CALL: (&str, &str) = ("", "");

pub(super) const Y2012: ServiceProgram = ServiceProgram {
    script: "y2012.py",
    dialect: "2012",
    calls: [
        ("POST", "/resources/"),
        ("POST", "/{}/"),
        NO_CALL,
        NO_CALL,
        ("DELETE", ":8888/"),
        ("DELETE", "/{}/"),
    ],
    life: &[
        "POST /resources",
        "POST /resources/",
        "POST /resources/my-db/bind-app",
        "POST /resources/my-db/bind",
        "POST /resources/my-db",
        "POST /resources/my-db/",
        "DELETE /resources/my-db/hostname/shop.localhost:8888/",
        "DELETE /resources/my-db/",
    ],
    fields: &["hostname"],
    variables: || json!({"ANCIENT": "yes"}),
};

pub(super) const Y2014: ServiceProgram = ServiceProgram {
    script: "y2014.py",
    dialect: "2014",
    calls: [
        ("POST", "/resources"),
        ("POST", "/{}"),
        ("POST", "/{}"),
        ("DELETE", "/10.0.0.1"),
        ("DELETE", ":8888"),
        ("DELETE", "/{}"),
    ],
    life: &[
        "POST /resources",
        "POST /resources/my-db/bind-app",
        "POST /resources/my-db/bind",
        "POST /resources/my-db",
        "POST /resources/my-db",
        "POST /resources/my-db",
        "DELETE /resources/my-db/hostname/10.0.0.1",
        "DELETE /resources/my-db/hostname/10.0.0.2",
        "DELETE /resources/my-db/hostname/shop.localhost:8888",
        "DELETE /resources/my-db",
    ],
    fields: &["unit-host", "app-host"],
    variables: || json!({"OLD": "yes", "APP": "shop.localhost:8888"}),
};

/// By the 2014 rules as well, but not in Flask.
pub(super) const NODE: ServiceProgram = ServiceProgram {
    script: "units2014.js",
    variables: || json!({"RULES": "2014", "FOR": "shop.localhost:8888"}),
    ..Y2014
};

pub(super) const TODAY: ServiceProgram = ServiceProgram {
    script: "today.py",
    dialect: "bind-app",
    calls: [
        ("POST", "/resources"),
        ("POST", "/bind-app"),
        ("POST", "/bind"),
        ("DELETE", "/bind"),
        ("DELETE", "/bind-app"),
        ("DELETE", "/{}"),
    ],
    life: &[
        "POST /resources",
        "POST /resources/my-db/bind-app",
        "POST /resources/my-db/bind",
        "POST /resources/my-db/bind",
        "DELETE /resources/my-db/bind",
        "DELETE /resources/my-db/bind",
        "DELETE /resources/my-db/bind-app",
        "DELETE /resources/my-db",
    ],
    fields: &["app-host"],
    variables: || json!({"DB_HOST": "db.test", "DB_PORT": "3306", "DB_PASSWORD": "canary-my-db"}),
};

impl ServiceProgram {
    pub(super) fn supports_units(&self) -> bool {
        self.calls[2] != NO_CALL
    }
}

/// A running program, registered as the service `db`.
pub(super) struct ProgramFixture {
    pub(super) program: ServiceProgram,
    pub(super) flask: ServiceProcess,
    pub(super) fixture: ServiceFixture,
}

impl ProgramFixture {
    pub(super) async fn new(program: ServiceProgram) -> Self {
        let flask = ServiceProcess::start(program.script);
        let fixture = ServiceFixture::with(|settings| {
            settings.services.call_timeout = Duration::from_secs(4);
            settings.services.breaker_failures = 100_000;
            settings.services.concurrency_per_service = 64;
            settings.database.max_connections = 10;
        })
        .await;
        fixture.service("db", &flask).await;
        Self {
            program,
            flask,
            fixture,
        }
    }

    async fn run(&self, sql: &str, app: Uuid) {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(app);
        query.execute(self.fixture.db()).await.unwrap();
    }

    /// Asserts that no instance is left on either side.
    pub(super) async fn assert_nothing_left(&self) {
        for table in ["unit_bind", "bind", "service_instance"] {
            self.fixture.wait_for_rows(table, 0).await;
        }
        self.fixture.wait_until_settled().await;
        assert_eq!(self.fixture.count("bind_env").await, 0);
        let state = self.flask.get("/__state").await;
        assert_eq!(state["instances"], json!({}), "{state}");
        for part in ["binds", "units"] {
            let left = state[part].as_object().unwrap().values().any(|v| *v != json!([]));
            assert!(!left, "{state}");
        }
    }
}

/// An instance in its life cycle, and an app to bind, which has a release but no units.
pub(super) struct InstanceLife<'a> {
    pub(super) setup: &'a ProgramFixture,
    pub(super) instance: String,
    pub(super) app: String,
    id: Uuid,
}

impl<'a> InstanceLife<'a> {
    pub(super) async fn new(setup: &'a ProgramFixture, instance: &str, app: &str) -> Self {
        let id = setup.fixture.app(app, "red").await;
        for sql in [
            "insert into version (app_id, version, host) values ($1, 1, 'elsewhere')",
            "insert into release (app_id, version, env, user_env) values ($1, 1, '', '')",
        ] {
            setup.run(sql, id).await;
        }
        Self {
            setup,
            instance: instance.to_owned(),
            app: app.to_owned(),
            id,
        }
    }

    async fn ask(&self, verb: &str, below: &str) -> (StatusCode, String) {
        let path = format!("/services/instances/{}{below}", self.instance);
        self.setup.fixture.send_request("ana", verb, &path, "").await
    }

    /// Runs the step that makes this one of the program's calls.
    pub(super) async fn make_call(&self, call: usize) -> (StatusCode, String) {
        let well = (StatusCode::OK, String::new());
        let app = format!("/{}", self.app);
        match call {
            0 => {
                let new = json!({ "name": self.instance, "service_name": "db" }).to_string();
                self.setup
                    .fixture
                    .send_request("ana", "POST", "/services/instances", new)
                    .await
            }
            1 => self.ask("PUT", &app).await,
            2 => {
                self.insert_unit(1).await;
                well
            }
            3 => {
                let sql = "delete from unit where address like '10.0.0.1:%' and app_id = $1";
                self.setup.run(sql, self.id).await;
                well
            }
            4 => self.ask("DELETE", &app).await,
            _ => self.ask("DELETE", "").await,
        }
    }

    /// Inserts a serving unit on another host, so that this host's reconciler leaves it alone.
    pub(super) async fn insert_unit(&self, number: u8) {
        let sql = format!(
            "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
             select '{}-{number}', $1, release_id, 'web', 1, 'elsewhere', 'serving', '10.0.0.{number}:4001'
             from release where app_id = $1",
            self.app
        );
        self.setup.run(&sql, self.id).await;
    }

    pub(super) async fn remove_units(&self) {
        self.setup
            .run("delete from unit where app_id = $1", self.id)
            .await;
    }

    /// Restricts a table and its condition to this app.
    pub(super) fn filter_by_app(&self, table: &str, condition: &str) -> String {
        format!(
            "{table} x join bind b using (bind_id) where b.app_id = '{}' and {condition}",
            self.id
        )
    }

    /// Waits until the service is notified of so many units, and no notification is open.
    pub(super) async fn wait_for_told_units(&self, units: i64) {
        let units = if self.setup.program.supports_units() {
            units
        } else {
            0
        };
        let fixture = &self.setup.fixture;
        fixture
            .wait_for_rows(&self.filter_by_app("unit_bind", "x.state = 'bound'"), units)
            .await;
        fixture
            .wait_for_rows(&self.filter_by_app("unit_bind", "x.state <> 'bound'"), 0)
            .await;
    }

    /// Returns the condition for binds in this state.
    pub(super) fn binds(&self, state: &str) -> String {
        format!("bind where app_id = '{}' and state = '{state}'", self.id)
    }

    /// Returns the calls about this instance so far that change something.
    pub(super) async fn calls(&self) -> Vec<Value> {
        let log = self.setup.flask.get("/__log").await;
        let mine = |call: &&Value| {
            let line = call["call"].as_str().unwrap();
            let named = line.split('/').nth(2).is_some_and(|name| name == self.instance);
            !line.starts_with("GET") && (named || call["form"]["name"] == json!([self.instance]))
        };
        log.as_array().unwrap().iter().filter(mine).cloned().collect()
    }
}
