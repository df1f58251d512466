//! Procfile and tsuru.yaml.

use serde_json::json;

use super::*;

fn pairs(processes: &[ProcessCommand]) -> Vec<(&str, &str)> {
    processes
        .iter()
        .map(|p| (p.name.as_str(), p.command.as_str()))
        .collect()
}

#[test]
fn procfiles_are_parsed() {
    let text = "\u{feff}# comment\r\nweb: python app.py\r\n\n  worker_2:run: it # now\nwith-dash:\tx\n";
    let procfile = Procfile::parse(text).unwrap();
    assert_eq!(
        pairs(&procfile.processes),
        [
            ("web", "python app.py"),
            ("worker_2", "run: it # now"),
            ("with-dash", "x")
        ]
    );
    assert_eq!(Procfile::parse("\n# nothing\n").unwrap(), Procfile::default());
}

#[test]
fn wrong_procfiles_name_the_line() {
    let many: String = (0..101).map(|n| format!("p{n}: x\n")).collect();
    let long = format!("web: {}", "x".repeat(9000));
    for (text, words) in [
        ("web python app.py", "line 1: write `name: command`"),
        ("web: a\n\nweb: b\n", "line 3: the process web is defined twice"),
        ("web:", "line 1: the command is missing"),
        ("web:   \n", "line 1: the command is missing"),
        (": x", "line 1: the name of a process"),
        ("a b: x", "line 1: the name of a process"),
        ("../x: x", "line 1: the name of a process"),
        ("# ok\nwéb: x", "line 2: the name of a process"),
        ("web: a\0b", "line 1: the command has control characters"),
        ("web: a\u{1b}[2J", "line 1: the command has control characters"),
        (&long, "line 1: the command is longer"),
        (&many, "line 101: an app has at most 100 processes"),
    ] {
        let error = Procfile::parse(text).unwrap_err();
        assert!(error.message().contains(words), "{error}");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn full_tsuru_yaml_is_parsed() {
    let yaml = TsuruYaml::parse(
        r#"
hooks:
  build:
    - npm run x
  restart:
    before: [./migrate]
    after:
healthcheck:
  path: health
  scheme: HTTPS
  method: GET
  status: 200
  match: .*OK.*
  headers: {X-One: "1"}
  allowed_failures: 0
  interval_seconds: 5
  deploy_timeout_seconds: 90
  force_restart: true
startupcheck:
  command: ["sh", "-c", "true"]
processes:
  - name: web
    command: python app.py
    ports:
      - {name: main, protocol: tcp, port: 80, target_port: 8080}
  - name: worker
    healthcheck: {path: /w}
    ports: []
kubernetes:
  groups: {pod1: {web: {ports: [{port: 80}]}}}
unknown: {anything: [1, 2]}
"#,
    )
    .unwrap();
    assert_eq!(yaml.hooks.build, ["npm run x"]);
    assert_eq!(yaml.hooks.restart.before, ["./migrate"]);
    assert!(yaml.hooks.restart.after.is_empty());
    let check = &yaml.healthcheck;
    assert_eq!((check.path.as_str(), check.scheme.as_str()), ("/health", "https"));
    assert_eq!(
        (check.status, check.matches.as_deref()),
        (Some(200), Some(".*OK.*"))
    );
    assert_eq!(
        (
            check.allowed_failures,
            check.interval_seconds,
            check.timeout_seconds
        ),
        (3, 5, 60)
    );
    assert_eq!(
        (check.deploy_timeout_seconds, check.force_restart),
        (Some(90), true)
    );
    assert_eq!(yaml.startupcheck.command.len(), 3);
    assert_eq!(yaml.processes[0].ports.as_ref().unwrap()[0].target_port, 8080);
    assert_eq!(yaml.processes[1].ports, Some(vec![]));
    assert_eq!(yaml.kubernetes["groups"]["pod1"]["web"]["ports"][0]["port"], 80);

    let kept = serde_json::to_value(&yaml).unwrap();
    assert_eq!(serde_json::from_value::<TsuruYaml>(kept).unwrap(), yaml);
}

#[test]
fn empty_tsuru_yaml_has_the_defaults() {
    for text in [
        "",
        "\n# nothing\n",
        "~",
        "hooks:\nhealthcheck:\nprocesses:\n",
        "other: 1",
    ] {
        assert_eq!(TsuruYaml::parse(text).unwrap(), TsuruYaml::default(), "{text:?}");
    }
    let check = TsuruYaml::default().healthcheck;
    assert!(check.is_empty());
    let kept = serde_json::to_value(&check).unwrap();
    for (key, value) in [
        ("scheme", json!("http")),
        ("allowed_failures", json!(3)),
        ("interval_seconds", json!(10)),
        ("timeout_seconds", json!(60)),
    ] {
        assert_eq!(kept[key], value);
    }
}

#[test]
fn wrong_types_name_their_key() {
    for (text, words) in [
        ("hooks: 1", "hooks: invalid type"),
        ("hooks: {build: npm run x}", "hooks.build: invalid type"),
        ("hooks: {build: [[x]]}", "hooks.build[0]: invalid type"),
        (
            "hooks: {restart: {before: {a: b}}}",
            "hooks.restart.before: invalid type",
        ),
        ("healthcheck: [x]", "healthcheck: invalid"),
        (
            "healthcheck: {interval_seconds: soon}",
            "healthcheck.interval_seconds: invalid type",
        ),
        (
            "healthcheck: {timeout_seconds: -1}",
            "healthcheck.timeout_seconds: invalid value",
        ),
        (
            "healthcheck: {timeout_seconds: 9999999}",
            "healthcheck.timeout_seconds: more than",
        ),
        (
            "healthcheck: {scheme: ftp}",
            "healthcheck.scheme: use http or https",
        ),
        (
            "healthcheck: {path: /a b}",
            "healthcheck.path: a path must not contain spaces",
        ),
        (
            "healthcheck: {force_restart: maybe}",
            "healthcheck.force_restart: invalid type",
        ),
        (
            "healthcheck: {headers: {a: [b]}}",
            "healthcheck.headers.a: invalid type",
        ),
        ("startupcheck: {command: x}", "startupcheck.command: invalid type"),
        ("processes: {web: x}", "processes: invalid type"),
        ("processes: [[web, x]]", "processes[0]: invalid type"),
        ("processes: [{command: x}]", "missing field `name`"),
        ("processes: [{name: a b, command: x}]", "processes[0].name"),
        (
            "processes: [{name: web, command: 1}]",
            "processes[0].command: invalid type",
        ),
        (
            "processes: [{name: web, ports: [{port: 99999}]}]",
            "processes[0].ports[0].port: invalid value",
        ),
        ("- a\n- b", "must hold keys"),
        ("just text", "must hold keys"),
        ("a: [", "tsuru.yaml: "),
    ] {
        let error = TsuruYaml::parse(text).unwrap_err();
        assert!(error.message().contains(words), "{text}: {error}");
        assert!(!error.message().contains('\n'), "{error}");
    }
}

#[test]
fn processes_of_tsuru_yaml_override_the_procfile() {
    let procfile = Procfile::parse("web: old\nworker: w\n").unwrap();
    let text = "processes: [{name: web, command: new}, {name: worker}, {name: api, command: a}]";
    let yaml = TsuruYaml::parse(text).unwrap();
    let merged = merge_processes(&procfile, &yaml).unwrap();
    assert_eq!(pairs(&merged), [("api", "a"), ("web", "new"), ("worker", "w")]);
    assert_eq!(find_main_process(&merged).unwrap().name.as_str(), "web");

    let others = merge_processes(
        &Procfile::parse("zeta: z\nalpha: a\n").unwrap(),
        &TsuruYaml::default(),
    )
    .unwrap();
    assert_eq!(find_main_process(&others).unwrap().name.as_str(), "alpha");
    assert!(find_main_process(&[]).is_none());

    let none = merge_processes(&Procfile::default(), &TsuruYaml::default()).unwrap_err();
    assert!(
        none.message().contains("Procfile") && none.message().contains("web: "),
        "{none}"
    );
    let bare = TsuruYaml::parse("processes: [{name: web}]").unwrap();
    let error = merge_processes(&Procfile::default(), &bare).unwrap_err();
    assert!(error.message().contains("process web"), "{error}");
}

#[test]
fn health_check_match_is_a_regular_expression_over_the_whole_body() {
    for (pattern, body, matches) in [
        (".*OK.*", "line\nOK\nline", true),
        ("^up.db: fine$", "up\ndb: fine", true),
        ("^up$", "up and more", false),
        ("WORKING", "it is WORKING", true),
        (r"status.:\s*.(ok|degraded)", r#"{"status": "ok"}"#, true),
        // A version that was built when `match` was a plain string.
        ("a(b", "x a(b y", true),
        ("(a*)*b", &"a".repeat(60_000), false),
    ] {
        assert_eq!(tsuru_yaml::body_matches(pattern, body), matches, "{pattern}");
    }
}

#[test]
fn invalid_match_is_refused_with_its_key() {
    for (yaml, words) in [
        (
            "healthcheck: {path: /, match: 'a(b'}",
            "tsuru.yaml: healthcheck.match: not a valid regular expression: unclosed group.",
        ),
        (
            "processes: [{name: web, healthcheck: {path: /, match: '[z-a]'}}]",
            "tsuru.yaml: healthcheck.match of the process web: not a valid regular expression: ",
        ),
        ("healthcheck: {path: /, match: '(a{1000}){1000}'}", "too large"),
    ] {
        let error = TsuruYaml::parse(yaml).unwrap_err();
        assert!(error.message().contains(words), "{}", error.message());
    }
    let long = format!("healthcheck: {{path: /, match: '{}'}}", "a".repeat(5000));
    assert!(
        TsuruYaml::parse(&long)
            .unwrap_err()
            .message()
            .contains("longer than 4,096 bytes")
    );
}

#[test]
fn release_line_is_taken_out_unless_tsuru_yaml_lists_it() {
    let mut procfile = Procfile::parse("release: ./migrate\nweb: ./run\n").unwrap();
    let yaml = TsuruYaml::parse("processes: [{name: release}]").unwrap();
    assert_eq!(procfile.clone().take_release_line(&yaml), None);
    let taken = procfile.take_release_line(&TsuruYaml::default());
    assert_eq!(taken.as_deref(), Some("./migrate"));
    assert_eq!(pairs(&procfile.processes), [("web", "./run")]);
    assert_eq!(procfile.take_release_line(&TsuruYaml::default()), None);
}

#[test]
fn wrongly_packed_or_named_files_get_a_hint() {
    let home = BuildFixture::new();
    let tree = home.path("tree");
    fs::create_dir_all(tree.join("app/bin")).unwrap();
    assert!(
        hints::single_folder_hint(&tree)
            .unwrap()
            .contains("tar -C \"app\" -czf")
    );
    for (name, text) in [
        ("procfile", ""),
        ("TSURU.yml", ""),
        ("procfile.txt", ""),
        ("run.sh", ""),
    ] {
        fs::write(tree.join(name), text).unwrap();
    }
    assert_eq!(hints::single_folder_hint(&tree), None);
    let unpacked = UnpackSummary {
        bytes: 0,
        skipped_files: 2,
    };
    let lines = hints::archive_hints(&tree, &unpacked);
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].contains("2 files that macOS adds"));
    assert!(lines[1].contains("\"TSURU.yml\" is not read: rename it to tsuru.yml"));
    assert!(lines[2].contains("\"procfile\" is not read: rename it to Procfile"));
    fs::write(tree.join("Procfile"), "").unwrap();
    assert_eq!(
        hints::archive_hints(
            &tree,
            &UnpackSummary {
                bytes: 0,
                skipped_files: 0
            }
        )
        .len(),
        1
    );

    let secret = home.path("secret");
    fs::create_dir(&secret).unwrap();
    std::os::unix::fs::symlink(&secret, tree.join("link")).unwrap();
    let commands = "a: bin/hello --port $PORT\nb: ./run.sh\nc: link/no\nd: link/../x\ne: gunicorn app\nf: $DIR/x\ng: /usr/bin/x\n";
    let lines = hints::process_hints(&tree, &Procfile::parse(commands).unwrap().processes);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains("The process a runs bin/hello, which is not in the app"));
}
