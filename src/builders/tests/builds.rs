//! Builds with the shipped platforms, from archive to a version that runs.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;

use super::*;

/// Runs a version's process to its end as the app's user; returns its output.
fn run(built: &BuildArtifact, process: &str) -> String {
    let process = built
        .processes
        .iter()
        .find(|p| p.name.as_str() == process)
        .unwrap();
    let path = format!("{}/.tancho/bin:/usr/local/bin:/usr/bin:/bin", built.dir.display());
    let mut command = std::process::Command::new("/bin/sh");
    command
        .args(["-c", &format!("exec {}", process.command)])
        .current_dir(&built.dir)
        .env_clear()
        .env("PATH", path)
        .env("PORT", "0");
    if Uid::effective().is_root() {
        command.uid(OTHER_UID).gid(OTHER_UID);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

fn commands(built: &BuildArtifact) -> BTreeMap<&str, &str> {
    built
        .processes
        .iter()
        .map(|p| (p.name.as_str(), p.command.as_str()))
        .collect()
}

#[tokio::test]
async fn second_build_of_a_python_app_uses_the_cache() {
    let home = BuildFixture::new();
    let files = [
        ("requirements.txt", "itsdangerous==2.2.0\n# a comment\ngunicorn\n"),
        (
            "app.py",
            "import sys, itsdangerous\nprint(itsdangerous.__name__, sys.prefix.endswith('/.tancho'))\n",
        ),
        (
            "tsuru.yaml",
            "hooks: {build: ['gunicorn --version', 'python -c \"import itsdangerous\"']}\n",
        ),
    ];
    let (first, lines) = build_ok(&home.request("python", 1, &files)).await;
    assert!(
        lines.iter().any(|l| l == " ---> Installing the requirements"),
        "{lines:#?}"
    );
    assert_eq!(run(&first, "web").trim(), "itsdangerous True");

    let started = Instant::now();
    let (second, lines) = build_ok(&home.request("python", 2, &files)).await;
    assert!(lines.iter().any(|l| l.contains("from the cache")), "{lines:#?}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    remove_version(&first.dir).unwrap();
    assert!(!first.dir.exists());
    assert_eq!(run(&second, "web").trim(), "itsdangerous True");

    // Scripts of the environment work at the version's final path.
    let gunicorn = ProcessCommand {
        name: second.processes[0].name.clone(),
        command: "gunicorn --version".into(),
    };
    let with_gunicorn = BuildArtifact {
        processes: vec![gunicorn],
        ..second
    };
    assert!(run(&with_gunicorn, "web").contains("gunicorn"));
    assert!(home.leftovers().is_empty());
}

#[tokio::test]
async fn python_app_is_built_from_pyproject_or_without_requirements() {
    let home = BuildFixture::new();
    let project = "[project]\nname = \"x\"\nversion = \"1\"\ndependencies = [\"itsdangerous==2.2.0\"]\n";
    let files = [
        ("pyproject.toml", project),
        ("main.py", "import itsdangerous\nprint('main')\n"),
    ];
    let (version, _) = build_ok(&home.request("python", 1, &files)).await;
    assert_eq!(run(&version, "web"), "main\n");

    let (bare, lines) = build_ok(&home.request(
        "python",
        2,
        &[("Procfile", "web: python x.py"), ("x.py", "print('bare')")],
    ))
    .await;
    assert!(
        lines.iter().any(|l| l.contains("does not look like")),
        "{lines:#?}"
    );
    assert_eq!(run(&bare, "web"), "bare\n");
}

#[tokio::test]
async fn wrong_requirement_fails_with_the_message_of_pip() {
    let home = BuildFixture::new();
    let files = [("requirements.txt", "-r missing.txt\n"), ("app.py", "")];
    let (result, _) = build_all(&home.request("python", 1, &files)).await;
    let words = result.unwrap_err().to_string();
    assert!(
        words.starts_with("The platform python exited with status 1: "),
        "{words}"
    );
    assert!(words.contains("missing.txt"), "{words}");
    assert!(home.leftovers().is_empty() && !home.path("versions/v1").exists());
}

#[tokio::test]
async fn node_app_is_built_with_its_modules_and_build_script() {
    let home = BuildFixture::new();
    let package = r#"{"name": "x", "version": "1.0.0", "dependencies": {"ms": "2.1.3"},
        "scripts": {"build": "node -e \"require('fs').writeFileSync('made', require('ms')('1m') + '')\"", "start": "node server.js"}}"#;
    let server = "console.log(require('fs').readFileSync('made', 'utf8'), require('ms')('2m'))";
    let (version, _) =
        build_ok(&home.request("nodejs", 1, &[("package.json", package), ("server.js", server)])).await;
    assert_eq!(commands(&version)["web"], "node server.js");
    assert_eq!(run(&version, "web"), "60000 120000\n");
}

#[tokio::test]
async fn second_build_of_a_node_app_with_a_lock_file_uses_the_cache() {
    let home = BuildFixture::new();
    let package = r#"{"name": "x", "version": "1.0.0", "scripts": {"start": "FOO=1 node a.js"}}"#;
    let lock = r#"{"name": "x", "version": "1.0.0", "lockfileVersion": 3, "requires": true,
        "packages": {"": {"name": "x", "version": "1.0.0"}}}"#;
    let files = [
        ("package.json", package),
        ("package-lock.json", lock),
        ("a.js", "console.log('a', process.env.FOO)"),
    ];
    let (first, lines) = build_ok(&home.request("nodejs", 1, &files)).await;
    assert!(
        lines.iter().any(|l| l.contains("modules of package-lock.json")),
        "{lines:#?}"
    );
    assert_eq!(commands(&first)["web"], "npm start");
    let (_, lines) = build_ok(&home.request("nodejs", 2, &files)).await;
    assert!(lines.iter().any(|l| l.contains("from the cache")), "{lines:#?}");
}

#[tokio::test]
async fn go_module_is_built() {
    let home = BuildFixture::new();
    let main = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"gopher\") }\n";
    let files = [
        ("go.mod", "module example.com/hello/v2\n\ngo 1.20\n"),
        ("main.go", main),
    ];
    let (version, _) = build_ok(&home.request("go", 1, &files)).await;
    assert_eq!(commands(&version)["web"], "hello");
    assert_eq!(run(&version, "web"), "gopher\n");

    let broken = [files[0], ("main.go", "package main\n\nfunc main() { x }\n")];
    let (result, _) = build_all(&home.request("go", 2, &broken)).await;
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("main.go:3:15: undefined: x")
    );
}

#[tokio::test]
async fn static_app_is_served_by_this_program() {
    let home = BuildFixture::new();
    let (version, _) = build_ok(&home.request("static", 1, &[("public/index.html", "hi")])).await;
    assert_eq!(commands(&version)["web"], "static-server public");
    // The fake program prints its arguments.
    assert_eq!(run(&version, "web"), "static-server public\n");

    let (result, _) = build_all(&home.request("static", 2, &[("readme", "hi")])).await;
    assert!(
        result
            .unwrap_err()
            .to_string()
            .contains("neither an index.html nor a folder named public")
    );
}

#[tokio::test]
async fn procfile_app_is_built_and_missing_procfile_is_explained() {
    let home = BuildFixture::new();
    let files = [("Procfile", "web: ./run.sh\n"), ("run.sh", "#!/bin/sh\npwd\n")];
    let (version, _) = build_ok(&home.request("procfile", 1, &files)).await;
    assert_eq!(run(&version, "web").trim(), version.dir.to_str().unwrap());
    assert_eq!(version.bytes, 14 + 14);

    let (result, _) = build_all(&home.request("procfile", 2, &[("x", "")])).await;
    let error = result.unwrap_err();
    assert!(matches!(error, BuildError::Refused(_)));
    assert!(
        error
            .to_string()
            .contains("a file named Procfile with a line such as `web: "),
        "{error}"
    );
    assert!(!home.path("versions/v2").exists() && home.leftovers().is_empty());
}

#[tokio::test]
async fn build_runs_as_its_user_and_its_tree_becomes_read_only() {
    if !Uid::effective().is_root() {
        return;
    }
    let home = BuildFixture::new();
    let hook = "id -u; id -g; id -G; umask; cat /etc/shadow 2>&1; echo made > made; ln -s /etc/shadow out; mkfifo pipe; \
                mkdir closed; echo x > closed/x; chmod 000 closed/x; chmod 100 closed; ln made made-too";
    let yaml = format!("hooks: {{build: [\"{hook}\"]}}");
    let files = [
        (
            "Procfile",
            "web: sh -c 'cat made; echo x >> made || echo kept; touch new || echo no'",
        ),
        ("tsuru.yml", &yaml),
    ];
    let request = home.request("procfile", 1, &files);
    let (version, lines) = build_ok(&request).await;
    let id = OTHER_UID.to_string();
    let at = lines.iter().position(|l| *l == id).unwrap();
    assert_eq!(lines[at..at + 3], [id.clone(), id.clone(), id], "{lines:#?}");
    assert!(
        lines.iter().any(|l| l.contains("/etc/shadow: Permission denied")),
        "{lines:#?}"
    );

    let found = |name: &str| fs::symlink_metadata(version.dir.join(name)).unwrap();
    for (name, mode) in [
        ("", 0o750),
        ("made", 0o640),
        ("closed", 0o750),
        ("closed/x", 0o640),
    ] {
        let found = found(name);
        assert_eq!((found.uid(), found.gid()), (0, OTHER_UID), "{name}");
        assert_eq!(found.mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(found("out").uid(), 0);
    assert!(!version.dir.join("pipe").exists());
    let shadow = fs::metadata("/etc/shadow").unwrap();
    assert_eq!(shadow.uid(), 0);
    assert_ne!(shadow.gid(), OTHER_UID);
    assert_eq!(run(&version, "web"), "made\nkept\nno\n");
}

#[tokio::test]
async fn procfile_replaced_by_a_link_is_not_followed() {
    let home = BuildFixture::new();
    fs::write(home.path("secret"), "stolen: yes\n").unwrap();
    let hook = format!("ln -sf {} Procfile", home.path("secret").display());
    let yaml = format!("hooks: {{build: [\"{hook}\"]}}");
    let (version, _) =
        build_ok(&home.request("procfile", 1, &[("Procfile", "web: true"), ("tsuru.yaml", &yaml)])).await;
    assert_eq!(commands(&version), BTreeMap::from([("web", "true")]));
}

#[tokio::test]
async fn tancho_folder_of_an_archive_is_removed() {
    let home = BuildFixture::new();
    for (number, name) in [(1, ".tancho"), (2, ".tancho/bin/sh")] {
        let files = [("Procfile", "web: true"), (name, "#!/bin/sh\necho hijacked\n")];
        let (version, _) = build_ok(&home.request("procfile", number, &files)).await;
        assert!(!version.dir.join(".tancho").exists());
    }
}

#[tokio::test]
async fn hook_may_write_the_procfile_and_gets_the_apps_variables() {
    let home = BuildFixture::new();
    let yaml = "hooks: {build: ['test -n \"$DATABASE_URL\"', 'echo \"web: ./$NAME\" > Procfile', 'echo got $DATABASE_URL; env | grep -c SECRET_OF_SERVER || true']}";
    let mut request = home.request("procfile", 1, &[("tsuru.yaml", yaml)]);
    let name = |n: &str| EnvName::parse(n).unwrap();
    request.env = vec![
        (name("DATABASE_URL"), Secret::new("postgres://user:pass@host/db")),
        (name("NAME"), Secret::new("run")),
    ];
    let (version, lines) = build_ok(&request).await;
    assert_eq!(commands(&version)["web"], "./run");
    assert!(lines.contains(&"got ***".to_owned()), "{lines:#?}");
    assert!(lines.contains(&"0".to_owned()), "{lines:#?}");
}

#[test]
fn platforms_are_installed_once_and_world_readable() {
    let home = BuildFixture::new();
    let first = home.platforms();
    assert_eq!(first, home.platforms());
    let names: Vec<_> = platforms::shipped_platforms().iter().map(|p| p.name).collect();
    assert_eq!(names, ["python", "nodejs", "go", "static", "procfile"]);
    for name in names {
        for script in ["detect", "compile", "release"] {
            let found = fs::metadata(first.join(name).join(script)).unwrap();
            assert_eq!(found.mode() & 0o777, 0o755, "{name}/{script}");
        }
    }
    // A program that others cannot run is copied, and a new one replaces the old one.
    fs::remove_file(home.path("exe")).unwrap();
    fs::write(home.path("exe"), "#!/bin/sh\necho new\n").unwrap();
    fs::set_permissions(home.path("exe"), fs::Permissions::from_mode(0o700)).unwrap();
    home.platforms();
    let placed = home.path("platforms/bin/tancho");
    assert_eq!(fs::metadata(&placed).unwrap().mode() & 0o777, 0o755);
    assert!(read_file(&placed).contains("new"));
}
