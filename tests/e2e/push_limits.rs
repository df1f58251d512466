//! Waiting clients are notified, and one user's work blocks nobody else.

use std::fs;
use std::net::TcpStream;
use std::process::Stdio;

use crate::apps::AppSource;
use crate::git_client::{GitClient, repository, url};
use crate::push_hostile::{begin_request, git_with_input, line};
use crate::ssh_user::{self, SshUser, is_ssh_missing};
use crate::test_instance::{TestInstance, find_processes, seconds, wait_for};

/// Begins half of a raw push to a branch: it holds the receive lock.
fn begin_half_push(
    tancho: &TestInstance,
    work: &crate::git_client::WorkingCopy<'_>,
    commit: &str,
) -> TcpStream {
    let pack = git_with_input(
        work,
        &["pack-objects", "--stdout", "--revs", "--quiet"],
        commit.as_bytes(),
    );
    let command = format!(
        "{} {commit} refs/heads/held\0 report-status side-band-64k",
        "0".repeat(40)
    );
    let mut body = format!("{}0000", line(&command)).into_bytes();
    body.extend_from_slice(&pack);
    begin_request(tancho, "git-receive-pack", body.len(), &body[..body.len() / 2])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_waiting_for_another_is_notified_over_http_and_ssh() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let tip = work.commit(&AppSource::web("one"), "One");
    assert_eq!(work.remote_ref("refs/heads/main"), "");
    let path = repository(&tancho);
    let ana = match is_ssh_missing() {
        true => None,
        false => {
            let ana = SshUser::new(&tancho, "ana").await;
            ana.join_team(&tancho).await;
            Some(ana)
        }
    };
    let mut urls = vec![url(&tancho, &tancho.token, "shop")];
    urls.extend(ana.iter().map(|_| ssh_user::repository_url(&tancho, "shop")));
    for (n, url) in urls.iter().enumerate() {
        let held = begin_half_push(&tancho, &work, &tip);
        wait_for("the first one is received", seconds(60), async || {
            let found = find_processes(&format!("GIT_DIR={}", path.display()));
            found
                .iter()
                .any(|(_, line)| line.contains("receive-pack"))
                .then_some(())
        })
        .await;
        let client = ana.as_ref().filter(|_| n > 0).map_or(&client, |ana| &ana.client);
        let other = client.init_copy(&format!("other-{n}"), url);
        other.commit(&AppSource::web("one").with("more", url), "Other");
        let (mut child, mut lines, text) = other.begin_push("main:refs/heads/other", "waiting for it");
        assert!(
            text.contains("Another push or fetch into this repository is in progress"),
            "{text}"
        );
        drop(held);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut lines, &mut rest).unwrap();
        assert!(child.wait().unwrap().success(), "{text}{rest}");
        assert_ne!(other.remote_ref("refs/heads/other"), "");
        work.push(&[":refs/heads/other"]).expect_success();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_fetches_and_pushes_per_user_are_limited() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let tip = work.commit(&AppSource::web("one"), "One");
    work.push(&["main:idea"]).expect_success();
    let path = repository(&tancho);
    let count = || find_processes(&format!("GIT_DIR={}", path.display())).len();
    // Twice as many as there are slots in all, each an incomplete request.
    let body = line(&format!("want {tip}\n"));
    let open: Vec<TcpStream> = (0..48)
        .map(|_| begin_request(&tancho, "git-upload-pack", body.len() + 100, body.as_bytes()))
        .collect();
    wait_for("some of them have a git", seconds(60), async || {
        (count() >= 6).then_some(())
    })
    .await;
    let ana = SshUser::new_without_key(&tancho, "ana").await;
    ana.join_team(&tancho).await;
    let theirs = url(&tancho, &ana.token, "shop");
    let began = std::time::Instant::now();
    ana.git(&["clone", "--quiet", "--branch", "idea", &theirs, "clone"])
        .expect_success();
    assert!(ana.client.home.join("clone/app.py").exists());
    assert!(count() <= 6, "{} of one user", count());
    assert!(began.elapsed() < seconds(60), "{:?}", began.elapsed());
    drop(open);
    wait_for("they have exited", seconds(60), async || {
        (count() == 0).then_some(())
    })
    .await;
    // The user can keep working.
    client
        .run(
            &client.home,
            &["clone", "--quiet", &url(&tancho, &tancho.token, "shop"), "mine"],
        )
        .expect_success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ssh_connections_per_user_are_limited() {
    if is_ssh_missing() {
        return;
    }
    let tancho = TestInstance::with(&[("TANCHO_SSH_MAX_CONNECTIONS", "8")]).await;
    tancho.create_app("shop").await;
    let (mallory, ana) = (
        SshUser::new(&tancho, "mallory").await,
        SshUser::new(&tancho, "ana").await,
    );
    ana.join_team(&tancho).await;
    let mut held = Vec::new();
    for n in 0..2 {
        let said = tancho.root.join(format!("said-{n}"));
        let log = fs::File::create(&said).unwrap();
        let child = mallory
            .ssh(&tancho, &["-N", "-v"], &[])
            .stderr(log)
            .spawn()
            .unwrap();
        held.push((child, said));
    }
    for (_, said) in &held {
        wait_for("a connection is logged in", seconds(60), async || {
            fs::read_to_string(said)
                .unwrap()
                .contains("Authenticated")
                .then_some(())
        })
        .await;
    }
    let third = mallory
        .ssh(&tancho, &["-N"], &[])
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&third.stderr).into_owned();
    assert!(
        !third.status.success() && said.contains("Too many connections"),
        "{said}"
    );
    let work = ana.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::web("one"), "One");
    work.push(&["main:idea"]).expect_success();
    for (mut child, _) in held {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
