//! A push that git rejects is rejected before the build; pushes from CI are accepted.

use std::fs::{self, File};
use std::io::Read;
use std::time::{Duration, SystemTime};

use crate::apps::AppSource;
use crate::git_client::{GitClient, WorkingCopy, remote_lines, repository, url};
use crate::push::newest;
use crate::push_hostile::{begin_request, git_with_input, line};
use crate::test_instance::{TestInstance, seconds, wait_for};

async fn deploys(tancho: &TestInstance) -> usize {
    tancho
        .read_json("/1.0/deploys?app=shop")
        .await
        .as_array()
        .unwrap()
        .len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_rejected_by_git_is_rejected_before_the_build() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::web("one"), "One");
    work.push(&["main"]).expect_success();
    work.git(&["tag", "--annotate", "-m", "A tag", "v1"])
        .expect_success();
    work.commit(&AppSource::web("two"), "Two");
    let before = deploys(&tancho).await;
    for (what, why) in [
        (
            &["--atomic", "main", "main:refs/heads/main/x"][..],
            "refs/heads/main",
        ),
        (&["main", "main:refs/heads/main/x"], "refs/heads/main"),
        (
            &["main", "main:refs/heads/a", "main:refs/heads/a/b"],
            "refs/heads/a",
        ),
        (&["main", "v1:refs/heads/tag"], "non-commit object"),
        (&["v1:main"], "A branch must point to a commit"),
    ] {
        let said = work.push(what).expect_failure();
        assert!(remote_lines(&said).contains(why), "{what:?}: {said}");
        assert_eq!(work.remote_ref("refs/heads/main"), first, "{what:?}: {said}");
        assert_eq!(deploys(&tancho).await, before, "{what:?}: {said}");
    }
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    // A lock whose holder crashed with its machine blocks nobody.
    let lock = repository(&tancho).join("refs/heads/main.lock");
    let file = File::create(&lock).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600))
        .unwrap();
    // Branches and a tag move together with a deploy, even if they are many.
    let many: String = (0..1000)
        .map(|n| format!("create refs/heads/many/{n} {first}\n"))
        .collect();
    git_with_input(&work, &["update-ref", "--stdin"], many.as_bytes());
    work.push(&["--atomic", "main", "v1", "refs/heads/many/*"])
        .expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(work.remote_ref("refs/heads/many/999"), first);
    assert_ne!(work.remote_ref("refs/tags/v1"), "");
    assert_eq!(deploys(&tancho).await, before + 1);
}

/// Decodes the chunked body of a response, as far as it was received.
fn decode_chunked(answer: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let Some(head) = answer.windows(4).position(|four| four == b"\r\n\r\n") else {
        return body;
    };
    let mut rest = &answer[head + 4..];
    while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let Some(content) = rest.get(end + 2..end + 2 + size) else {
            break;
        };
        body.extend_from_slice(content);
        rest = rest.get(end + 2 + size + 2..).unwrap_or_default();
    }
    body
}

/// Returns git's messages in a response, without the lengths of its packets and the numbers of their bands
/// (gitprotocol-common, "pkt-line format"): one sentence may come in several packets.
fn git_messages(answer: &[u8]) -> String {
    let body = decode_chunked(answer);
    let mut rest = body.as_slice();
    let mut words = Vec::new();
    while let Some(length) = rest.get(..4) {
        let length = usize::from_str_radix(std::str::from_utf8(length).unwrap(), 16).unwrap();
        let Some(packet) = rest.get(..length.max(4)) else {
            break;
        };
        words.extend_from_slice(packet.get(5..).unwrap_or_default());
        rest = &rest[packet.len()..];
    }
    String::from_utf8_lossy(&words).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_with_missing_history_is_not_deployed() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::web("one"), "One");
    let second = work.commit(&AppSource::web("two"), "Two");
    // All objects of the second commit, which does not declare its parent missing.
    let objects = work
        .git(&["rev-list", "--objects", "--no-object-names", &second])
        .expect_success();
    let objects: String = objects
        .lines()
        .filter(|id| *id != first)
        .map(|id| format!("{id}\n"))
        .collect();
    let pack = git_with_input(
        &work,
        &["pack-objects", "--stdout", "--quiet"],
        objects.as_bytes(),
    );
    let command = format!(
        "{} {second} refs/heads/main\0 report-status side-band-64k",
        "0".repeat(40)
    );
    let mut body = format!("{}0000", line(&command)).into_bytes();
    body.extend_from_slice(&pack);
    // The first request creates the repository.
    assert_eq!(work.remote_ref("refs/heads/main"), "");
    let mut push = begin_request(&tancho, "git-receive-pack", body.len(), &body);
    push.set_read_timeout(Some(seconds(60))).unwrap();
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    while !git_messages(&answer).contains("ng refs/heads/main") {
        let read = push.read(&mut chunk).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&chunk[..read]);
    }
    let answer = git_messages(&answer);
    // Git's own check comes first where it detects that objects are missing.
    let is_said = ["This push lacks objects", "did not receive expected object"];
    assert!(is_said.iter().any(|words| answer.contains(words)), "{answer}");
    assert_eq!(deploys(&tancho).await, 0, "{answer}");
    assert_eq!(work.remote_ref("refs/heads/main"), "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_from_a_shallow_clone_and_later_pushes_are_deployed() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let full = client.init_copy_of_app(&tancho, "full", "shop");
    for text in ["one", "two", "three"] {
        full.commit(&AppSource::web(text), text);
    }
    let origin = format!("file://{}", full.path.display());
    let target = url(&tancho, &tancho.token, "shop");
    let clone = |folder: &str| {
        client
            .run(
                &client.home,
                &["clone", "--quiet", "--depth", "1", &origin, folder],
            )
            .expect_success();
        let path = client.home.join(folder);
        let copy = WorkingCopy {
            client: &client,
            path,
        };
        copy.git(&["remote", "add", "tancho", &target]).expect_success();
        copy
    };
    // As a CI job does, into an empty repository, and again from a later clone.
    clone("first").push(&["--atomic", "main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "three -".to_owned()));
    full.commit(&AppSource::web("four"), "four");
    let tip = full.commit(&AppSource::web("five"), "five");
    clone("second").push(&["--force", "main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "five -".to_owned()));
    assert_eq!(newest(&tancho, "shop").await["Commit"], tip.as_str());
    // A full clone keeps working, and a new clone gets what exists.
    let six = full.commit(&AppSource::web("six"), "six");
    full.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "six -".to_owned()));
    client
        .run(&client.home, &["clone", "--quiet", &target, "clone"])
        .expect_success();
    let clone = WorkingCopy {
        client: &client,
        path: client.home.join("clone"),
    };
    assert_eq!(clone.git(&["rev-parse", "HEAD"]).expect_success().trim(), six);
    client.run(&repository(&tancho), &["fsck"]).expect_success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_pushed_with_a_deploy_are_locked_until_its_end() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let gate = tancho.root.join("gate");
    let wait = format!(
        "echo in the build; while [ ! -e {} ]; do sleep 0.1; done",
        gate.display()
    );
    let tip = work.commit(&AppSource::web("one").hooks(&[&wait]), "Slow");
    work.git(&["branch", "topic"]).expect_success();
    let (mut child, mut lines, mut text) = work.begin_push("refs/heads/*:refs/heads/*", "in the build");
    let second = client.init_copy_of_app(&tancho, "second", "shop");
    second.commit(&AppSource::web("two"), "Other");
    second.push(&["main:topic"]).expect_failure();
    second.push(&["main:elsewhere"]).expect_success();
    fs::write(&gate, "").unwrap();
    lines.read_to_string(&mut text).unwrap();
    assert!(child.wait().unwrap().success(), "{text}");
    assert_eq!(work.remote_ref("refs/heads/topic"), tip);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    wait_for("no lock is left", seconds(30), async || {
        let refs = repository(&tancho).join("refs/heads");
        (!crate::test_instance::list_names(&refs)
            .iter()
            .any(|name| name.ends_with(".lock")))
        .then_some(())
    })
    .await;
}
