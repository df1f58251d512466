//! Rotation of encryption keys on a running system: with two servers, with a blocked row, after a kill.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use sqlx::{AssertSqlSafe, Row as _};
use tancho::kernel::encryption::{AssociatedData, Keyring, SealedColumn};
use tancho::kernel::secret::Secret;
use tancho::key_rotation::{self, KeyRotation, KeySource};
use tokio_util::sync::CancellationToken;

use crate::test_server::{TestServer, TestUser};

/// Binary columns with digests, which are never decrypted.
const DIGESTS: &[&str] = &[
    "_sqlx_migrations.checksum",
    "access_token.digest",
    "encryption_key.digest",
    "forge_delivery.digest",
    "password_reset.digest",
];

/// Binary columns that are stored as they are.
const PLAIN: &[&str] = &[
    // Scripts that operators upload, as they are on the disk of every host that builds.
    "platform_version.archive",
    // What a user uploads to be built, as it is on the disk of a worker.
    "uploaded_archive_chunk.content",
];

/// A key file, removed with its test.
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

    fn source(&self) -> KeySource {
        KeySource::File(self.0.clone())
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

async fn start_with_keys(file: &Path) -> TestServer {
    TestServer::start_with(|settings| settings.secrets.key_file = file.to_owned()).await
}

/// Rotates the keys; returns the output.
async fn rotate(tancho: &TestServer, file: &KeyFile, patience: u64) -> Result<Vec<String>, String> {
    let said = Mutex::new(Vec::new());
    let rotation = KeyRotation {
        db: &tancho.running.core.db,
        source: &file.source(),
        wait_limit: Duration::from_secs(patience),
        report: &|line: &str| said.lock().unwrap().push(line.to_owned()),
    };
    let done = key_rotation::rotate_keys(&rotation).await;
    let said = said.into_inner().unwrap();
    match done {
        Ok(()) => Ok(said),
        Err(error) => Err(format!("{} ({said:?})", error.report())),
    }
}

/// Returns all encrypted values with their associated data.
async fn list_sealed_values(tancho: &TestServer) -> Vec<(SealedColumn, AssociatedData, Vec<u8>)> {
    let mut found = Vec::new();
    for column in SealedColumn::ALL {
        let SealedColumn {
            table,
            name,
            key_columns: row,
            ..
        } = *column;
        let row: Vec<String> = row.iter().map(|part| format!("{part}::text")).collect();
        let sql = format!(
            "select array[{}], {name} from {table} where {name} is not null",
            row.join(", ")
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .fetch_all(&tancho.running.core.db)
            .await
            .unwrap();
        for found_row in rows {
            let parts: Vec<String> = found_row.get(0);
            let parts: Vec<&dyn std::fmt::Display> =
                parts.iter().map(|part| part as &dyn std::fmt::Display).collect();
            found.push((*column, AssociatedData::new(*column, &parts), found_row.get(1)));
        }
    }
    found
}

/// Encrypts a value in every column: through the API where one call does it, otherwise directly in the table.
async fn seal_every_column(tancho: &TestServer) -> TestUser {
    let root = tancho.login_admin().await;
    tancho.create_team(&root, "crew").await;
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
        let (status, text) = tancho.send_json(&root, method, path, Some(body)).await;
        assert!((200..300).contains(&status), "{path}: {status} {text}");
    }
    set(tancho, &root, "PASSWORD", "canary-0").await;
    let keys = &tancho.running.core.keys;
    let db = &tancho.running.core.db;
    let app: uuid::Uuid = sqlx::query_scalar("select app_id from app")
        .fetch_one(db)
        .await
        .unwrap();
    let (bind, mail) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7());
    let seal = |column, row: &[&dyn std::fmt::Display]| {
        keys.encrypt(&AssociatedData::new(column, row), &Secret::new("canary-planted"))
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
        .bind(seal(SealedColumn::BIND_ENV, &[&bind, &"DB"]))
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
        .bind(seal(SealedColumn::RELEASE_ENV, &[&app, &7]))
        .bind(seal(SealedColumn::RELEASE_USER_ENV, &[&app, &7]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into outgoing_mail (mail_id, sealed) values ($1, $2)")
        .bind(mail)
        .bind(seal(SealedColumn::OUTGOING_MAIL, &[&mail]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into ssh_host_key (sealed) values ($1)")
        .bind(seal(SealedColumn::SSH_HOST_KEY, &[&true]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into forge (app_id, url, branch, secret, password, deploy_key) values ($1, '', 'main', $2, $3, $4)")
        .bind(app)
        .bind(seal(SealedColumn::FORGE_SECRET, &[&app]))
        .bind(seal(SealedColumn::FORGE_PASSWORD, &[&app]))
        .bind(seal(SealedColumn::FORGE_DEPLOY_KEY, &[&app]))
        .execute(db)
        .await
        .unwrap();
    let webhook = uuid::Uuid::now_v7();
    sqlx::query(
        "insert into webhook (webhook_id, name, team_id, sealed) select $1, 'chat', team_id, $2 from team where name = 'crew'",
    )
    .bind(webhook)
    .bind(seal(SealedColumn::WEBHOOK_REQUEST, &[&webhook]))
    .execute(db)
    .await
    .unwrap();
    let router = uuid::Uuid::new_v4();
    sqlx::query("insert into router (router_id, name, kind, config) values ($1, 'edge', 'api', $2)")
        .bind(router)
        .bind(seal(SealedColumn::ROUTER_CONFIG, &[&router]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query(
        "insert into certificate (host, app_id, label, chain, key, not_before, not_after)
         select 'shop.localhost', $1, 'shop', '', $2, now(), now() + interval '1 day'",
    )
    .bind(app)
    .bind(seal(SealedColumn::CERTIFICATE_KEY, &[&"shop.localhost"]))
    .execute(db)
    .await
    .unwrap();
    sqlx::query("insert into certificate_order (host, app_id, label, issuer, key) values ('shop.localhost', $1, 'shop', 'ca', $2)")
        .bind(app)
        .bind(seal(SealedColumn::CERTIFICATE_ORDER_KEY, &[&"shop.localhost"]))
        .execute(db)
        .await
        .unwrap();
    sqlx::query("insert into acme_account (directory_url, key) values ('https://ca.test', $1)")
        .bind(seal(SealedColumn::ACME_ACCOUNT_KEY, &[&"https://ca.test"]))
        .execute(db)
        .await
        .unwrap();
    let found = list_sealed_values(tancho).await;
    for column in SealedColumn::ALL {
        assert!(
            found.iter().any(|(c, ..)| c == column),
            "nothing is planted in {column}"
        );
    }
    root
}

async fn set(tancho: &TestServer, who: &TestUser, name: &str, value: &str) {
    let body = json!({ "envs": [{ "name": name, "value": value, "private": true }], "norestart": true });
    let (status, text) = tancho
        .send_json(who, Method::POST, "/1.0/apps/shop/env", Some(body))
        .await;
    assert!(
        status == 200 && !text.contains("\"Error\""),
        "{name}: {status} {text}"
    );
}

async fn value(tancho: &TestServer, who: &TestUser, name: &str) -> String {
    let found = tancho
        .read_json(who, &format!("/1.0/apps/shop/env?env={name}"))
        .await;
    found[0]["value"]
        .as_str()
        .unwrap_or_else(|| panic!("{found}"))
        .to_owned()
}

#[tokio::test]
async fn every_encrypted_column_is_covered_by_key_rotation() {
    let tancho = TestServer::start().await;
    let db = &tancho.running.core.db;
    let bytes: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name from information_schema.columns
         where table_schema = 'public' and data_type = 'bytea' order by 1",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let table: Vec<String> = SealedColumn::ALL.iter().map(ToString::to_string).collect();
    let mut known: Vec<&str> = table
        .iter()
        .map(String::as_str)
        .chain(DIGESTS.iter().chain(PLAIN).copied())
        .collect();
    known.sort_unstable();
    assert_eq!(
        bytes, known,
        "a column of bytes is encrypted (then it belongs into SealedColumn::ALL, with a trigger), a digest, or listed as plain"
    );
    // Each has a trigger that rejects values under retiring keys.
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
    tancho.running.drain_and_stop().await;
}

/// As after the start of a second machine without the key file of the first.
#[tokio::test]
async fn server_with_another_key_of_the_same_number_does_not_start() {
    let tancho = TestServer::start().await;
    let db = &tancho.running.core.db;
    let same = &tancho.running.core.keys;
    let other = Keyring::parse(&format!("1:{}\n", "22".repeat(32))).unwrap();
    let refused = key_rotation::check_keys(db, &other).await.unwrap_err();
    assert!(refused.message().contains("copy the key file"), "{refused}");
    // Nor a ring in which only an older key differs.
    let newer = Keyring::parse(&format!("1:{0}\n2:{0}\n", "22".repeat(32))).unwrap();
    key_rotation::check_keys(db, &newer).await.unwrap_err();
    key_rotation::check_keys(db, same).await.unwrap();
    tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_rotation_reencrypts_everything_while_servers_run() {
    let file = KeyFile::new(&format!("# ours\n1:{}\n", "11".repeat(32)));
    let tancho = start_with_keys(&file.0).await;
    let root = seal_every_column(&tancho).await;
    let other = tancho
        .start_replica(|settings| settings.secrets.key_file = file.0.clone())
        .await;
    let before = list_sealed_values(&tancho).await;
    let plain: BTreeMap<String, String> = before
        .iter()
        .map(|(_, place, bytes)| {
            (
                format!("{place:?}"),
                file.ring()
                    .decrypt(place, bytes)
                    .unwrap()
                    .expose_secret()
                    .to_owned(),
            )
        })
        .collect();
    // Two users who write and read meanwhile, each through the other's server.
    let enough = CancellationToken::new();
    let busy = async {
        let mut rounds = 0;
        while !enough.is_cancelled() || rounds < 3 {
            rounds += 1;
            let text = format!("canary-{rounds}");
            set(&tancho, &root, "PASSWORD", &text).await;
            assert_eq!(value(&other, &root, "PASSWORD").await, text);
            set(&other, &root, "OTHER", &text).await;
            assert_eq!(value(&tancho, &root, "OTHER").await, text);
        }
    };
    let rotating = async {
        let said = rotate(&tancho, &file, 60).await;
        enough.cancel();
        said.unwrap()
    };
    let ((), said) = tokio::join!(busy, rotating);
    for column in SealedColumn::ALL {
        let line = format!("{column}: 0 values are left under other keys");
        assert!(said.contains(&line), "{line} is not in {said:?}");
    }
    // The old key is gone, and so is everything encrypted with it; all values decrypt with the new one.
    let ring = file.ring();
    assert_eq!(ring.key_ids(), [2]);
    assert!(file.text().starts_with("# ours\n"));
    for (column, place, bytes) in before {
        assert!(
            ring.decrypt(&place, &bytes).is_err(),
            "an old value of {column} opens with the new key"
        );
    }
    for (column, place, bytes) in list_sealed_values(&tancho).await {
        let opened = ring
            .decrypt(&place, &bytes)
            .unwrap_or_else(|error| panic!("{column}: {}", error.report()));
        if column != SealedColumn::ENV_VAR {
            assert_eq!(opened.expose_secret(), plain[&format!("{place:?}")], "{column}");
        }
    }
    // A process that still has the old key cannot write with it.
    let app: uuid::Uuid = sqlx::query_scalar("select app_id from app")
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap();
    let old = Keyring::parse(&format!("1:{}", "11".repeat(32))).unwrap();
    let bytes = old.encrypt(
        &AssociatedData::new(SealedColumn::ENV_VAR, &[&app, &"LATE"]),
        &Secret::new("x"),
    );
    let late =
        sqlx::query("insert into env_var (app_id, name, value, is_public) values ($1, 'LATE', $2, false)")
            .bind(app)
            .bind(bytes)
            .execute(&tancho.running.core.db)
            .await
            .unwrap_err();
    assert_eq!(late.as_database_error().unwrap().code().as_deref(), Some("40001"));
    // The rotation has recorded its event, and the list shows the numbers and no key.
    let events = tancho
        .read_json(&root, "/1.1/events?kindname=sealing-key.rotate")
        .await;
    assert!(events.as_array().unwrap().len() >= 2, "{events}");
    let list = key_rotation::list_keys(&tancho.running.core.db, &file.source())
        .await
        .unwrap();
    assert_eq!(list[0], "key 2, current");
    assert!(list.contains(&"  service.password: 1".to_owned()), "{list:?}");
    assert_eq!(
        list.iter().filter(|line| line.starts_with("  known to")).count(),
        2,
        "{list:?}"
    );
    other.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_rotation_aborts_without_loss_when_a_server_lacks_the_new_key() {
    let first = format!("1:{}\n", "11".repeat(32));
    let file = KeyFile::new(&first);
    let copy = KeyFile::new(&first);
    let tancho = start_with_keys(&file.0).await;
    let root = seal_every_column(&tancho).await;
    let other = tancho
        .start_replica(|settings| settings.secrets.key_file = copy.0.clone())
        .await;
    // Wait until the server has registered its keys: only then it counts.
    while key_rotation::list_keys(&tancho.running.core.db, &file.source())
        .await
        .unwrap()
        .iter()
        .filter(|l| l.contains("known to"))
        .count()
        < 2
    {
        tokio::task::yield_now().await;
    }
    let words = rotate(&tancho, &file, 1).await.unwrap_err();
    assert!(
        words.contains("does not have key 2") && words.contains("copy the key file"),
        "{words}"
    );
    set(&tancho, &root, "PASSWORD", "canary-1").await;
    assert_eq!(value(&other, &root, "PASSWORD").await, "canary-1");
    copy.write(&file.text());
    let said = rotate(&tancho, &file, 60).await.unwrap();
    assert!(said.contains(&"resuming with key 2".to_owned()), "{said:?}");
    assert_eq!(value(&other, &root, "PASSWORD").await, "canary-1");
    other.running.drain_and_stop().await;
    tancho.running.drain_and_stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_rotation_resumes_after_a_kill() {
    let file = KeyFile::new(&format!("1:{}\n", "11".repeat(32)));
    let tancho = start_with_keys(&file.0).await;
    let root = seal_every_column(&tancho).await;
    // Killed when the new key was active and nothing was reencrypted.
    file.write(&format!("{}2:{}\n", file.text(), "22".repeat(32)));
    let db = &tancho.running.core.db;
    sqlx::query("update encryption_state set current_key = 2")
        .execute(db)
        .await
        .unwrap();
    let said = rotate(&tancho, &file, 60).await.unwrap();
    assert!(
        said.contains(&"finishing the rotation to key 2".to_owned()),
        "{said:?}"
    );
    assert_eq!(file.ring().key_ids(), [2]);
    assert_eq!(value(&tancho, &root, "PASSWORD").await, "canary-0");
    // A value that does not decrypt stays, and so does its key.
    sqlx::query("update service set password = set_byte(password, 20, get_byte(password, 20) # 1)")
        .execute(db)
        .await
        .unwrap();
    let words = rotate(&tancho, &file, 2).await.unwrap_err();
    assert!(
        words.contains("1 values are still encrypted") && words.contains("service.password"),
        "{words}"
    );
    assert_eq!(file.ring().key_ids(), [2, 3]);
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn server_without_the_active_encryption_key_does_not_start() {
    let file = KeyFile::new(&format!("1:{}\n", "11".repeat(32)));
    let tancho = start_with_keys(&file.0).await;
    sqlx::query("update encryption_state set current_key = 4")
        .execute(&tancho.running.core.db)
        .await
        .unwrap();
    let error = key_rotation::register_replica(&tancho.running.core)
        .await
        .unwrap_err();
    assert!(
        error.message().contains("encrypted with key 4"),
        "{}",
        error.message()
    );
    tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn cancelled_key_rotation_releases_its_lock() {
    let file = KeyFile::new(Keyring::generate_key_file().expose_secret());
    let tancho = start_with_keys(&file.0).await;
    let begun = tokio::sync::Notify::new();
    let source = file.source();
    let rotation = KeyRotation {
        db: &tancho.running.core.db,
        source: &source,
        wait_limit: Duration::from_secs(60),
        report: &|_: &str| begun.notify_one(),
    };
    tokio::select! {
        biased;
        () = begun.notified() => {}
        done = key_rotation::rotate_keys(&rotation) => panic!("{done:?}"),
    }
    let held = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1952542307 and objid = 1752132453
                and database = (select oid from pg_database where datname = current_database())";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while sqlx::query_scalar::<_, i64>(held)
        .fetch_one(&tancho.running.core.db)
        .await
        .unwrap()
        > 0
    {
        assert!(tokio::time::Instant::now() < deadline, "the lock is held");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = rotate(&tancho, &file, 60).await.unwrap();
    assert!(!said.is_empty());
    tancho.running.drain_and_stop().await;
}
