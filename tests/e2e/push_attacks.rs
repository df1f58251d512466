//! Attacks of users who may push: on the machine, by programs that git would run; on others who look at what
//! is deployed, by forged object contents.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::apps::AppSource;
use crate::git_client::{GitClient, WorkingCopy, chown_to_git_user, remote_lines, repository};
use crate::push::newest;
use crate::push_hostile::{begin_request, git_with_input, line};
use crate::test_instance::{TestInstance, find_processes, seconds, wait_for};

/// The first uid that Tancho assigns, which is git's.
const GIT_USER: u32 = 200_000;

/// A forged signature.
const FORGED: &str = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQEz\n =abcd\n -----END PGP SIGNATURE-----\n";

/// Gives the commit at the tip a forged signature.
fn forge_signature(work: &WorkingCopy<'_>) -> String {
    let commit = work.git(&["cat-file", "commit", "HEAD"]).expect_success();
    let (head, message) = commit.split_once("\n\n").unwrap();
    let forged = format!("{head}\n{FORGED}\n{message}");
    let id = git_with_input(
        work,
        &["hash-object", "-t", "commit", "-w", "--stdin"],
        forged.as_bytes(),
    );
    String::from_utf8(id).unwrap().trim().to_owned()
}

/// Returns an app that serves a file whose placeholder git has filled in.
fn app_with_placeholder(placeholder: &str) -> AppSource {
    AppSource::web("TEXT")
        .with(".gitattributes", "note export-subst\n")
        .with("note", &format!("[$Format:{placeholder}$]\n"))
        .hooks(&["cp note note.seen", "cat note"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_and_format_placeholders_run_no_program_on_the_server() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    if Command::new("gpg").arg("--version").output().is_err() {
        println!("SKIPPED in part: without gpg on this machine, git could not run it anyway");
    }
    // It would contain gpg's output about the signature.
    work.commit(&app_with_placeholder("%GG"), "Signed");
    let forged = forge_signature(&work);
    let said = work
        .push(&[&format!("{forged}:refs/heads/main")])
        .expect_success();
    let lines = remote_lines(&said);
    assert!(lines.contains("[]") && !lines.contains("gpg:"), "{said}");
    assert_eq!(work.remote_ref("refs/heads/main"), forged);
    // A placeholder that makes git fail is refused with its reason.
    work.commit(&app_with_placeholder("%GT"), "Trusted");
    let broken = forge_signature(&work);
    let said = work.push(&[&format!("+{broken}:main")]).expect_failure();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("ERROR: git cannot archive the files") && lines.contains("export-subst"),
        "{said}"
    );
    assert_eq!(work.remote_ref("refs/heads/main"), forged);
    // Harmless placeholders are filled in.
    let honest = work.commit(&app_with_placeholder("%H"), "Honest");
    let said = work.push(&["--force", "main"]).expect_success();
    assert!(remote_lines(&said).contains(&format!("[{honest}]")), "{said}");
}

/// Returns a field of a process's status from the kernel.
fn status(pid: i32, key: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(line.split_whitespace().next()?.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn git_runs_unprivileged_in_the_sandbox_including_on_old_repositories() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::web("one"), "One");
    work.push(&["main"]).expect_success();
    let path = repository(&tancho);
    let as_root = nix::unistd::geteuid().is_root();
    let owner = |path: &Path| fs::symlink_metadata(path).unwrap().uid();
    if as_root {
        assert_eq!(owner(&path), GIT_USER);
        // As an earlier version of Tancho has left it.
        let api = tancho.running().api.clone();
        tancho.kill();
        let done = Command::new("chown")
            .args(["-R", "0:0"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(done.success());
        tancho.serve_at(&api);
        tancho.login().await;
        for part in ["", "objects", "refs/heads/main", "config"] {
            assert_eq!(owner(&path.join(part)), GIT_USER, "{part}");
        }
        assert_eq!(owner(&tancho.data.join("repositories/hooks/pre-receive")), 0);
    }
    // A push that stays incomplete, so that its process can be inspected.
    let (none, new) = ("0".repeat(40), "1".repeat(40));
    let body = line(&format!("{none} {new} refs/heads/x\0 report-status"));
    let half = begin_request(
        &tancho,
        "git-receive-pack",
        body.len() + 100,
        format!("{body}0000").as_bytes(),
    );
    let place = format!("GIT_DIR={}", path.display());
    let pid = wait_for("git runs", seconds(60), async || {
        let found = find_processes(&place).into_iter();
        found
            .map(|(pid, _)| pid)
            .find(|pid| status(*pid, "Name").as_deref() == Some("git"))
    })
    .await;
    let is = |key: &str| status(pid, key).unwrap();
    assert_eq!(is("NoNewPrivs"), "1");
    assert_eq!(is("Seccomp"), "2");
    if as_root {
        assert_eq!(is("Uid"), GIT_USER.to_string());
        assert_eq!(is("CapEff"), "0000000000000000");
    }
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("GIT_NO_REPLACE_OBJECTS=1"), "{environment}");
    assert!(!environment.contains("HOME="), "{environment}");
    drop(half);
    // Existing repositories keep working.
    work.commit(&AppSource::web("two"), "Two");
    work.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replace_refs_are_ignored_and_only_branches_and_tags_are_accepted() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let evil = work.commit(&AppSource::web("evil"), "Evil");
    work.push(&["main:aside"]).expect_success();
    let good = work.commit(&AppSource::web("good"), "Reviewed release");
    let replace = format!("{evil}:refs/replace/{good}");
    for what in [
        &[replace.as_str()][..],
        &["main", &replace],
        &["main:refs/notes/commits"],
        &["main:refs/tancho/forge"],
        &["main:refs/forge/main"],
        &["--mirror"],
    ] {
        if what == ["--mirror"] {
            work.git(&["update-ref", "refs/stash", &good]).expect_success();
        }
        let said = work.push(what).expect_failure();
        assert!(
            remote_lines(&said).contains("Only branches and tags"),
            "{what:?}: {said}"
        );
        assert_eq!(work.remote_ref("refs/heads/main"), "", "{what:?}");
    }
    // A replace ref from before the rule.
    let path = repository(&tancho);
    let refs = path.join(format!("refs/replace/{good}"));
    fs::create_dir(refs.parent().unwrap()).unwrap();
    fs::write(&refs, format!("{evil}\n")).unwrap();
    chown_to_git_user(&path);
    work.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "good -".to_owned()));
    assert_eq!(newest(&tancho, "shop").await["Commit"], good.as_str());
    let seen = work.git(&["ls-remote", "tancho"]).expect_success();
    assert!(
        !seen.contains("refs/replace") && seen.contains("refs/heads/aside"),
        "{seen}"
    );
    let healed = tancho
        .request_as_admin(reqwest::Method::GET, "/healers/repositories")
        .send()
        .await;
    assert_eq!(healed.unwrap().status(), 200);
    wait_for("it has been removed", seconds(90), async || {
        (!refs.exists()).then_some(())
    })
    .await;
}
