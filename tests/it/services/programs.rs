//! The four services, each written as one document has it, and what it has to be asked in the life of an
//! instance.

use super::*;

/// One of the four.
pub(super) struct Program {
    script: &'static str,
    pub(super) dialect: &'static str,
    /// To make an instance, bind, tell of a unit, tell that it went, unbind, remove: the verb, and how the
    /// path ends, where `{}` is the instance. The 2012 one is not told of units.
    pub(super) calls: [(&'static str, &'static str); 6],
    /// Everything that it has to be asked about my-db in a life with two units of which one goes.
    pub(super) life: &'static [&'static str],
    /// The fields of the bind that it goes by.
    pub(super) fields: &'static [&'static str],
    /// What it answers to the bind of the app shop to my-db.
    pub(super) variables: fn() -> Value,
}

const UNTOLD: (&str, &str) = ("", "");

pub(super) const Y2012: Program = Program {
    script: "y2012.py",
    dialect: "2012",
    calls: [
        ("POST", "/resources/"),
        ("POST", "/{}/"),
        UNTOLD,
        UNTOLD,
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

pub(super) const Y2014: Program = Program {
    script: "y2014.py",
    dialect: "2014",
    calls: [
        ("POST", "/resources"),
        ("POST", "/{}"),
        ("POST", "/{}"),
        ("DELETE", ":4001"),
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
        "DELETE /resources/my-db/hostname/10.0.0.1:4001",
        "DELETE /resources/my-db/hostname/10.0.0.1:4002",
        "DELETE /resources/my-db/hostname/shop.localhost:8888",
        "DELETE /resources/my-db",
    ],
    fields: &["unit-host", "app-host"],
    variables: || json!({"OLD": "yes", "APP": "shop.localhost:8888"}),
};

/// By the rules of 2014 as well, but no Flask.
pub(super) const NODE: Program = Program {
    script: "units2014.js",
    variables: || json!({"RULES": "2014", "FOR": "shop.localhost:8888"}),
    ..Y2014
};

pub(super) const TODAY: Program = Program {
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

impl Program {
    pub(super) fn hears_of_units(&self) -> bool {
        self.calls[2] != UNTOLD
    }
}

/// A program at work as the service `db`.
pub(super) struct Stage {
    pub(super) program: Program,
    pub(super) flask: Flask,
    pub(super) scene: Scene,
}

impl Stage {
    pub(super) async fn new(program: Program) -> Self {
        let flask = Flask::start(program.script);
        let scene = Scene::with(|settings| {
            settings.services.timeout = Duration::from_secs(4);
            settings.services.breaker_failures = 100_000;
            settings.services.concurrency_per_service = 64;
            settings.database.max_connections = 10;
        })
        .await;
        scene.service("db", &flask).await;
        Self {
            program,
            flask,
            scene,
        }
    }

    async fn run(&self, sql: &str, app: Uuid) {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(app);
        query.execute(self.scene.db()).await.unwrap();
    }

    /// Nothing of any instance is anywhere: not here, not there.
    pub(super) async fn assert_nothing_left(&self) {
        for table in ["unit_bind", "bind", "service_instance"] {
            self.scene.until(table, 0).await;
        }
        self.scene.settled().await;
        assert_eq!(self.scene.count("bind_env").await, 0);
        let state = self.flask.get("/__state").await;
        assert_eq!(state["instances"], json!({}), "{state}");
        for part in ["binds", "units"] {
            let left = state[part].as_object().unwrap().values().any(|v| *v != json!([]));
            assert!(!left, "{state}");
        }
    }
}

/// An instance in its life, and an app to be bound to it, which has a release but no units.
pub(super) struct Life<'a> {
    pub(super) stage: &'a Stage,
    pub(super) instance: String,
    pub(super) app: String,
    id: Uuid,
}

impl<'a> Life<'a> {
    pub(super) async fn new(stage: &'a Stage, instance: &str, app: &str) -> Self {
        let id = stage.scene.app(app, "red").await;
        for sql in [
            "insert into version (app_id, version, host) values ($1, 1, 'elsewhere')",
            "insert into release (app_id, version, env, user_env) values ($1, 1, '', '')",
        ] {
            stage.run(sql, id).await;
        }
        Self {
            stage,
            instance: instance.to_owned(),
            app: app.to_owned(),
            id,
        }
    }

    async fn ask(&self, verb: &str, below: &str) -> (StatusCode, String) {
        let path = format!("/services/instances/{}{below}", self.instance);
        self.stage.scene.ask("ana", verb, &path, "").await
    }

    /// Does the step that makes this one of the program's calls.
    pub(super) async fn step(&self, call: usize) -> (StatusCode, String) {
        let well = (StatusCode::OK, String::new());
        let app = format!("/{}", self.app);
        match call {
            0 => {
                let new = json!({ "name": self.instance, "service_name": "db" }).to_string();
                self.stage
                    .scene
                    .ask("ana", "POST", "/services/instances", new)
                    .await
            }
            1 => self.ask("PUT", &app).await,
            2 => {
                self.unit(1).await;
                well
            }
            3 => {
                let sql = "delete from unit where address like '%:4001' and app_id = $1";
                self.stage.run(sql, self.id).await;
                well
            }
            4 => self.ask("DELETE", &app).await,
            _ => self.ask("DELETE", "").await,
        }
    }

    /// A unit that serves, on another host, so that this one's reconciler leaves it alone.
    pub(super) async fn unit(&self, number: u8) {
        let sql = format!(
            "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
             select '{}-{number}', $1, release_id, 'web', 1, 'elsewhere', 'serving', '10.0.0.1:400{number}'
             from release where app_id = $1",
            self.app
        );
        self.stage.run(&sql, self.id).await;
    }

    pub(super) async fn units_go(&self) {
        self.stage
            .run("delete from unit where app_id = $1", self.id)
            .await;
    }

    /// A table with its condition, only what is of this app.
    pub(super) fn of_app(&self, table: &str, condition: &str) -> String {
        format!(
            "{table} x join bind b using (bind_id) where b.app_id = '{}' and {condition}",
            self.id
        )
    }

    /// Waits until the service has been told of so many units, and has nothing more to be told.
    pub(super) async fn told(&self, units: i64) {
        let units = if self.stage.program.hears_of_units() {
            units
        } else {
            0
        };
        let scene = &self.stage.scene;
        scene
            .until(&self.of_app("unit_bind", "x.state = 'bound'"), units)
            .await;
        scene
            .until(&self.of_app("unit_bind", "x.state <> 'bound'"), 0)
            .await;
    }

    /// How many binds it has in this state.
    pub(super) fn binds(&self, state: &str) -> String {
        format!("bind where app_id = '{}' and state = '{state}'", self.id)
    }

    /// The calls about this instance so far that change something.
    pub(super) async fn calls(&self) -> Vec<Value> {
        let log = self.stage.flask.get("/__log").await;
        let mine = |call: &&Value| {
            let line = call["call"].as_str().unwrap();
            let named = line.split('/').nth(2).is_some_and(|name| name == self.instance);
            !line.starts_with("GET") && (named || call["form"]["name"] == json!([self.instance]))
        };
        log.as_array().unwrap().iter().filter(mine).cloned().collect()
    }
}
