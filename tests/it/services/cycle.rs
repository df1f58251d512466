//! The four services, each written as one document has it, through a whole life, with the calls that they
//! have to see.

use super::*;

const INSTANCE: &str = "/services/instances/my-db";
const BIND: &str = "/services/instances/my-db/shop";

/// One of the four.
struct Program {
    script: &'static str,
    dialect: &'static str,
    /// The end of the path that binds an app.
    bind: &'static str,
    hears_of_units: bool,
    /// Everything that it has to be asked in a life with two units of which one goes.
    life: &'static [&'static str],
    /// The fields of the bind that it goes by.
    fields: &'static [&'static str],
}

const APP: &str = "shop.localhost:8888";

const Y2012: Program = Program {
    script: "y2012",
    dialect: "2012",
    bind: "/my-db/",
    hears_of_units: false,
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
};

const PER_UNIT_LIFE: &[&str] = &[
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
];

const Y2014: Program = Program {
    script: "y2014",
    dialect: "2014",
    bind: "/my-db",
    hears_of_units: true,
    life: PER_UNIT_LIFE,
    fields: &["unit-host", "app-host"],
};

const NODE: Program = Program {
    script: "units2014.js",
    ..Y2014
};

const TODAY: Program = Program {
    script: "today",
    dialect: "bind-app",
    bind: "/bind-app",
    hears_of_units: true,
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
};

/// A program at work, and an app that has a release but no units.
struct Stage {
    program: Program,
    flask: Flask,
    scene: Scene,
    app: Uuid,
}

impl Stage {
    async fn new(program: Program) -> Self {
        let flask = match program.script {
            "units2014.js" => Flask::node(),
            script => Flask::start(script).await,
        };
        let scene = Scene::with(|settings| {
            settings.services.timeout = Duration::from_secs(3);
            settings.services.breaker_failures = 100_000;
        })
        .await;
        let app = scene.app("shop", "red").await;
        scene.service("db", &flask).await;
        let stage = Self {
            program,
            flask,
            scene,
            app,
        };
        stage
            .run("insert into version (app_id, version, host) values ($1, 1, 'elsewhere')")
            .await;
        stage
            .run("insert into release (app_id, version, env, user_env) values ($1, 1, '', '')")
            .await;
        stage
    }

    async fn run(&self, sql: &str) {
        let query = sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).bind(self.app);
        query.execute(self.scene.db()).await.unwrap();
    }

    /// A unit that serves, on another host, so that this one's reconciler leaves it alone.
    async fn unit(&self, number: u8) {
        self.run(&format!(
            "insert into unit (unit_id, app_id, release_id, process, version, host, phase, address)
             select 'u{number}', $1, release_id, 'web', 1, 'elsewhere', 'serving', '10.0.0.1:400{number}'
             from release where app_id = $1"
        ))
        .await;
    }

    async fn create(&self) -> (StatusCode, String) {
        let new = r#"{"name":"my-db","service_name":"db"}"#;
        self.scene.ask("ana", "POST", "/services/instances", new).await
    }

    async fn told(&self, units: i64) {
        let units = if self.program.hears_of_units { units } else { 0 };
        self.scene.until("unit_bind where state = 'bound'", units).await;
        self.scene.until("unit_bind where state <> 'bound'", 0).await;
    }

    /// Nothing of the instance is anywhere: not here, not there.
    async fn assert_nothing_left(&self, when: &str) {
        self.scene.until("unit_bind", 0).await;
        self.scene.until("bind", 0).await;
        self.scene.until("service_instance", 0).await;
        self.scene.settled().await;
        assert_eq!(self.scene.count("bind_env").await, 0, "{when}");
        let state = self.flask.get("/__state").await;
        assert_eq!(state["instances"], json!({}), "{when}: {state}");
        for part in ["binds", "units"] {
            let left = state[part].as_object().unwrap().values().any(|v| *v != json!([]));
            assert!(!left, "{when}: {state}");
        }
    }
}

async fn lives(program: Program) {
    let stage = Stage::new(program).await;
    let scene = &stage.scene;
    assert_eq!(stage.create().await.0, 200);
    let bound = parsed(&scene.ok("PUT", BIND, "").await);
    assert!(!bound.as_object().unwrap().is_empty());
    let known = format!("service where dialect = '{}'", stage.program.dialect);
    assert_eq!(scene.count(&known).await, 1);
    let way = stage.program.bind;
    let calls = stage.flask.get("/__log").await;
    let bind = calls
        .as_array()
        .unwrap()
        .iter()
        .rfind(|c| c["call"].as_str().unwrap().ends_with(way));
    for field in stage.program.fields {
        assert_eq!(bind.unwrap()["form"][field], json!([APP]), "{field}");
    }
    // Two units come, one goes.
    for number in [1, 2] {
        stage.unit(number).await;
        stage.told(number.into()).await;
    }
    stage
        .run("delete from unit where unit_id = 'u1' and app_id = $1")
        .await;
    stage.told(1).await;
    scene.ok("DELETE", BIND, "").await;
    scene.ok("DELETE", INSTANCE, "").await;
    stage.assert_nothing_left("at the end").await;
    let calls: Vec<String> = stage.flask.calls().await;
    let calls: Vec<&String> = calls.iter().filter(|c| !c.starts_with("GET")).collect();
    assert_eq!(calls, stage.program.life);
    let log = stage.flask.get("/__log").await;
    for call in log.as_array().unwrap() {
        assert_eq!(
            (&call["user"], &call["password"]),
            (&json!("db"), &json!("pw-canary"))
        );
    }
    stage.scene.end().await;
}

#[tokio::test]
async fn a_service_of_2012_lives_as_its_document_says() {
    lives(Y2012).await;
}

#[tokio::test]
async fn a_service_of_2014_lives_as_its_document_says() {
    lives(Y2014).await;
}

#[tokio::test]
async fn a_service_by_the_rules_of_2014_in_another_language_lives_as_they_say() {
    lives(NODE).await;
}

#[tokio::test]
async fn a_service_of_today_lives_as_its_document_says() {
    lives(TODAY).await;
}
