//! Archives that try to escape or to exhaust the host. Each is refused as a whole.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use tar::{EntryType, Header};

use super::*;

/// One raw entry without any checks.
struct RawTarEntry {
    kind: u8,
    name: Vec<u8>,
    link: Vec<u8>,
    body: Vec<u8>,
    size: Option<u64>,
    mode: u32,
}

fn raw(kind: u8, name: impl AsRef<[u8]>) -> RawTarEntry {
    RawTarEntry {
        kind,
        name: name.as_ref().to_vec(),
        link: Vec::new(),
        body: Vec::new(),
        size: None,
        mode: 0o644,
    }
}

fn file(name: &str, body: &str) -> RawTarEntry {
    RawTarEntry {
        body: body.into(),
        ..raw(b'0', name)
    }
}

fn dir(name: &str) -> RawTarEntry {
    raw(b'5', name)
}

fn symlink(name: &str, target: &str) -> RawTarEntry {
    RawTarEntry {
        link: target.into(),
        ..raw(b'2', name)
    }
}

fn hard_link(name: &str, target: &str) -> RawTarEntry {
    RawTarEntry {
        link: target.into(),
        ..raw(b'1', name)
    }
}

/// A PAX header for the entry after it.
fn pax(key: &str, value: &str) -> RawTarEntry {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    RawTarEntry {
        body: format!("{length}{rest}").into(),
        ..raw(b'x', "pax")
    }
}

fn long_name(name: &str) -> RawTarEntry {
    RawTarEntry {
        body: format!("{name}\0").into(),
        ..raw(b'L', "././@LongLink")
    }
}

fn bytes(entries: &[RawTarEntry]) -> Vec<u8> {
    let mut tar = Vec::new();
    for entry in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(&entry.name);
        old.linkname[..entry.link.len()].copy_from_slice(&entry.link);
        header.set_entry_type(EntryType::new(entry.kind));
        header.set_size(entry.size.unwrap_or(entry.body.len() as u64));
        header.set_mode(entry.mode);
        header.set_mtime(1_700_000_000);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&entry.body);
        tar.resize(tar.len().div_ceil(512) * 512, 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn small_limits() -> UnpackLimits {
    UnpackLimits {
        total_bytes: 1 << 20,
        file_bytes: 512 << 10,
        entries: 50,
        depth: 10,
        ratio: 200,
    }
}

/// Unpacks in a folder of its own; returns the result and asserts that nothing else was created.
fn unpack_archive(
    archive: &[u8],
    limits: &UnpackLimits,
) -> (Result<u64, UnpackError>, BuildFixture, PathBuf) {
    let home = BuildFixture::new();
    fs::write(home.path("archive"), archive).unwrap();
    let dest = home.path("dest");
    let result =
        extract_archive(&home.path("archive"), &dest, limits, &|| false).map(|unpacked| unpacked.bytes);
    let mut names: Vec<_> = fs::read_dir(&home.0)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.retain(|n| n != "archive" && n != "dest");
    assert!(names.is_empty(), "appeared outside: {names:?}");
    (result, home, dest)
}

#[track_caller]
fn assert_refused(title: &str, archive: &[u8], limits: &UnpackLimits, words: &str) {
    let (result, _home, dest) = unpack_archive(archive, limits);
    match result {
        Err(UnpackError::Refused(said)) => {
            assert!(said.contains(words), "{title}: {said}");
            assert!(
                !said.chars().any(char::is_control) && said.len() < 800,
                "{title}: {said:?}"
            );
        }
        other => panic!("{title}: {other:?}"),
    }
    assert!(!dest.exists(), "{title}: something was unpacked");
}

#[test]
fn archives_that_escape_their_root_are_refused() {
    let deep = "d/".repeat(11) + "f";
    let long = "n".repeat(256);
    let far = format!("{}x", format!("{}/", "p".repeat(250)).repeat(9));
    let table: Vec<(&str, Vec<RawTarEntry>, &str)> = vec![
        (
            "absolute",
            vec![file("/etc/x", "")],
            "\"/etc/x\", which is an absolute path",
        ),
        ("dots", vec![file("../x", "")], "\"../x\", which leads out"),
        ("dots within", vec![file("a/../../x", "")], "leads out"),
        ("dots that come back", vec![file("a/../x", "")], "leads out"),
        ("only dots", vec![dir("..")], "leads out"),
        ("dots behind a dot", vec![file("./../x", "")], "leads out"),
        (
            "absolute by a long name",
            vec![long_name("/etc/x"), file("x", "")],
            "absolute",
        ),
        (
            "dots by a long name",
            vec![long_name("a/../../x"), file("x", "")],
            "leads out",
        ),
        (
            "absolute by pax",
            vec![pax("path", "/etc/x"), file("x", "")],
            "absolute",
        ),
        (
            "dots by pax",
            vec![pax("path", "../x"), file("x", "")],
            "leads out",
        ),
        (
            "a link out",
            vec![symlink("l", "../x")],
            "\"l\" → \"../x\", which leads out",
        ),
        ("an absolute link", vec![symlink("l", "/etc/passwd")], "leads out"),
        (
            "an absolute link by pax",
            vec![pax("linkpath", "/etc/passwd"), symlink("l", "x")],
            "leads out",
        ),
        (
            "a link out, deeper",
            vec![symlink("a/b/l", "../../../x")],
            "leads out",
        ),
        (
            "a link out through a link",
            vec![symlink("x/y/l", "../.."), symlink("m", "x/y/l/..")],
            "\"m\" → \"x/y/l/..\", which leads out",
        ),
        (
            "a link out through a later link",
            vec![symlink("m", "x/y/l/../z"), symlink("x/y/l", "../..")],
            "leads out",
        ),
        (
            "links in a circle",
            vec![symlink("a", "b"), symlink("b", "a")],
            "leads to itself",
        ),
        (
            "a write through a link",
            vec![symlink("l", "d"), dir("d"), file("l/x", "")],
            "goes through the symbolic link \"l\"",
        ),
        (
            "a write through a link out",
            vec![symlink("l", "/tmp"), file("l/x", "")],
            "leads out",
        ),
        (
            "a file over a link",
            vec![symlink("l", "d"), file("l", "x")],
            "\"l\" twice",
        ),
        (
            "a link over a file",
            vec![file("l", "x"), symlink("l", "d")],
            "twice",
        ),
        (
            "a link over a folder",
            vec![file("l/x", "x"), symlink("l", "d")],
            "twice",
        ),
        (
            "another link over a link",
            vec![symlink("l", "a"), symlink("l", "b")],
            "twice",
        ),
        ("a file over a folder", vec![dir("d"), file("d", "x")], "twice"),
        ("a folder over a file", vec![file("d", "x"), dir("d")], "twice"),
        (
            "a file below a file",
            vec![file("d", "x"), file("d/x", "")],
            "\"d\" is a file",
        ),
        ("a hard link out", vec![hard_link("h", "../x")], "leads out"),
        (
            "an absolute hard link",
            vec![hard_link("h", "/etc/passwd")],
            "leads out",
        ),
        (
            "a hard link to nothing",
            vec![hard_link("h", "x")],
            "not a file in the archive",
        ),
        (
            "a hard link to a link",
            vec![symlink("l", "d"), hard_link("h", "l")],
            "not a file in the archive",
        ),
        (
            "a hard link through a link",
            vec![file("d/x", ""), symlink("l", "d"), hard_link("h", "l/x")],
            "not a file",
        ),
        (
            "a hard link to itself",
            vec![file("h", ""), hard_link("h", "h")],
            "twice",
        ),
        (
            "a character device",
            vec![raw(b'3', "null")],
            "\"null\" is a device",
        ),
        ("a block device", vec![raw(b'4', "sda")], "is a device"),
        ("a pipe", vec![raw(b'6', "p")], "is a named pipe"),
        ("an unknown kind", vec![raw(b'Z', "z")], "not supported"),
        ("a sparse file", vec![raw(b'S', "s")], "sparse"),
        (
            "a sparse file by pax",
            vec![pax("GNU.sparse.major", "1"), file("s", "")],
            "sparse",
        ),
        ("two sizes", vec![pax("size", "9"), file("x", "abc")], "two sizes"),
        (
            "a line end in a name",
            vec![file("a\nb", "")],
            "\"a\\nb\", whose name has control characters",
        ),
        (
            "an escape in a name",
            vec![file("\u{1b}[2Jx", "")],
            "control characters",
        ),
        (
            "a NUL in a name",
            vec![long_name("a\0b"), file("x", "")],
            "control characters",
        ),
        (
            "a NUL in a target",
            vec![pax("linkpath", "a\0b"), symlink("l", "x")],
            "control characters",
        ),
        ("no name", vec![raw(b'0', "")], "without a name"),
        ("the root as a file", vec![file(".", "x")], "its own root"),
        ("the root as a link", vec![symlink("./", "x")], "its own root"),
        ("an empty target", vec![symlink("l", "")], "empty"),
        (
            "a long name",
            vec![long_name(&long), file("x", "")],
            "name is too long",
        ),
        (
            "a long path",
            vec![long_name(&far), file("x", "")],
            "path is too long",
        ),
        (
            "an endless long name",
            vec![
                RawTarEntry {
                    body: vec![b'a'; 70 << 10],
                    ..raw(b'L', "l")
                },
                file("x", ""),
            ],
            "64 KiB",
        ),
        (
            "an endless pax header",
            vec![RawTarEntry {
                size: Some(1 << 40),
                ..raw(b'x', "l")
            }],
            "16 MiB",
        ),
        (
            "a malformed pax header",
            vec![
                RawTarEntry {
                    body: b"nonsense\n".to_vec(),
                    ..raw(b'x', "l")
                },
                file("x", ""),
            ],
            "malformed",
        ),
        ("too deep", vec![long_name(&deep), file("x", "")], "too deep"),
        (
            "too many",
            (0..51).map(|n| file(&format!("f{n}"), "")).collect(),
            "more than 50 files",
        ),
        (
            "too many headers",
            (0..300).map(|_| pax("a", "b")).collect(),
            "more than 50 files",
        ),
        (
            "too large a file",
            vec![file("ok", "x"), file("big", &"x".repeat(600 << 10))],
            "\"big\" is larger",
        ),
        (
            "a claim of a large file",
            vec![RawTarEntry {
                size: Some(1 << 50),
                ..file("big", "x")
            }],
            "\"big\" is larger",
        ),
        (
            "too much together",
            (0..3)
                .map(|n| file(&format!("f{n}"), &"x".repeat(400 << 10)))
                .collect(),
            "more than 1048576 bytes when unpacked",
        ),
        ("nothing", vec![], "no files"),
        ("only the root", vec![dir("./")], "no files"),
        (
            "cut within a file",
            vec![RawTarEntry {
                size: Some(5000),
                ..file("x", "abc")
            }],
            "truncated",
        ),
    ];
    assert!(table.len() >= 50);
    for (title, mut entries, words) in table {
        let archive = bytes(&entries);
        assert_refused(title, &archive, &small_limits(), words);
        assert_refused(title, &gzip(&archive), &small_limits(), words);
        // The same after a harmless file, which must not stay either.
        if title != "nothing" && title != "only the root" {
            entries.insert(0, file("harmless", "x"));
            assert_refused(title, &bytes(&entries), &small_limits(), words);
        }
    }
}

#[test]
fn non_archives_are_refused_with_one_sentence() {
    let good = gzip(&bytes(&[file("a", &"abc".repeat(5000)), file("b", "x")]));
    let mut flipped = good.clone();
    let at = flipped.len() - 6;
    flipped[at] ^= 1;
    let mut garbage = good.clone();
    garbage.extend_from_slice(b"garbage garbage garbage");
    let plain = bytes(&[file("a", &"abc".repeat(5000))]);
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "The archive is empty."),
        ("empty gzip", gzip(b""), "no files"),
        (
            "text",
            b"hello, this is no archive\n".repeat(40),
            "neither a .tar.gz nor a .tar",
        ),
        ("short text", b"hello".to_vec(), "neither a .tar.gz nor a .tar"),
        (
            "gzip of text",
            gzip(&b"hello, this is no archive\n".repeat(40)),
            "not a tar archive",
        ),
        (
            "zip",
            b"PK\x03\x04 and so on".to_vec(),
            "a zip archive; send a .tar.gz",
        ),
        ("bzip2", b"BZh91AY".to_vec(), "bzip2"),
        ("xz", b"\xfd7zXZ\0".to_vec(), "xz"),
        ("zstd", b"\x28\xb5\x2f\xfd".to_vec(), "zstd"),
        ("cut gzip", good[..good.len() / 2].to_vec(), "truncated"),
        (
            "gzip without its end",
            good[..good.len() - 4].to_vec(),
            "truncated",
        ),
        ("gzip magic alone", vec![0x1f, 0x8b], "truncated"),
        ("a wrong checksum", flipped, "damaged"),
        ("garbage behind", garbage, "damaged"),
        ("cut tar", plain[..3000].to_vec(), "truncated"),
    ];
    for (title, archive, words) in table {
        assert_refused(title, &archive, &small_limits(), words);
    }
}

#[test]
fn decompression_bomb_is_refused_while_reading() {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let mut header = Header::new_gnu();
    header.set_path("zeros").unwrap();
    header.set_size(400 << 20);
    header.set_cksum();
    encoder.write_all(header.as_bytes()).unwrap();
    for _ in 0..400 {
        encoder.write_all(&[0; 1 << 20]).unwrap();
    }
    let bomb = encoder.finish().unwrap();
    assert_refused(
        "bomb",
        &bomb,
        &UnpackLimits::default(),
        "more than 200 times its size",
    );

    // Bytes after the end of the archive count as well.
    let mut behind = bytes(&[file("a", "x")]);
    behind.resize(8 << 20, 0);
    assert_refused("padding", &gzip(&behind), &small_limits(), "larger than allowed");
}

#[test]
fn harmless_archive_is_unpacked_unchanged() {
    let accent = "déjà/vu.txt";
    let deep = format!("{}end", "long-name/".repeat(14));
    let entries = [
        file("BZh9", "bzip2?"),
        raw(b'g', "pax_global_header"),
        dir("./"),
        dir("app/"),
        file("./app/a.txt", "old"),
        RawTarEntry {
            mode: 0o6777,
            ..file("app/run", "#!/bin/sh\n")
        },
        RawTarEntry {
            mode: 0o000,
            ..file("app/plain", "x")
        },
        file("app/a.txt", "new"),
        symlink("app/sub/up", "../a.txt"),
        symlink("app/here", "."),
        symlink("app/dangling", "sub/nothing"),
        symlink("top", "app/sub/up"),
        hard_link("hard", "./app/a.txt"),
        long_name(&deep),
        file("cut", "deep"),
        pax("path", accent),
        file("ascii", "accents"),
        raw(b'\0', "old-style/"),
    ];
    let limits = UnpackLimits {
        depth: 20,
        ..small_limits()
    };
    for archive in [bytes(&entries), gzip(&bytes(&entries))] {
        let (result, _home, dest) = unpack_archive(&archive, &limits);
        assert_eq!(result.unwrap(), 6 + 3 + 10 + 1 + 3 + 4 + 7);
        assert_eq!(read_file(dest.join("app/a.txt")), "new");
        assert_eq!(read_file(dest.join("top")), "new");
        assert_eq!(read_file(dest.join("hard")), "new");
        assert_eq!(read_file(dest.join(&deep)), "deep");
        assert_eq!(read_file(dest.join(accent)), "accents");
        assert!(dest.join("old-style").is_dir());
        let found = |name: &str| fs::symlink_metadata(dest.join(name)).unwrap();
        assert_eq!(found("app/run").mode() & 0o7777, 0o755);
        assert_eq!(found("app/plain").mode() & 0o7777, 0o644);
        assert!(found("app/dangling").is_symlink());
        assert_eq!(found("app/plain").mtime(), 1_700_000_000);
    }
}

#[test]
fn macos_attributes_and_files_are_skipped() {
    let double = |name: &str| RawTarEntry {
        body: b"\0\x05\x16\x07\0\x02\0\0Mac OS X".to_vec(),
        ..raw(b'0', name)
    };
    let entries = [
        double("./._app.py"),
        pax(
            "SCHILY.xattr.com.apple.metadata:kMDItemWhereFroms",
            "bplist00\nhttps://x\n",
        ),
        file("./app.py", "code"),
        pax(
            "LIBARCHIVE.xattr.com.apple.ResourceFork",
            &"x\n=1 path=/etc\n".repeat(9_000),
        ),
        file("data", "1"),
        double("migrations/._0001.py"),
        file("Icon\r", ""),
        // Not written by macOS, despite the name.
        file("._notes", "mine"),
        file("._", "abc"),
    ];
    let home = BuildFixture::new();
    fs::write(home.path("archive"), gzip(&bytes(&entries))).unwrap();
    let dest = home.path("dest");
    let unpacked = extract_archive(&home.path("archive"), &dest, &small_limits(), &|| false).unwrap();
    assert_eq!((unpacked.bytes, unpacked.skipped_files), (4 + 1 + 4 + 3, 3));
    assert_eq!(read_file(dest.join("app.py")), "code");
    assert_eq!(read_file(dest.join("._notes")), "mine");
    assert_eq!(read_file(dest.join("._")), "abc");
    assert!(!dest.join("._app.py").exists() && !dest.join("migrations").exists());
}

#[test]
fn pax_header_lengths_are_checked() {
    for (body, words) in [
        (&b"99 SCHILY.xattr.x=short\n"[..], "malformed"),
        (b"30 SCHILY.xattr.x=\n\n\n\n\n\n\n\n\n\n\nx", "malformed"),
        (b"3 x=1\n", "malformed"),
        (b"99999999999999999999 x=1\n", "malformed"),
        (b"8 size=\n", "malformed"),
        (b"12", "damaged"),
        (b"27 SCHILY.xattr.x=\npath=..\n19 path=../../../x\n", "leads out"),
    ] {
        let header = RawTarEntry {
            body: body.to_vec(),
            ..raw(b'x', "pax")
        };
        assert_refused(
            &String::from_utf8_lossy(body),
            &bytes(&[header, file("x", "")]),
            &small_limits(),
            words,
        );
    }
}

#[test]
fn unpacking_stops_on_request() {
    let home = BuildFixture::new();
    fs::write(home.path("archive"), bytes(&[file("a", "x")])).unwrap();
    let dest = home.path("dest");
    let result = extract_archive(&home.path("archive"), &dest, &small_limits(), &|| true);
    assert!(matches!(result, Err(UnpackError::Stopped)), "{result:?}");
    assert!(!dest.exists());
}

#[test]
fn chown_tree_follows_no_link() {
    if !Uid::effective().is_root() {
        return;
    }
    let home = BuildFixture::new();
    fs::write(home.path("mine"), "").unwrap();
    fs::create_dir_all(home.path("tree/sub")).unwrap();
    std::os::unix::fs::symlink(home.path("mine"), home.path("tree/sub/link")).unwrap();
    chown_tree(&home.path("tree"), OTHER_UID).unwrap();
    let owner = |name: &str| fs::symlink_metadata(home.path(name)).unwrap().uid();
    assert_eq!(owner("tree"), OTHER_UID);
    assert_eq!(owner("tree/sub/link"), OTHER_UID);
    assert_eq!(owner("mine"), 0);
}

/// Makes a file that cannot be removed, in this thread's own view of the disk where that is possible.
fn make_unremovable(file: &Path) {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    if unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        let (private, nothing) = (MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>);
        mount(nothing, "/", nothing, private, nothing).unwrap();
        mount(Some(file), file, nothing, MsFlags::MS_BIND, nothing).unwrap();
    } else {
        let folder = file.parent().unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).unwrap();
    }
}

#[test]
fn file_that_cannot_be_removed_keeps_its_mode_and_the_error_says_why() {
    let fixture = BuildFixture::new();
    let folder = fixture.path("folder");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("file");
    fs::write(&file, "kept").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let path = file.clone();
    // A mount is seen by this thread alone.
    let (error, mode) = std::thread::spawn(move || {
        make_unremovable(&path);
        let error = tree::remove_tree(&path).unwrap_err();
        (error, fs::symlink_metadata(&path).unwrap().permissions().mode())
    })
    .join()
    .unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_ne!(error.kind(), std::io::ErrorKind::NotADirectory, "{error}");
    assert_eq!(mode & 0o777, 0o640);
    // The use beside it.
    tree::remove_tree(&file).unwrap();
    tree::remove_tree(&file).unwrap();
    assert!(!file.exists());
}

#[test]
fn earlier_and_killed_installations_of_the_platforms_are_removed() {
    let fixture = BuildFixture::new();
    let home = fixture.platforms();
    let dir = fixture.path("platforms");
    for left in ["0123456789abcdef/go", ".new-killed/python"] {
        fs::create_dir_all(dir.join(left)).unwrap();
    }
    fs::write(dir.join("bin/.new-killed"), "half").unwrap();
    fs::create_dir(dir.join("others")).unwrap();
    assert_eq!(fixture.platforms(), home);
    let names = |dir: &Path| {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    let mut expected = vec!["bin", "others", home.file_name().unwrap().to_str().unwrap()];
    expected.sort_unstable();
    assert_eq!(names(&dir), expected);
    assert_eq!(names(&dir.join("bin")), ["tancho"]);
    assert!(home.join("go/compile").is_file());
}
