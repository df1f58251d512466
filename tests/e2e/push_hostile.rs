//! Pushes that are too large, malformed, or never come to their end.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::apps::Source;
use crate::desk::{Copy, Desk, remote_lines, repository};
use crate::house::{House, names, processes_with, seconds, until};

/// Bytes that no packing makes smaller.
pub(crate) fn noise(length: usize) -> Vec<u8> {
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

/// Runs git with something on its standard input; what it answers.
pub(crate) fn feed(work: &Copy<'_>, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = work.desk.command(&work.path, arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    output.stdout
}

fn object(work: &Copy<'_>, arguments: &[&str], input: &[u8]) -> String {
    String::from_utf8(feed(work, arguments, input))
        .unwrap()
        .trim()
        .to_owned()
}

/// A commit of a tree.
fn commit_tree(work: &Copy<'_>, tree: &str) -> String {
    work.git(&["commit-tree", "-m", "Odd", tree])
        .must()
        .trim()
        .to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_pushes_bombs_and_hostile_trees_are_refused_and_disk_is_bounded() {
    let house = House::with(&[
        ("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
        ("TANCHO_BUILDS_MAX_FILES", "1000"),
    ])
    .await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    let good = work.commit(&Source::web("one"), "One");
    work.push(&["main"]).must();
    let refused = |what: &str, why: &str| {
        let said = work.push(&[&format!("+{what}:main")]).must_fail();
        assert!(said.contains(why), "{what}: {said}");
        assert_eq!(work.remote("refs/heads/main"), good, "{said}");
    };

    fs::write(work.path.join("noise"), noise(3 << 20)).unwrap();
    let large = work.commit(&Source::default(), "Large");
    refused(&large, "pack exceeds maximum allowed size");
    // The same where nothing is deployed.
    let said = work.push(&[&format!("{large}:refs/heads/aside")]).must_fail();
    assert!(
        remote_lines(&said).contains("pack exceeds maximum allowed size"),
        "{said}"
    );
    work.git(&["reset", "--quiet", "--hard", &good]).must();

    // Small as a pack.
    fs::write(work.path.join("zeros"), vec![0; 40 << 20]).unwrap();
    let bomb = work.commit(&Source::default(), "Zeros");
    refused(&bomb, "more than the 1000 files and folders or 33554432 bytes");
    work.git(&["reset", "--quiet", "--hard", &good]).must();

    // Ten folders of ten folders of …, all the same, without a file.
    let blob = object(&work, &["hash-object", "-w", "--stdin"], b"x");
    let mut list = String::new();
    for _ in 0..10 {
        let tree = object(&work, &["mktree"], list.as_bytes());
        list = (0..10).map(|n| format!("040000 tree {tree}\td{n}\n")).collect();
    }
    let tree = object(&work, &["mktree"], list.as_bytes());
    refused(&commit_tree(&work, &tree), "more than the 1000 files");

    // A name that leads up, made by no honest git.
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
        let linked = work.commit(&Source::default(), "Linked");
        refused(&linked, "leads out");
        work.git(&["reset", "--quiet", "--hard", &good]).must();
    }

    // A hook in the tree is a file like any other.
    let mark = house.root.join("mark");
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
    work.commit(&Source::web("two"), "With hooks");
    work.push(&["main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
    assert!(!mark.exists());

    let path = repository(&house);
    assert!(size(&path) < 1 << 20, "{}", size(&path));
    assert_eq!(left(&path), Vec::<String>::new());
    desk.run(&path, &["fsck", "--strict"]).must();
}

/// What pushes under way keep in a repository.
pub(crate) fn left(repository: &Path) -> Vec<String> {
    let mut found = names(&repository.join("objects"));
    found.retain(|name| name.len() > 2 && name != "info" && name != "pack");
    found
}

/// Begins a request by hand: all of its head, some of its body.
pub(crate) fn begin(house: &House, service: &str, length: usize, body: &[u8]) -> TcpStream {
    let address = house.running().api.trim_start_matches("http://").to_owned();
    let login = STANDARD.encode(format!("x:{}", house.token));
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
async fn whoever_stops_in_the_middle_holds_no_git_and_a_slow_build_is_waited_for() {
    let house = House::with(&[("TANCHO_API_REQUEST_TIMEOUT_SECONDS", "2")]).await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    fs::write(work.path.join("noise"), noise(40 << 20)).unwrap();
    let tip = work.commit(&Source::default(), "Large");
    work.push(&["main:large"]).must();
    let path = repository(&house);
    let gits = |service: &str| -> Vec<(i32, String)> {
        let found = processes_with(&path.display().to_string());
        found
            .into_iter()
            .filter(|(_, line)| line.contains(service))
            .collect()
    };
    let runs = async |service: &str, wanted: bool| {
        until(&format!("{service} runs: {wanted}"), seconds(60), async || {
            (gits(service).is_empty() != wanted).then_some(())
        })
        .await;
    };

    // One who asks for everything and reads nothing.
    let want = format!("{}0000{}", line(&format!("want {tip}\n")), line("done\n"));
    let fetch = begin(&house, "git-upload-pack", want.len(), want.as_bytes());
    runs("upload-pack", true).await;
    runs("upload-pack", false).await;
    drop(fetch);

    // One who promises more than they send, and one who hangs up halfway through the pack.
    let other = work.commit(&Source::default().with("more", "x"), "More");
    let pack = feed(
        &work,
        &["pack-objects", "--stdout", "--revs", "--quiet"],
        other.as_bytes(),
    );
    let none = "0".repeat(40);
    let wish = format!("{none} {other} refs/heads/half\0 report-status side-band-64k");
    let mut body = format!("{}0000", line(&wish)).into_bytes();
    body.extend_from_slice(&pack);
    let half = &body[..body.len() / 2];
    let push = begin(&house, "git-receive-pack", body.len(), half);
    runs("receive-pack", true).await;
    runs("receive-pack", false).await;
    drop(push);
    drop(begin(&house, "git-receive-pack", body.len(), half));
    runs("receive-pack", false).await;
    assert_eq!(work.remote("refs/heads/half"), "");
    until("nothing of them is left", seconds(60), async || {
        left(&path).is_empty().then_some(())
    })
    .await;
    let pushes = names(&house.data.join("repositories"));
    assert!(!pushes.iter().any(|name| name.starts_with("push-")), "{pushes:?}");
    desk.run(&path, &["fsck", "--strict"]).must();

    // A build that takes longer than an upload may pause.
    work.git(&["rm", "--quiet", "--cached", "noise"]).must();
    fs::remove_file(work.path.join("noise")).unwrap();
    work.commit(&Source::web("slow").hooks(&["sleep 5"]), "Slow");
    work.push(&["main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "slow -".to_owned()));
}
