//! `tancho keys` beside a running server: killed during a rotation, run again, and the state afterwards.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Method;
use sqlx::{Connection, PgConnection};

use crate::cluster::PostgresCluster;
use crate::test_instance::TestInstance;

/// Variables of the app: enough for a kill in the middle.
const VARIABLES: usize = 900;

impl TestInstance {
    fn key_numbers(&self) -> Vec<String> {
        let text = fs::read_to_string(self.data.join("seal.keys")).unwrap();
        text.lines()
            .map(|line| line.split(':').next().unwrap().to_owned())
            .collect()
    }

    /// Returns the lines of `tancho keys list`.
    fn list_keys(&self) -> Vec<String> {
        let output = self.run(&["keys", "list"]);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && complaint.is_empty(), "{complaint}");
        String::from_utf8(output.stdout)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    async fn assert_variables(&self) {
        let list = self.read_json("/1.0/apps/shop/env").await;
        let found = list.as_array().unwrap().iter();
        let ours = found.filter(|var| var["value"].as_str().unwrap().starts_with("canary-"));
        assert_eq!(ours.count(), VARIABLES);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_key_rotation_is_finished_by_the_next_one() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let mut form = vec![("NoRestart".to_owned(), "true".to_owned())];
    for n in 0..VARIABLES {
        form.push((format!("Envs.{n}.Name"), format!("VAR_{n}")));
        form.push((format!("Envs.{n}.Value"), format!("canary-{n}")));
    }
    let answer = tancho
        .request_as_admin(Method::POST, "/1.0/apps/shop/env")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let _ = answer.text().await;
    assert_eq!(tancho.key_numbers(), ["1"]);
    assert_eq!(tancho.list_keys()[0], "key 1, current");
    // Killed as soon as the new key is current: the server has it, most values are still encrypted with the
    // old one.
    let mut command = tancho.command(&["keys", "rotate"]);
    let mut rotation = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(rotation.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "key 2 is the current key"));
    rotation.kill().unwrap();
    rotation.wait().unwrap();
    assert_eq!(
        tancho.key_numbers(),
        ["1", "2"],
        "the old key stays until nothing needs it"
    );
    tancho.assert_variables().await;
    tancho.set_env("shop", "BETWEEN", "canary").await;
    let output = tancho.run(&["keys", "rotate"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}{complaint}");
    assert!(
        said.contains("env_var.value: 0 values are left under other keys"),
        "{said}"
    );
    assert_eq!(tancho.key_numbers(), ["2"]);
    let list = tancho.list_keys();
    assert!(list.iter().all(|line| !line.starts_with("key 1")), "{list:?}");
    let text = fs::read_to_string(tancho.data.join("seal.keys")).unwrap();
    let digits = text.trim().split(':').nth(1).unwrap();
    assert!(
        !format!("{list:?}{said}{}", tancho.log()).contains(digits),
        "a key was shown"
    );
    tancho.assert_variables().await;
    tancho.kill();
    tancho.serve();
    tancho.login().await;
    tancho.assert_variables().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_command_refuses_a_schema_of_another_release() {
    let mut tancho = TestInstance::new_empty();
    let cluster = PostgresCluster::start(PathBuf::from(format!("{}-pg", tancho.root.display())));
    let url = cluster.url("postgres");
    tancho.set("DATABASE_URL", &url);
    let mut db = PgConnection::connect(&url).await.unwrap();
    let refused = async |tancho: &TestInstance, db: &mut PgConnection, words: &str| {
        let tables = "select count(*) from pg_class where relkind = 'r' and relname !~ '^(pg|sql)_'";
        let before: i64 = sqlx::query_scalar(tables).fetch_one(&mut *db).await.unwrap();
        for verb in ["list", "rotate"] {
            let output = tancho.run(&["keys", verb]);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{verb}");
            assert!(
                said.starts_with("tancho: ") && said.contains(words),
                "{verb}: {said}"
            );
            assert_eq!(said.lines().count(), 1, "{verb}: {said}");
        }
        let after: i64 = sqlx::query_scalar(tables).fetch_one(&mut *db).await.unwrap();
        assert_eq!(before, after, "nothing is made");
    };
    let first = "start a server of this release first";
    refused(&tancho, &mut db, first).await;
    tancho.serve();
    assert_eq!(tancho.list_keys()[0], "key 1, current");
    // As an older Tancho has left it.
    cluster
        .sql(
            "postgres",
            "create table newest as select * from _sqlx_migrations order by version desc limit 1",
        )
        .await;
    cluster
        .sql(
            "postgres",
            "delete from _sqlx_migrations where version = (select version from newest)",
        )
        .await;
    refused(&tancho, &mut db, first).await;
    let count = "select count(*) from _sqlx_migrations where version = (select version from newest)";
    let there: i64 = sqlx::query_scalar(count).fetch_one(&mut db).await.unwrap();
    assert_eq!(there, 0, "it is not migrated");
    cluster
        .sql("postgres", "insert into _sqlx_migrations select * from newest")
        .await;
    let future = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                  values (9999, 'of the future', true, '\\x00', 1)";
    cluster.sql("postgres", future).await;
    refused(&tancho, &mut db, "use the newer binary").await;
    cluster
        .sql("postgres", "delete from _sqlx_migrations where version = 9999")
        .await;
    assert_eq!(tancho.list_keys()[0], "key 1, current");
    drop(tancho);
}
