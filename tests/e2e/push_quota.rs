//! Repository quotas: concurrent pushes, packs that unpack to more than their size, and the repacking healer.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use reqwest::Method;

use crate::apps::AppSource;
use crate::git_client::{GitClient, chown_to_git_user, repository};
use crate::push_hostile::{begin_request, git_with_input, line, list_push_leftovers, random_bytes, size};
use crate::test_instance::{TestInstance, find_processes, list_names, seconds, wait_for};

const MIB: u64 = 1 << 20;

/// Returns the command that points a new branch to a commit; the pack follows it.
fn ref_update(commit: &str, branch: &str) -> Vec<u8> {
    let none = "0".repeat(40);
    let command = format!("{none} {commit} refs/heads/{branch}\0 report-status side-band-64k");
    format!("{}0000", line(&command)).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_pushes_share_the_remaining_quota() {
    let tancho = TestInstance::with(&[("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M")]).await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let (one, two) = (
        client.init_copy_of_app(&tancho, "one", "shop"),
        client.init_copy_of_app(&tancho, "two", "shop"),
    );
    let bytes = random_bytes(5 << 19);
    let (first, second) = bytes.split_at(5 << 18);
    for (work, bytes) in [(&one, first), (&two, second)] {
        fs::write(work.path.join("noise"), bytes).unwrap();
    }
    let commit = one.commit(&AppSource::default(), "One");
    two.commit(&AppSource::default(), "Two");
    let arguments = ["pack-objects", "--stdout", "--revs", "--quiet"];
    let mut body = ref_update(&commit, "one");
    body.extend_from_slice(&git_with_input(&one, &arguments, commit.as_bytes()));

    // The first is halfway; the second would fit alone.
    let (half, rest) = body.split_at(body.len() / 2);
    let mut push = begin_request(&tancho, "git-receive-pack", body.len(), half);
    let folder = tancho.data.join("repositories");
    wait_for("the first has begun", seconds(60), async || {
        (list_names(&folder).len() > 2 && size(&folder) > MIB / 4).then_some(())
    })
    .await;
    let path = repository(&tancho);
    let mut other = two.client.command(&two.path, &["push", "tancho", "main:two"]);
    let other = other
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let place = two.path.display().to_string();
    wait_for("the second sends", seconds(60), async || {
        let found = find_processes(&place);
        found
            .iter()
            .any(|(_, line)| line.contains("send-pack"))
            .then_some(())
    })
    .await;
    push.write_all(rest).unwrap();
    let (mut answer, mut chunk) = (String::new(), [0; 4096]);
    while !answer.contains("unpack ") {
        let read = push.read(&mut chunk).unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    assert!(answer.contains("unpack ok"), "{answer}");
    let output = other.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("pack exceeds maximum allowed size"),
        "{said}"
    );
    assert_eq!(one.remote_ref("refs/heads/one"), commit);
    assert_eq!(one.remote_ref("refs/heads/two"), "");
    assert!(size(&path) < 2 * MIB, "{}", size(&path));
    assert_eq!(list_push_leftovers(&path), Vec::<String>::new());
}

/// Returns the header of an object in a pack.
fn object_header(kind: u8, mut length: usize) -> Vec<u8> {
    let mut bytes = vec![(kind << 4) | (length & 15) as u8];
    length >>= 4;
    while length > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push((length & 0x7f) as u8);
        length >>= 7;
    }
    bytes
}

/// Returns a delta of so many whole copies of a base of this length, and then literal bytes.
fn delta(base: usize, copies: usize, own: &[u8]) -> Vec<u8> {
    let number = |mut n: usize, bytes: &mut Vec<u8>| {
        while n > 0x7f {
            bytes.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
    };
    let mut bytes = Vec::new();
    number(base, &mut bytes);
    number(base * copies + own.len(), &mut bytes);
    for _ in 0..copies {
        let mut at = 0;
        while at < base {
            let length = (base - at).min(0xff_ffff);
            bytes.push(0xff);
            bytes.extend_from_slice(&(at as u32).to_le_bytes());
            bytes.extend_from_slice(&(length as u32).to_le_bytes()[..3]);
            at += length;
        }
    }
    if !own.is_empty() {
        bytes.push(own.len() as u8);
        bytes.extend_from_slice(own);
    }
    bytes
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns an object that is a delta of the one with this id.
fn delta_of(id: &str, delta: &[u8]) -> Vec<u8> {
    let mut object = object_header(7, delta.len());
    object.extend((0..20).map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16).unwrap()));
    object.extend_from_slice(&compress(delta));
    object
}

/// Returns an object that is a delta of the one that begins so many bytes before it.
fn delta_before(mut distance: usize, delta: &[u8]) -> Vec<u8> {
    let mut offset = vec![(distance & 0x7f) as u8];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        offset.insert(0, (distance & 0x7f) as u8 | 0x80);
    }
    let mut object = object_header(6, delta.len());
    object.extend(offset);
    object.extend_from_slice(&compress(delta));
    object
}

fn pack(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = b"PACK\0\0\0\x02".to_vec();
    bytes.extend_from_slice(&u32::try_from(objects.len()).unwrap().to_be_bytes());
    bytes.extend(objects.iter().flatten());
    let mut sum = Command::new("sha1sum");
    let mut sum = sum.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(&bytes).unwrap();
    let said = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
    bytes.extend((0..20).map(|n| u8::from_str_radix(&said[2 * n..2 * n + 2], 16).unwrap()));
    bytes
}

/// Pushes a raw pack, to a new branch on an existing commit; returns the response, and the peak memory of git
/// in the repository meanwhile.
async fn push(tancho: &TestInstance, repository: &Path, commit: &str, pack: &[u8]) -> (String, u64) {
    let mut body = ref_update(commit, "bomb");
    body.extend_from_slice(pack);
    let ended = Arc::new(AtomicBool::new(false));
    let (end, place) = (Arc::clone(&ended), repository.display().to_string());
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !end.load(Ordering::SeqCst) {
            for (pid, _) in find_processes(&place) {
                // It has exited meanwhile.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
                most = most.max(peak.unwrap_or(0) * 1024);
            }
        }
        most
    });
    let url = format!("{}/git/shop.git/git-receive-pack", tancho.running().api);
    let request = tancho.http.post(url).basic_auth("x", Some(&tancho.token));
    let request = request.header("content-type", "application/x-git-receive-pack-request");
    let answer = request.body(body).send().await.unwrap().bytes().await.unwrap();
    ended.store(true, Ordering::SeqCst);
    (
        String::from_utf8_lossy(&answer).into_owned(),
        watching.join().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_bomb_pack_stays_within_memory_and_disk_limits() {
    let tancho = TestInstance::with(&[
        ("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
    ])
    .await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let mut bytes = random_bytes(300_000);
    for count in 0..10 {
        bytes[count * 1000] ^= 0xff;
        fs::write(work.path.join(format!("f{count}")), &bytes).unwrap();
    }
    let good = work.commit(&AppSource::default(), "Ten alike");
    work.push(&["main:aside"]).expect_success();
    let path = repository(&tancho);
    assert!(size(&path) < MIB, "{}", size(&path));

    // Each object is twice the one before: 64 kB, 128 kB, … 1 GB.
    let mut length = 64 << 10;
    let mut objects = vec![[object_header(3, length), compress(&random_bytes(length))].concat()];
    for _ in 0..14 {
        let before = objects.last().unwrap().len();
        objects.push(delta_before(before, &delta(length, 2, b"")));
        length *= 2;
    }
    let (said, memory) = push(&tancho, &path, &good, &pack(&objects)).await;
    assert!(
        said.contains("attempting to allocate") && said.contains("unpack "),
        "{said}"
    );
    assert!(memory < 400 * MIB, "{} MiB", memory / MIB);

    // Deltas of objects that are deltas here have their bases written out in full: ten times 300 kB.
    let ids = (0..10).map(|count| {
        let id = work
            .git(&["rev-parse", &format!("HEAD:f{count}")])
            .expect_success();
        delta_of(id.trim(), &delta(300_000, 1, b"x"))
    });
    let thin = pack(&ids.collect::<Vec<_>>());
    assert!(thin.len() < 1000, "{}", thin.len());
    let (said, _) = push(&tancho, &path, &good, &thin).await;
    assert!(
        said.contains("File too large") && said.contains("unpack "),
        "{said}"
    );
    assert_eq!(work.remote_ref("refs/heads/bomb"), "");
    assert_eq!(list_push_leftovers(&path), Vec::<String>::new());
    assert!(size(&path) < MIB, "{}", size(&path));
    client.run(&path, &["fsck", "--strict"]).expect_success();
}

/// Counts the packs and the loose objects of a repository.
fn count_packs_and_objects(repository: &Path) -> (usize, usize) {
    let packs = list_names(&repository.join("objects/pack"));
    let folders = list_names(&repository.join("objects"));
    let loose = folders.iter().filter(|name| name.len() == 2);
    (
        packs.iter().filter(|name| name.ends_with(".pack")).count(),
        loose
            .map(|name| list_names(&repository.join("objects").join(name)).len())
            .sum(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repository_of_many_small_pushes_is_repacked_without_loss() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::default().with("file", "first"), "First");
    work.push(&["main:aside"]).expect_success();
    let path = repository(&tancho);
    for number in 0..24 {
        work.commit(
            &AppSource::default().with("file", &format!("{number}")),
            "Another",
        );
        work.push(&["main:aside"]).expect_success();
    }
    // Rewritten: the old commits are no longer reachable.
    work.git(&["reset", "--quiet", "--hard", "HEAD~3"])
        .expect_success();
    let last = work.commit(&AppSource::default().with("file", "last"), "Last");
    work.push(&["--force", "main:aside"]).expect_success();
    // As a fetch of few objects leaves it, and a killed one.
    let loose = work.commit(&AppSource::default().with("other", "loose"), "Loose");
    let from = work.path.display().to_string();
    client
        .run(&path, &["fetch", "--quiet", &from, "main:refs/heads/loose"])
        .expect_success();
    fs::write(path.join("objects/pack/tmp_pack_dead"), random_bytes(1000)).unwrap();
    chown_to_git_user(&path);
    let (packs, singles) = count_packs_and_objects(&path);
    assert!(packs >= 26 && singles >= 3, "{packs} packs, {singles} objects");

    let healed = tancho
        .request_as_admin(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    wait_for("it is packed", seconds(90), async || {
        let (packs, singles) = count_packs_and_objects(&path);
        (packs <= 2 && singles == 0).then_some(())
    })
    .await;
    assert!(!path.join("objects/pack/tmp_pack_dead").exists());
    client.run(&path, &["fsck", "--strict"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/aside"), last);
    assert_eq!(work.remote_ref("refs/heads/loose"), loose);
}
