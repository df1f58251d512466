//! The keys that seal, changed at work: on two servers at once, with somebody in the way, after a kill.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};
use tancho::kernel::seal::{Column, Keyring, Place};
use tancho::kernel::secret::Secret;
use tancho::sealing::{self, Rotation, Source};
use tokio_util::sync::CancellationToken;

use crate::house::{House, Person};

/// Columns of bytes that hold digests: nothing in them has to be opened again.
const DIGESTS: &[&str] = &[
    "_sqlx_migrations.checksum",
    "bearer.digest",
    "forge_delivery.digest",
    "password_reset.digest",
];

/// A file of keys, gone with its test.
struct KeyFile(PathBuf);

impl KeyFile {
    fn new(text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tancho-it-keys-{}", uuid::Uuid::new_v4()));
        let file = Self(path);
        file.write(text);
        file
    }

    fn write(&self, text: &str) {
        let aside = self.0.with_extension("aside");
        std::fs::write(&aside, text).unwrap();
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::rename(&aside, &self.0).unwrap();
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }

    fn source(&self) -> Source {
        Source::File(self.0.clone())
    }

    fn ring(&self) -> Keyring {
        Keyring::parse(&self.text()).unwrap()
    }
}

impl Drop for KeyFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

async fn house_with(file: &Path) -> House {
    House::with(|settings| settings.secrets.key_file = file.to_owned()).await
}

/// Rotates; what was said.
async fn rotate(house: &House, file: &KeyFile, patience: u64) -> Result<Vec<String>, String> {
    let said = Mutex::new(Vec::new());
    let rotation = Rotation {
        db: &house.running.core.db,
        source: &file.source(),
        patience: Duration::from_secs(patience),
        say: &|line: &str| said.lock().unwrap().push(line.to_owned()),
    };
    let done = sealing::rotate(&rotation).await;
    let said = said.into_inner().unwrap();
    match done {
        Ok(()) => Ok(said),
        Err(problem) => Err(format!("{} ({said:?})", problem.chain())),
    }
}

/// All sealed values there are, with their places.
async fn sealed(house: &House) -> Vec<(Column, Place, Vec<u8>)> {
    let mut found = Vec::new();
    for column in Column::ALL {
        let Column { table, name, row, .. } = *column;
        let row: Vec<String> = row.iter().map(|part| format!("{part}::text")).collect();
        let sql = format!(
            "select array[{}], {name} from {table} where {name} is not null",
            row.join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&house.running.core.db)
            .await
            .unwrap();
        for found_row in rows {
            let parts: Vec<String> = found_row.get(0);
            let parts: Vec<&dyn std::fmt::Display> =
                parts.iter().map(|part| part as &dyn std::fmt::Display).collect();
            found.push((*column, Place::new(*column, &parts), found_row.get(1)));
        }
    }
    found
}

/// Something sealed in every column: through the API where that is one call, else straight into the table.
async fn plant(house: &House) -> Person {
    let root = house.admin().await;
    house.team(&root, "crew").await;
    let app = json!({ "name": "shop", "platform": "python", "teamOwner": "crew" });
    for (method, path, body) in [
        (Method::POST, "/1.0/apps", app),
        (
            Method::POST,
            "/1.0/services",
            json!({ "id": "store", "username": "u", "password": "canary-service", "team": "crew",
                    "endpoint": "http://127.0.0.1:1" }),
        ),
        (Method::POST, "/1.0/users/api-key", json!({})),
    ] {
        let (status, text) = house.ask(&root, method, path, Some(body)).await;
        assert!((200..300).contains(&status), "{path}: {status} {text}");
    }
    set(house, &root, "PASSWORD", "canary-0").await;
    let keys = &house.running.core.keys;
    let db = &house.running.core.db;
    let app: uuid::Uuid = sqlx::query_scalar("select app_id from app")
        .fetch_one(db)
        .await
        .unwrap();
    let (bind, letter) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let seal = |column, row: &[&dyn std::fmt::Display]| {
        keys.seal(&Place::new(column, row), &Secret::new("canary-planted"))
    };
    sqlx::query("insert into service_instance (instance_id, service_id, name, team_owner) select $1, service_id, 'db', 'crew' from service")
        .bind(bind).execute(db).await.unwrap();
    sqlx::query("insert into bind (bind_id, instance_id, app_id) values ($1, $1, $2)")
        .bind(bind)
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into bind_env (bind_id, name, value) values ($1, 'DB', $2)")
        .bind(bind)
        .bind(seal(Column::BIND_ENV, &[&bind, &"DB"]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into version (app_id, version) values ($1, 7)")
        .bind(app)
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into release (app_id, version, env, user_env) values ($1, 7, $2, $3)")
        .bind(app)
        .bind(seal(Column::RELEASE_ENV, &[&app, &7]))
        .bind(seal(Column::RELEASE_USER_ENV, &[&app, &7]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into letter (letter_id, sealed) values ($1, $2)")
        .bind(letter)
        .bind(seal(Column::LETTER, &[&letter]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into ssh_host_key (sealed) values ($1)")
        .bind(seal(Column::SSH_HOST_KEY, &[&true]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into forge (app_id, url, branch, secret, password, deploy_key) values ($1, '', 'main', $2, $3, $4)")
        .bind(app)
        .bind(seal(Column::FORGE_SECRET, &[&app]))
        .bind(seal(Column::FORGE_PASSWORD, &[&app]))
        .bind(seal(Column::FORGE_DEPLOY_KEY, &[&app]))
        .execute(db)
        .await
        .unwrap();
    let found = sealed(house).await;
    for column in Column::ALL {
        assert!(
            found.iter().any(|(c, ..)| c == column),
            "nothing is planted in {column}"
        );
    }
    root
}

async fn set(house: &House, who: &Person, name: &str, value: &str) {
    let body = json!({ "envs": [{ "name": name, "value": value, "private": true }], "norestart": true });
    let (status, text) = house
        .ask(who, Method::POST, "/1.0/apps/shop/env", Some(body))
        .await;
    assert!(
        status == 200 && !text.contains("\"Error\""),
        "{name}: {status} {text}"
    );
}

async fn value(house: &House, who: &Person, name: &str) -> String {
    let found = house.read(who, &format!("/1.0/apps/shop/env?env={name}")).await;
    found[0]["value"]
        .as_str()
        .unwrap_or_else(|| panic!("{found}"))
        .to_owned()
}

#[tokio::test]
async fn every_sealed_column_is_in_the_table() {
    let house = House::start().await;
    let db = &house.running.core.db;
    let bytes: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name from information_schema.columns
         where table_schema = 'public' and data_type = 'bytea' order by 1",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let table: Vec<String> = Column::ALL.iter().map(ToString::to_string).collect();
    let mut known: Vec<&str> = table
        .iter()
        .map(String::as_str)
        .chain(DIGESTS.iter().copied())
        .collect();
    known.sort_unstable();
    assert_eq!(
        bytes, known,
        "a column of bytes is sealed (then it belongs into Column::ALL, src/kernel/seal.rs, with a trigger) or a digest"
    );
    // Each has its bolt against keys that are going.
    let bolts: Vec<String> = sqlx::query_scalar(
        "select tgrelid::regclass || '.' || attname from pg_trigger join pg_proc on pg_proc.oid = tgfoid
         join pg_attribute on attrelid = tgrelid and attnum = any(tgattr) where proname = 'seal_is_retired' order by 1",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut sorted = table.clone();
    sorted.sort();
    assert_eq!(bolts, sorted);
    house.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_key_seals_everything_while_servers_go_on() {
    let file = KeyFile::new(&format!("# ours\n1:{}\n", "11".repeat(32)));
    let house = house_with(&file.0).await;
    let root = plant(&house).await;
    let other = house
        .beside(|settings| settings.secrets.key_file = file.0.clone())
        .await;
    let before = sealed(&house).await;
    let plain: BTreeMap<String, String> = before
        .iter()
        .map(|(_, place, bytes)| {
            (
                format!("{place:?}"),
                file.ring().open(place, bytes).unwrap().expose().to_owned(),
            )
        })
        .collect();
    // Two who write and read all the while, each through the other's server.
    let enough = CancellationToken::new();
    let busy = async {
        let mut rounds = 0;
        while !enough.is_cancelled() || rounds < 3 {
            rounds += 1;
            let text = format!("canary-{rounds}");
            set(&house, &root, "PASSWORD", &text).await;
            assert_eq!(value(&other, &root, "PASSWORD").await, text);
            set(&other, &root, "OTHER", &text).await;
            assert_eq!(value(&house, &root, "OTHER").await, text);
        }
    };
    let rotating = async {
        let said = rotate(&house, &file, 60).await;
        enough.cancel();
        said.unwrap()
    };
    let ((), said) = tokio::join!(busy, rotating);
    for column in Column::ALL {
        let line = format!("{column}: 0 left under other keys");
        assert!(said.contains(&line), "{line} is not in {said:?}");
    }
    // The old key is gone, and so is what was sealed with it; everything there is now opens with the new one.
    let ring = file.ring();
    assert_eq!(ring.ids(), [2]);
    assert!(file.text().starts_with("# ours\n"));
    for (column, place, bytes) in before {
        assert!(
            ring.open(&place, &bytes).is_err(),
            "an old value of {column} opens with the new key"
        );
    }
    for (column, place, bytes) in sealed(&house).await {
        let opened = ring
            .open(&place, &bytes)
            .unwrap_or_else(|problem| panic!("{column}: {}", problem.chain()));
        if column != Column::ENV_VAR {
            assert_eq!(opened.expose(), plain[&format!("{place:?}")], "{column}");
        }
    }
    // Whoever still had the old key could write nothing with it.
    let app: uuid::Uuid = sqlx::query_scalar("select app_id from app")
        .fetch_one(&house.running.core.db)
        .await
        .unwrap();
    let old = Keyring::parse(&format!("1:{}", "11".repeat(32))).unwrap();
    let bytes = old.seal(&Place::new(Column::ENV_VAR, &[&app, &"LATE"]), &Secret::new("x"));
    let late =
        sqlx::query("insert into env_var (app_id, name, value, is_public) values ($1, 'LATE', $2, false)")
            .bind(app)
            .bind(bytes)
            .execute(&house.running.core.db)
            .await
            .unwrap_err();
    assert_eq!(late.as_database_error().unwrap().code().as_deref(), Some("40001"));
    // It left its event, and the list has the numbers and no key.
    let events = house.read(&root, "/1.1/events?kindname=sealing-key.rotate").await;
    assert!(events.as_array().unwrap().len() >= 2, "{events}");
    let list = sealing::list(&house.running.core.db, &file.source())
        .await
        .unwrap();
    assert_eq!(list[0], "key 2, seals");
    assert!(list.contains(&"  service.password: 1".to_owned()), "{list:?}");
    assert_eq!(
        list.iter().filter(|line| line.starts_with("  known to")).count(),
        2,
        "{list:?}"
    );
    other.running.stop().await;
    house.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_the_new_key_stops_a_rotation_and_nothing_is_lost() {
    let first = format!("1:{}\n", "11".repeat(32));
    let file = KeyFile::new(&first);
    let copy = KeyFile::new(&first);
    let house = house_with(&file.0).await;
    let root = plant(&house).await;
    let other = house
        .beside(|settings| settings.secrets.key_file = copy.0.clone())
        .await;
    // Wait until it has said which keys it has: only then it counts.
    while sealing::list(&house.running.core.db, &file.source())
        .await
        .unwrap()
        .iter()
        .filter(|l| l.contains("known to"))
        .count()
        < 2
    {
        tokio::task::yield_now().await;
    }
    let words = rotate(&house, &file, 1).await.unwrap_err();
    assert!(
        words.contains("does not have key 2") && words.contains("copy the key file"),
        "{words}"
    );
    set(&house, &root, "PASSWORD", "canary-1").await;
    assert_eq!(value(&other, &root, "PASSWORD").await, "canary-1");
    copy.write(&file.text());
    let said = rotate(&house, &file, 60).await.unwrap();
    assert!(said.contains(&"going on with key 2".to_owned()), "{said:?}");
    assert_eq!(value(&other, &root, "PASSWORD").await, "canary-1");
    other.running.stop().await;
    house.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_goes_on_where_another_one_was_killed() {
    let file = KeyFile::new(&format!("1:{}\n", "11".repeat(32)));
    let house = house_with(&file.0).await;
    let root = plant(&house).await;
    // Killed when the new key sealed, and nothing was sealed anew.
    file.write(&format!("{}2:{}\n", file.text(), "22".repeat(32)));
    let db = &house.running.core.db;
    sqlx::query("update seal_state set current_key = 2")
        .execute(db)
        .await
        .unwrap();
    let said = rotate(&house, &file, 60).await.unwrap();
    assert!(
        said.contains(&"finishing the change to key 2".to_owned()),
        "{said:?}"
    );
    assert_eq!(file.ring().ids(), [2]);
    assert_eq!(value(&house, &root, "PASSWORD").await, "canary-0");
    // What does not open stays, and so does its key.
    sqlx::query("update service set password = set_byte(password, 20, get_byte(password, 20) # 1)")
        .execute(db)
        .await
        .unwrap();
    let words = rotate(&house, &file, 2).await.unwrap_err();
    assert!(
        words.contains("1 values are still sealed") && words.contains("service.password"),
        "{words}"
    );
    assert_eq!(file.ring().ids(), [2, 3]);
    house.running.stop().await;
}

#[tokio::test]
async fn a_server_without_the_key_that_seals_does_not_start() {
    let file = KeyFile::new(&format!("1:{}\n", "11".repeat(32)));
    let house = house_with(&file.0).await;
    sqlx::query("update seal_state set current_key = 4")
        .execute(&house.running.core.db)
        .await
        .unwrap();
    let problem = sealing::join(&house.running.core).await.unwrap_err();
    assert!(
        problem.words().contains("sealed with key 4"),
        "{}",
        problem.words()
    );
    house.running.stop().await;
}
