//! Room in repositories: pushes at once, packs that unpack to more than they are, and the healer that packs.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use reqwest::Method;

use crate::apps::Source;
use crate::desk::{Desk, repository};
use crate::house::{House, names, processes_with, seconds, until};
use crate::push_hostile::{begin, feed, left, line, noise, size};

const MIB: u64 = 1 << 20;

/// What moves a new branch to a commit; the pack comes after it.
fn wish(commit: &str, branch: &str) -> Vec<u8> {
    let none = "0".repeat(40);
    let wish = format!("{none} {commit} refs/heads/{branch}\0 report-status side-band-64k");
    format!("{}0000", line(&wish)).into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_at_once_share_the_room_that_is_left() {
    let house = House::with(&[("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M")]).await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let (one, two) = (desk.copy(&house, "one", "shop"), desk.copy(&house, "two", "shop"));
    let bytes = noise(5 << 19);
    let (first, second) = bytes.split_at(5 << 18);
    for (work, bytes) in [(&one, first), (&two, second)] {
        fs::write(work.path.join("noise"), bytes).unwrap();
    }
    let commit = one.commit(&Source::default(), "One");
    two.commit(&Source::default(), "Two");
    let arguments = ["pack-objects", "--stdout", "--revs", "--quiet"];
    let mut body = wish(&commit, "one");
    body.extend_from_slice(&feed(&one, &arguments, commit.as_bytes()));

    // The first is halfway; the second comes, and would have room enough.
    let (half, rest) = body.split_at(body.len() / 2);
    let mut push = begin(&house, "git-receive-pack", body.len(), half);
    let folder = house.data.join("repositories");
    until("the first has begun", seconds(60), async || {
        (names(&folder).len() > 2 && size(&folder) > MIB / 4).then_some(())
    })
    .await;
    let path = repository(&house);
    let mut other = two.desk.command(&two.path, &["push", "tancho", "main:two"]);
    let other = other
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let place = two.path.display().to_string();
    until("the second sends", seconds(60), async || {
        let found = processes_with(&place);
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
    assert_eq!(one.remote("refs/heads/one"), commit);
    assert_eq!(one.remote("refs/heads/two"), "");
    assert!(size(&path) < 2 * MIB, "{}", size(&path));
    assert_eq!(left(&path), Vec::<String>::new());
}

/// The head of an object in a pack.
fn head(kind: u8, mut length: usize) -> Vec<u8> {
    let mut bytes = vec![(kind << 4) | (length & 15) as u8];
    length >>= 4;
    while length > 0 {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push((length & 0x7f) as u8);
        length >>= 7;
    }
    bytes
}

/// A delta's copies of whole of a base of this length, and then of so many bytes of its own.
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

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An object that is a delta of the one with this name.
fn delta_of(id: &str, delta: &[u8]) -> Vec<u8> {
    let mut object = head(7, delta.len());
    object.extend((0..20).map(|n| u8::from_str_radix(&id[2 * n..2 * n + 2], 16).unwrap()));
    object.extend_from_slice(&packed(delta));
    object
}

/// An object that is a delta of the one that begins so many bytes before it.
fn delta_before(mut distance: usize, delta: &[u8]) -> Vec<u8> {
    let mut offset = vec![(distance & 0x7f) as u8];
    while distance > 0x7f {
        distance = (distance >> 7) - 1;
        offset.insert(0, (distance & 0x7f) as u8 | 0x80);
    }
    let mut object = head(6, delta.len());
    object.extend(offset);
    object.extend_from_slice(&packed(delta));
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

/// Pushes a pack by hand, to a new branch on a commit that is there; what is answered, and the most memory that a git in
/// the repository took meanwhile.
async fn push(house: &House, repository: &Path, commit: &str, pack: &[u8]) -> (String, u64) {
    let mut body = wish(commit, "bomb");
    body.extend_from_slice(pack);
    let ended = Arc::new(AtomicBool::new(false));
    let (end, place) = (Arc::clone(&ended), repository.display().to_string());
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !end.load(Ordering::SeqCst) {
            for (pid, _) in processes_with(&place) {
                // It has ended meanwhile.
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let peak = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse::<u64>().ok());
                most = most.max(peak.unwrap_or(0) * 1024);
            }
        }
        most
    });
    let url = format!("{}/git/shop.git/git-receive-pack", house.running().api);
    let request = house.http.post(url).basic_auth("x", Some(&house.token));
    let request = request.header("content-type", "application/x-git-receive-pack-request");
    let answer = request.body(body).send().await.unwrap().bytes().await.unwrap();
    ended.store(true, Ordering::SeqCst);
    (
        String::from_utf8_lossy(&answer).into_owned(),
        watching.join().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_of_deltas_takes_neither_memory_nor_disk_beyond_the_bounds() {
    let house = House::with(&[
        ("TANCHO_GIT_MAX_REPOSITORY_BYTES", "2M"),
        ("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "32M"),
    ])
    .await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    let mut bytes = noise(300_000);
    for count in 0..10 {
        bytes[count * 1000] ^= 0xff;
        fs::write(work.path.join(format!("f{count}")), &bytes).unwrap();
    }
    let good = work.commit(&Source::default(), "Ten alike");
    work.push(&["main:aside"]).must();
    let path = repository(&house);
    assert!(size(&path) < MIB, "{}", size(&path));

    // Each object is twice the one before: 64 kB, 128 kB, … 1 GB.
    let mut length = 64 << 10;
    let mut objects = vec![[head(3, length), packed(&noise(length))].concat()];
    for _ in 0..14 {
        let before = objects.last().unwrap().len();
        objects.push(delta_before(before, &delta(length, 2, b"")));
        length *= 2;
    }
    let (said, memory) = push(&house, &path, &good, &pack(&objects)).await;
    assert!(
        said.contains("attempting to allocate") && said.contains("unpack "),
        "{said}"
    );
    assert!(memory < 400 * MIB, "{} MiB", memory / MIB);

    // Whoever deltas objects that are deltas here has them written out in full: ten times 300 kB.
    let ids = (0..10).map(|count| {
        let id = work.git(&["rev-parse", &format!("HEAD:f{count}")]).must();
        delta_of(id.trim(), &delta(300_000, 1, b"x"))
    });
    let thin = pack(&ids.collect::<Vec<_>>());
    assert!(thin.len() < 1000, "{}", thin.len());
    let (said, _) = push(&house, &path, &good, &thin).await;
    assert!(
        said.contains("File too large") && said.contains("unpack "),
        "{said}"
    );
    assert_eq!(work.remote("refs/heads/bomb"), "");
    assert_eq!(left(&path), Vec::<String>::new());
    assert!(size(&path) < MIB, "{}", size(&path));
    desk.run(&path, &["fsck", "--strict"]).must();
}

/// Packs of a repository, and objects in files of their own.
fn count(repository: &Path) -> (usize, usize) {
    let packs = names(&repository.join("objects/pack"));
    let folders = names(&repository.join("objects"));
    let loose = folders.iter().filter(|name| name.len() == 2);
    (
        packs.iter().filter(|name| name.ends_with(".pack")).count(),
        loose
            .map(|name| names(&repository.join("objects").join(name)).len())
            .sum(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_in_many_pieces_is_packed_and_stays_whole() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    work.commit(&Source::default().with("file", "first"), "First");
    work.push(&["main:aside"]).must();
    let path = repository(&house);
    for number in 0..24 {
        work.commit(&Source::default().with("file", &format!("{number}")), "Another");
        work.push(&["main:aside"]).must();
    }
    // Thought over: what was there leads nowhere any more.
    work.git(&["reset", "--quiet", "--hard", "HEAD~3"]).must();
    let last = work.commit(&Source::default().with("file", "last"), "Last");
    work.push(&["--force", "main:aside"]).must();
    // As a fetch leaves it that brings few objects, and one that was killed.
    let loose = work.commit(&Source::default().with("other", "loose"), "Loose");
    let from = work.path.display().to_string();
    desk.run(&path, &["fetch", "--quiet", &from, "main:refs/heads/loose"])
        .must();
    fs::write(path.join("objects/pack/tmp_pack_dead"), noise(1000)).unwrap();
    let (packs, singles) = count(&path);
    assert!(packs >= 26 && singles >= 3, "{packs} packs, {singles} objects");

    let healed = house
        .by(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    until("it is packed", seconds(90), async || {
        let (packs, singles) = count(&path);
        (packs <= 2 && singles == 0).then_some(())
    })
    .await;
    assert!(!path.join("objects/pack/tmp_pack_dead").exists());
    desk.run(&path, &["fsck", "--strict"]).must();
    assert_eq!(work.remote("refs/heads/aside"), last);
    assert_eq!(work.remote("refs/heads/loose"), loose);
}
