//! How many units should run, and which process gets the requests: the two views that all stores read.

use super::*;

const THREE: &str =
    r#"[{"name":"web","command":"x"},{"name":"clock","command":"y"},{"name":"Beat","command":"z"}]"#;

impl UnitFixture {
    /// Process, units that should run, and what stops it; ordered by process.
    async fn wanted(&self, release: i64) -> Vec<(String, i32, Option<String>)> {
        sqlx::query_as(
            r#"select process, units, stopped_by from wanted_process where release_id = $1
               order by process collate "C""#,
        )
        .bind(release)
        .fetch_all(&self.core().db)
        .await
        .unwrap()
    }

    async fn web_process(&self, version: i32) -> Vec<String> {
        sqlx::query_scalar("select process from web_process where version = $1")
            .bind(version)
            .fetch_all(&self.core().db)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn units_of_a_process_are_wanted_unless_process_app_or_removal_stops_them() {
    let site = UnitFixture::new(disable_reconciler).await;
    let release = site.deploy(THREE, "{}").await;
    let cases: [(&str, [(i32, &str); 3]); 7] = [
        ("", [(1, ""), (1, ""), (1, "")]),
        ("('web', 3, false)", [(1, ""), (1, ""), (3, "")]),
        ("('web', 0, false)", [(1, ""), (1, ""), (0, "")]),
        ("('web', 3, true)", [(0, "app"), (0, "app"), (0, "process")]),
        (
            "('web', 3, true), ('clock', 2, false)",
            [(1, ""), (2, ""), (0, "process")],
        ),
        (
            "('web', 3, true), ('gone', 2, true)",
            [(0, "app"), (0, "app"), (0, "process")],
        ),
        (
            "('web', 3, true), ('gone', 2, false)",
            [(1, ""), (1, ""), (0, "process")],
        ),
    ];
    for (rows, expected) in cases {
        site.run("delete from app_process").await;
        if !rows.is_empty() {
            let app = site.app;
            site.run(&format!(
                "insert into app_process select '{app}', * from (values {rows}) as r (process, units, stopped)"
            ))
            .await;
        }
        let expected: Vec<_> = ["Beat", "clock", "web"]
            .into_iter()
            .zip(expected)
            .map(|(name, (units, by))| (name.to_owned(), units, (!by.is_empty()).then(|| by.to_owned())))
            .collect();
        assert_eq!(site.wanted(release).await, expected, "{rows}");
    }
    site.run("update app set state = 'removing'").await;
    let wanted = site.wanted(release).await;
    assert!(
        wanted
            .iter()
            .all(|(_, units, by)| *units == 0 && by.as_deref() == Some("removal")),
        "{wanted:?}"
    );
    site.tancho.running.drain_and_stop().await;
}

#[tokio::test]
async fn requests_go_to_web_or_else_to_the_first_process_by_name() {
    let site = UnitFixture::new(disable_reconciler).await;
    for (version, (processes, expected)) in (1..).zip([
        (THREE, vec!["web"]),
        (
            r#"[{"name":"clock","command":"y"},{"name":"Beat","command":"z"}]"#,
            vec!["Beat"],
        ),
        (r#"[{"name":"worker","command":"y"}]"#, vec!["worker"]),
        (
            r#"[{"name":"webs","command":"y"},{"name":"xen","command":"z"}]"#,
            vec!["webs"],
        ),
        ("[]", vec![]),
    ]) {
        site.release(version, processes, "{}").await;
        assert_eq!(site.web_process(version).await, expected, "{processes}");
    }
    site.tancho.running.drain_and_stop().await;
}
