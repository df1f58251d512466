//! Pushes that are too large, malformed, or never end.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::apps::AppSource;
use crate::git_client::{GitClient, WorkingCopy, remote_lines, repository};
use crate::test_instance::{TestInstance, find_processes, list_names, seconds, wait_for};

/// Returns bytes that cannot be compressed.
pub(crate) fn random_bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| match entry.metadata().unwrap() {
            found if found.is_dir() => size(&entry.path()),
            found => found.len(),
        })
        .sum()
}

/// Runs git with standard input; returns its output.
pub(crate) fn git_with_input(work: &WorkingCopy<'_>, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = work.client.command(&work.path, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

fn object(work: &WorkingCopy<'_>, arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8(git_with_input(work, arguments, input))
        .unwrap()
        .trim()
        .to_owned()
}

/// Commits a tree; returns the commit.
fn commit_tree(work: &WorkingCopy<'_>, tree: &str) -> String {
    work.git(&["commit-tree", "-m", "Odd", tree])
        .expect_success()
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_pushes_bombs_and_hostile_trees_are_refused_and_disk_is_bounded() {
    let tancho = TestInstance::with(&[
        ("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
        ("TANCHO_BUILDS_MAX_FILES", "1000"),
    ])
    .await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let good = work.commit(&AppSource::web("one"), "One");
    work.push(&["main"]).expect_success();
    let refused = |what: &str, why: &str| {
        let said = work.push(&[&format!("+{what}:main")]).expect_failure();
        assert!(said.contains(why), "{what}: {said}");
        assert_eq!(work.remote_ref("refs/heads/main"), good, "{said}");
    };

    fs::write(work.path.join("noise"), random_bytes(3 << 20)).unwrap();
    let large = work.commit(&AppSource::default(), "Large");
    refused(&large, "pack exceeds maximum allowed size");
    // The same where nothing is deployed.
    let said = work
        .push(&[&format!("{large}:refs/heads/aside")])
        .expect_failure();
    assert!(
        remote_lines(&said).contains("pack exceeds maximum allowed size"),
        "{said}"
    );
    work.git(&["reset", "--quiet", "--hard", &good]).expect_success();

    // Small when packed.
    fs::write(work.path.join("zeros"), vec![0; 40 << 20]).unwrap();
    let bomb = work.commit(&AppSource::default(), "Zeros");
    refused(&bomb, "more than the 1000 files and folders or 33554432 bytes");
    work.git(&["reset", "--quiet", "--hard", &good]).expect_success();

    // Ten folders of ten folders of …, all the same, without a file.
    let blob = object(&work, &["hash-object", "-w", "--stdin"], b"x");
    let mut list = String::new();
    for _ in 0..10 {
        let tree = object(&work, &["mktree"], list.as_bytes());
        list = (0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect();
    }
    let tree = object(&work, &["mktree"], list.as_bytes());
    refused(&commit_tree(&work, &tree), "more than the 1000 files");

    // A name that leads to the parent folder, which git itself never creates.
    let up = object(&work, &["mktree"], format!("100644 blob {blob}\tf\n").as_bytes());
    let mut raw = b"40000 ..\0".to_vec();
    raw.extend((0..20).map(|n| u8::from_str_radix(&up[2 * n..2 * n + 2], 16).unwrap()));
    let tree = object(
        &work,
        &["hash-object", "-t", "tree", "-w", "--literally", "--stdin"],
        &raw,
    );
    refused(&commit_tree(&work, &tree), "hasDotdot");

    // Links that lead out.
    for target in ["/etc/passwd", "../../other"] {
        symlink(target, work.path.join("link")).unwrap();
        let linked = work.commit(&AppSource::default(), "Linked");
        refused(&linked, "leads out");
        work.git(&["reset", "--quiet", "--hard", &good]).expect_success();
    }

    // A hook in the tree is an ordinary file.
    let mark = tancho.root.join("mark");
    for name in ["hooks", "pre-receive.d"] {
        fs::create_dir(work.path.join(name)).unwrap();
        for hook in [
            "pre-receive",
            "update",
            "post-receive",
            "post-update",
            "reference-transaction",
        ] {
            let path = work.path.join(name).join(hook);
            fs::write(&path, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
    work.commit(&AppSource::web("two"), "With hooks");
    work.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert!(!mark.exists());

    let path = repository(&tancho);
    assert!(size(&path) < 1 << 20, "{}", size(&path));
    assert_eq!(list_push_leftovers(&path), Vec::<String>::new());
    client.run(&path, &["fsck", "--strict"]).expect_success();
}

/// Returns the files that pushes in progress keep in a repository.
pub(crate) fn list_push_leftovers(repository: &Path) -> Vec<String> {
    let mut found = list_names(&repository.join("objects"));
    found.retain(|name| name.len() > 2 && name != "info" && name != "pack");
    found
}

/// Begins a raw request: the whole head, and a part of the body.
pub(crate) fn begin_request(tancho: &TestInstance, service: &str, length: usize, body: &[u8]) -> TcpStream {
    let address = tancho.running().api.trim_start_matches("http://").to_owned();
    let login = STANDARD.encode(format!("x:{}", tancho.token));
    let mut stream = TcpStream::connect(&address).unwrap();
    let head = format!(
        "POST /git/shop.git/{service} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Basic {login}\r\n\
         Content-Type: application/x-{service}-request\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    stream
}

pub(crate) fn line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_pushes_release_git_and_slow_builds_finish() {
    let tancho = TestInstance::with(&[("TANCHO_API_REQUEST_TIMEOUT_SECONDS", "2")]).await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    fs::write(work.path.join("noise"), random_bytes(40 << 20)).unwrap();
    let tip = work.commit(&AppSource::default(), "Large");
    work.push(&["main:large"]).expect_success();
    let path = repository(&tancho);
    let gits = |service: &str| -> Vec<(i32, String)> {
        let found = find_processes(&path.display().to_string());
        found
            .into_iter()
            .filter(|(_, line)| line.contains(service))
            .collect()
    };
    let runs = async |service: &str, wanted: bool| {
        wait_for(&format!("{service} runs: {wanted}"), seconds(60), async || {
            (gits(service).is_empty() != wanted).then_some(())
        })
        .await;
    };

    // A client that requests everything and reads nothing.
    let want = format!("{}0000{}", line(&format!("want {tip}\n")), line("done\n"));
    let fetch = begin_request(&tancho, "git-upload-pack", want.len(), want.as_bytes());
    runs("upload-pack", true).await;
    runs("upload-pack", false).await;
    drop(fetch);

    // A client that sends less than announced, and one that disconnects halfway through the pack.
    let other = work.commit(&AppSource::default().with("more", "x"), "More");
    let pack = git_with_input(
        &work,
        &["pack-objects", "--stdout", "--revs", "--quiet"],
        other.as_bytes(),
    );
    let none = "0".repeat(40);
    let command = format!("{none} {other} refs/heads/half\0 report-status side-band-64k");
    let mut body = format!("{}0000", line(&command)).into_bytes();
    body.extend_from_slice(&pack);
    let half = &body[..body.len() / 2];
    let push = begin_request(&tancho, "git-receive-pack", body.len(), half);
    runs("receive-pack", true).await;
    runs("receive-pack", false).await;
    drop(push);
    drop(begin_request(&tancho, "git-receive-pack", body.len(), half));
    runs("receive-pack", false).await;
    assert_eq!(work.remote_ref("refs/heads/half"), "");
    wait_for("no leftovers exist", seconds(60), async || {
        list_push_leftovers(&path).is_empty().then_some(())
    })
    .await;
    let pushes = list_names(&tancho.data.join("repositories"));
    assert!(!pushes.iter().any(|name| name.starts_with("push-")), "{pushes:?}");
    client.run(&path, &["fsck", "--strict"]).expect_success();

    // A build that takes longer than an upload may stall.
    work.git(&["rm", "--quiet", "--cached", "noise"]).expect_success();
    fs::remove_file(work.path.join("noise")).unwrap();
    work.commit(&AppSource::web("slow").hooks(&["sleep 5"]), "Slow");
    work.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "slow -".to_owned()));
}
