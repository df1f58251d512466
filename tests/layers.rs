//! The import rules: imports point downwards only, SQL stays in stores, a slice writes its own tables, HTTP
//! stays in the edition files (`classic.rs`, `modern.rs`, and `wire.rs` for what both have in common).
//! Checked by reading the sources.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows from the lowest up. A module imports modules of its own row and of lower rows. `editions` are the
/// edition files of all slices: above every slice, so that each may show data of several. `ssh-client` is
/// `ssh::client`, which calls other servers and does not depend on this one.
const ROWS: &[&[&str]] = &[
    &["kernel"],
    &["config"],
    &["telemetry", "datadir", "sandbox", "net"],
    &["db"],
    &["events"],
    &[
        "sagas",
        "provisioners",
        "builders",
        "proxy",
        "outbound",
        "mail",
        "ssh-client",
    ],
    &["caller_limits"],
    &["core"],
    &["web"],
    &["quotas", "key_rotation"],
    &["users"],
    &["teams", "plans", "pools", "platforms", "routers", "clusters"],
    &["envs"],
    &["apps"],
    &["versions", "certificates"],
    &["releases"],
    &["units", "routing", "volumes"],
    &["services", "deploys", "exec", "webhooks", "autoscale"],
    &["repositories"],
    &["ssh", "forges"],
    &["lifecycle", "healers"],
    &["jobs"],
    &["editions"],
    &["http"],
    &["server"],
    &["cli"],
    &["commands"],
];

const EDITION_FILES: [&str; 3] = ["classic", "modern", "wire"];

/// Files outside `store.rs` that may contain SQL, each with its reason.
const SQL_TOO: &[&str] = &[
    // `pg_notify` and `select 1`, which belong to no slice.
    "src/db/mod.rs",
];

/// The tables that each slice writes.
const TABLES: &[(&str, &[&str])] = &[
    (
        "apps",
        &["app", "app_change", "app_cname", "app_team", "process_plan"],
    ),
    ("autoscale", &["autoscale", "unit_usage"]),
    (
        "certificates",
        &[
            "acme_account",
            "app_https",
            "certificate",
            "certificate_challenge",
            "certificate_order",
            "certificate_router",
        ],
    ),
    (
        "deploys",
        &["deploy", "uploaded_archive", "uploaded_archive_chunk"],
    ),
    ("envs", &["env_var"]),
    ("events", &["event", "event_block", "event_line", "event_lock"]),
    ("exec", &["exec_session"]),
    ("forges", &["forge", "forge_delivery"]),
    ("jobs", &["job", "job_run"]),
    (
        "key_rotation",
        &["encryption_key", "encryption_replica", "encryption_state"],
    ),
    ("plans", &["plan"]),
    ("platforms", &["platform", "platform_version"]),
    ("pools", &["pool", "pool_constraint"]),
    ("releases", &["release", "side_release"]),
    ("repositories", &["repository", "repository_replica"]),
    ("routers", &["router"]),
    ("routing", &["router_seen", "routes_version"]),
    ("sagas", &["saga"]),
    (
        "services",
        &[
            "bind",
            "bind_env",
            "orphan",
            "service",
            "service_instance",
            "service_instance_team",
            "service_manifest",
            "service_operation",
            "service_owner",
            "service_team",
            "unit_bind",
        ],
    ),
    ("ssh", &["ssh_host_key"]),
    (
        "teams",
        &[
            "default_role",
            "role",
            "role_permission",
            "role_service_action",
            "team",
            "team_token",
        ],
    ),
    (
        "units",
        &["app_process", "host", "log_line", "log_position", "unit"],
    ),
    (
        "users",
        &[
            "access_token",
            "outgoing_mail",
            "login_failure",
            "login_origin",
            "password_reset",
            "ssh_key",
            "user_account",
            "user_group",
            "user_role",
        ],
    ),
    ("versions", &["version", "version_holder", "version_process"]),
    ("volumes", &["removed_volume", "volume", "volume_bind"]),
    ("webhooks", &["webhook", "webhook_delivery"]),
];

/// Writes to tables of other slices: the file, the table, and the reason. The list may only get shorter.
const FOREIGN_WRITES: &[(&str, &str, &str)] = &[
    ("key_rotation", "{table}", "reencrypts the columns of all slices"),
    ("deploys", "app", "counts the deploys of the app"),
    ("deploys", "app_process", "gives new processes their first units"),
    ("lifecycle", "app", "removes the releases of a removed app"),
    ("lifecycle", "app_process", "stops all processes of a removed app"),
    ("quotas", "app", "keeps the limit of units in the row of the app"),
    ("quotas", "team", "keeps the limit of apps in the row of the team"),
    (
        "quotas",
        "user_account",
        "keeps the limit of apps in the row of the user",
    ),
    (
        "releases",
        "app",
        "names the current release and the candidate in the row of the app",
    ),
    (
        "releases",
        "app_process",
        "deletes processes that the current version does not have",
    ),
    (
        "releases",
        "unit",
        "assigns remaining units to the new current release",
    ),
    ("users", "role", "creates the role of the first administrator"),
    (
        "users",
        "role_permission",
        "creates the role of the first administrator",
    ),
];

/// Slices that name the store of another: the file, the store, and the reason. The list may only get shorter.
const FOREIGN_STORES: &[(&str, &str, &str)] = &[
    ("deploys", "apps", "a saga finds its app by id"),
    ("forges", "apps", "a saga finds its app by id"),
    (
        "lifecycle",
        "apps",
        "removes the row of an app as the last step of a saga",
    ),
    ("releases", "apps", "names the app in the notices of an event"),
    (
        "releases",
        "envs",
        "writes variables in the transaction of the change",
    ),
];

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Returns all sources by path, without comments and tests.
fn all_sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    sources(&root.join("src"), &mut found);
    found.sort();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let source = fs::read_to_string(&path).unwrap();
            // Tests may import anything, and their `super` is another module.
            let code = source
                .split("\n#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            let code: Vec<&str> = code
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default())
                .collect();
            (name, code.join("\n"))
        })
        .collect()
}

/// Returns the module path of a file: `src/apps/store.rs` is `apps::store`.
fn module_path(file: &str) -> Vec<String> {
    let path = file.strip_prefix("src/").unwrap().trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').map(str::to_owned).collect()
}

/// Returns the position of the edition file in a path, if it names one. `web::errors` has modules of the same
/// names.
fn edition_position(path: &[String]) -> Option<usize> {
    match path[0].as_str() {
        "web" | "http" => None,
        _ => path
            .iter()
            .position(|part| EDITION_FILES.contains(&part.as_str())),
    }
}

/// Returns the module of a path, as the rows name it.
fn row_name(path: &[String]) -> &str {
    match (path[0].as_str(), path.get(1).map(String::as_str)) {
        _ if edition_position(path).is_some() => "editions",
        ("ssh", Some("client")) => "ssh-client",
        (first, _) => first,
    }
}

/// Returns all paths that a source imports from this crate: `use crate::a::b`, `use crate::{a, b::{c, d}}`,
/// `super::c`, `crate::a::b()`.
fn imports(module: &[String], code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (root, is_super) in [("crate::", false), ("super::", true)] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let base = match is_super {
                true => module[..module.len().saturating_sub(1)].to_vec(),
                false => Vec::new(),
            };
            expand_path(&base, &code[at + root.len()..], &mut found);
        }
    }
    found.retain(|path| !path.is_empty());
    found
}

/// Adds the paths of `a::b::{c, d::e}`, each below `base`.
fn expand_path(base: &[String], text: &str, found: &mut Vec<Vec<String>>) {
    let mut path = base.to_vec();
    let mut rest = text.trim_start();
    loop {
        if let Some(list) = rest.strip_prefix('{') {
            for item in split_items(list) {
                expand_path(&path, &item, found);
            }
            return;
        }
        let end = rest
            .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        match &rest[..end] {
            "" | "self" => {}
            "super" => drop(path.pop()),
            part => path.push(part.to_owned()),
        }
        match rest[end..].strip_prefix("::") {
            Some(next) => rest = next,
            None => return found.push(path),
        }
    }
}

/// Splits the items of `a, b::{c, d}, e}…`.
fn split_items(list: &str) -> Vec<String> {
    let (mut items, mut item, mut depth) = (Vec::new(), String::new(), 0);
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        if !(c == ',' && depth == 0) {
            item.push(c);
        }
    }
    items.push(item);
    items.retain(|item| !item.trim().is_empty());
    items
}

#[test]
fn imports_point_downwards() {
    let mut faults = Vec::new();
    for (file, code) in all_sources() {
        let module = module_path(&file);
        if ["main", "lib"].contains(&module[0].as_str()) {
            continue;
        }
        let home = row_name(&module);
        let own = row(home).unwrap_or_else(|| panic!("{file}: give {home} a row in tests/layers.rs"));
        for import in imports(&module, &code) {
            if row(row_name(&import)).is_some_and(|other| other > own) {
                faults.push(format!("{file} imports upwards: {}", import.join("::")));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_http_imports_edition_files() {
    let mut faults = Vec::new();
    for (file, code) in all_sources() {
        let module = module_path(&file);
        if ["web", "http"].contains(&module[0].as_str()) {
            continue;
        }
        let is_edition = edition_position(&module).is_some();
        for import in imports(&module, &code) {
            let Some(at) = edition_position(&import) else {
                continue;
            };
            let is_own_wire = is_edition && import[at] == "wire" && import[0] == module[0];
            if !is_own_wire {
                faults.push(format!("{file} imports {}", import.join("::")));
            }
        }
        // A module that names its children without a full path.
        for name in EDITION_FILES {
            let is_wire = is_edition && name == "wire";
            for (at, _) in code.match_indices(&format!("{name}::")) {
                let relative =
                    !code[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':');
                if relative && !is_wire {
                    faults.push(format!("{file} names {name}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn only_the_owning_slice_names_its_store() {
    let slices: Vec<&str> = ROWS.iter().copied().flatten().copied().collect();
    let mut found = BTreeSet::new();
    for (file, code) in all_sources() {
        let slice = module_path(&file)[0].clone();
        for (at, _) in code.match_indices("::store") {
            if code[at + 7..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_') {
                continue;
            }
            let path: String = code[..at]
                .chars()
                .rev()
                .take_while(|c| c.is_ascii_alphanumeric() || "_:".contains(*c))
                .collect();
            let path: String = path.chars().rev().collect();
            let owner = path
                .trim_start_matches("crate::")
                .split("::")
                .next()
                .unwrap_or_default();
            if owner != slice && slices.contains(&owner) {
                found.insert((slice.clone(), owner.to_owned()));
            }
        }
    }
    let allowed = FOREIGN_STORES
        .iter()
        .map(|(slice, owner, _)| ((*slice).to_owned(), (*owner).to_owned()));
    assert_eq!(found, allowed.collect(), "stores of other slices that are named");
}

#[test]
fn slices_write_only_their_own_tables() {
    let mut found = BTreeSet::new();
    for (file, code) in all_sources()
        .into_iter()
        .filter(|(file, _)| file.ends_with("store.rs"))
    {
        let slice = module_path(&file)[0].clone();
        for table in written_tables(&code) {
            // A name built at run time may be that of any table.
            if table.starts_with('{') {
                found.insert((slice.clone(), table));
                continue;
            }
            let owner = TABLES.iter().find(|(_, tables)| tables.contains(&table.as_str()));
            let (owner, _) =
                owner.unwrap_or_else(|| panic!("{file}: give {table} a slice in tests/layers.rs"));
            if *owner != slice {
                found.insert((slice.clone(), table));
            }
        }
    }
    let allowed = FOREIGN_WRITES
        .iter()
        .map(|(slice, table, _)| ((*slice).to_owned(), (*table).to_owned()));
    assert_eq!(
        found,
        allowed.collect(),
        "tables of other slices that are written"
    );
}

/// Returns the tables that the SQL in a source inserts into, updates or deletes from.
fn written_tables(code: &str) -> BTreeSet<String> {
    let words: Vec<&str> = code
        .split(|c: char| !(c.is_ascii_alphanumeric() || "_{}".contains(c)))
        .filter(|word| !word.is_empty())
        .collect();
    let mut tables = BTreeSet::new();
    for at in 0..words.len() {
        let table = match words[at..] {
            ["insert", "into", table, ..] | ["delete", "from", table, ..] => table,
            // `for update`, `for no key update` and `do update set` write nothing by themselves.
            ["update", table, ..] if at == 0 || !["for", "key", "do"].contains(&words[at - 1]) => table,
            _ => continue,
        };
        tables.insert(table.to_owned());
    }
    tables
}

#[test]
fn only_stores_contain_sql() {
    let holds = |code: &str| code.contains("sqlx::query");
    let faults: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, code)| {
            holds(code)
                && !file.ends_with("store.rs")
                && !file.contains("/tests")
                && !SQL_TOO.contains(&file.as_str())
        })
        .map(|(file, _)| file)
        .collect();
    assert!(faults.is_empty(), "SQL outside a store: {}", faults.join(", "));
}

/// Returns the statements that take a connection of the pool while their function has a transaction open. A
/// request that does so waits for itself once all connections are taken.
fn second_connections(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let (mut found, mut statement) = (Vec::new(), String::new());
    // The indentation of the block that has the transaction, while it is open.
    let (mut open, mut is_committed) = (None, false);
    for line in code.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let indent = line.len() - line.trim_start().len();
        statement.push_str(line.trim());
        statement.push(' ');
        if !line.ends_with([';', '{', '}']) {
            continue;
        }
        let whole = std::mem::take(&mut statement);
        if std::mem::take(&mut is_committed) {
            // A block that returns ends the transaction only in itself.
            if whole.starts_with("return ") {
                continue;
            }
            open = None;
        }
        if whole.contains("fn ") && line.ends_with('{') {
            open = whole.contains("tx: &mut PgConnection").then_some(indent + 4);
        } else if whole.contains("= ") && whole.contains(".begin") && whole.contains("().await") {
            open = Some(indent);
        } else if whole.contains(".commit()") || whole.contains("drop(tx)") {
            is_committed = open.is_some();
        } else if whole.starts_with('}') && open.is_some_and(|block| indent < block) {
            open = None;
        } else if open.is_some() && whole.contains(".await") {
            let asks = [".db", "(core,", " core,", "self.core,"];
            let hands_on = ["tx", "&mut "];
            if asks.iter().any(|asked| whole.contains(asked))
                && !hands_on.iter().any(|handed| whole.contains(handed))
            {
                found.push(whole);
            }
        }
    }
    found
}

#[test]
fn functions_with_an_open_transaction_take_no_second_connection() {
    let faults: Vec<String> = all_sources()
        .into_iter()
        .flat_map(|(file, source)| {
            let found = second_connections(&source);
            found
                .into_iter()
                .map(move |statement| format!("{file}: {statement}"))
        })
        .collect();
    assert!(
        faults.is_empty(),
        "begin the transaction later, or hand it on:\n{}",
        faults.join("\n")
    );
}

#[test]
fn second_connection_search_finds_both_forms() {
    let faulty = "async fn x(core: &Core) {\n    let mut tx = core.db.begin().await?;\n    find(&core.db).await?;\n    \
                  find_more(core, 1).await?;\n    tx.commit().await?;\n    find(&core.db).await?;\n}\n\
                  async fn y(core: &Core, tx: &mut PgConnection) {\n    find(\n        core,\n        1)\n        .await?;\n}\n\
                  async fn z(core: &Core) {\n    let mut tx = core.db.begin().await?;\n    if done {\n        \
                  tx.commit().await?;\n        return Ok(());\n    }\n    find(core, 1).await?;\n}";
    assert_eq!(second_connections(faulty).len(), 4);
    let good = "async fn x(core: &Core) {\n    find(&core.db).await?;\n    if done {\n        \
                let mut tx = core.db.begin().await?;\n        find(core, &mut tx).await?;\n        \
                tx.commit().await?;\n        return find(core, 1).await;\n    }\n    find(core, 1).await?;\n}";
    assert_eq!(second_connections(good), Vec::<String>::new());
}

#[test]
fn only_edition_files_use_http_types() {
    let faults: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, code)| {
            let edition = ["/classic.rs", "/modern.rs", "/wire.rs"]
                .iter()
                .any(|name| file.ends_with(name));
            let allowed = edition
                || file.starts_with("src/http/")
                || file.starts_with("src/web/")
                || file == "src/server.rs";
            code.contains("axum::") && !allowed
        })
        .map(|(file, _)| file)
        .collect();
    assert!(
        faults.is_empty(),
        "axum outside an edition file: {}",
        faults.join(", ")
    );
}

/// Files outside `provisioners` that may name one of them, each with its reason.
const PROVISIONER_FILES: &[&str] = &[
    // Runs the supervisor of a local unit, which is this same program.
    "src/main.rs",
];

#[test]
fn only_the_list_of_provisioners_names_one() {
    let faults: Vec<String> = all_sources()
        .into_iter()
        .filter(|(file, _)| {
            !file.starts_with("src/provisioners/") && !PROVISIONER_FILES.contains(&file.as_str())
        })
        .flat_map(|(file, code)| {
            let found = imports(&module_path(&file), &code).into_iter();
            found.map(move |path| (file.clone(), path))
        })
        .filter(|(_, path)| {
            let inner = path.get(1).map(String::as_str);
            path[0] == "provisioners" && matches!(inner, Some("local" | "fake"))
        })
        .map(|(file, path)| format!("{file} imports {}", path.join("::")))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn import_parser_finds_all_import_forms() {
    let code = "use crate::a::b; use crate::{c::{d, e}, f}; fn x() { crate::ssh::client::y(); } use super::{g, h::i};";
    let module = ["apps".to_owned(), "modern".to_owned()];
    let found: Vec<String> = imports(&module, code)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    let expected = [
        "a::b",
        "c::d",
        "c::e",
        "f",
        "ssh::client::y",
        "apps::g",
        "apps::h::i",
    ];
    assert_eq!(found, expected);
    assert_eq!(row_name(&imports(&module, code)[4]), "ssh-client");
    assert_eq!(row_name(&module), "editions");
}

#[test]
fn table_parser_finds_only_writes() {
    let code =
        "insert into a (x) values (1) on conflict do update set x = 1; select 1 from b for no key update;
                update c set x = 1; with gone as (delete from d) select 1 from e for update of e";
    let expected = ["a", "c", "d"].map(str::to_owned);
    assert_eq!(written_tables(code), BTreeSet::from(expected));
}
