//! Access to the files of a version through descriptors and links from before it was frozen.

use std::os::unix::fs::MetadataExt;

use super::builds::{BuildFolder, build};
use super::isolation::*;
use super::*;

#[tokio::test]
async fn descriptor_sent_to_another_process_cannot_write_a_frozen_file() {
    let fixture = isolated_fixture(|_| {});
    let keeper = r#"
import array, mmap, os, signal, socket
with socket.socket(socket.AF_UNIX) as one:
    one.bind(os.environ["HOME"] + "/socket")
    one.listen()
    print("ready", flush=True)
    peer = one.accept()[0]
data, ancillary, _, _ = peer.recvmsg(10, socket.CMSG_SPACE(8))
files = array.array("i")
files.frombytes(ancillary[0][2])
memory = mmap.mmap(files[1], 8)
def rewrite(*_):
    os.pwrite(files[0], b"REWRITTEN", 0)
    memory[:8] = b"REWRITTE"
    print("rewritten", flush=True)
signal.signal(signal.SIGUSR1, rewrite)
print("kept", flush=True)
while True:
    signal.pause()
"#;
    let mut unit = python(&fixture, "keeper", keeper);
    set_user(&mut unit, own_uid(20_050));
    fixture.start(&unit).await;
    fixture.wait_for_log_line(&unit, "ready").await;
    let hook = format!(
        r#"umask 022; echo original text > one; echo original text > two; /usr/bin/python3 -c '
import array, os, socket
files = [os.open(name, os.O_RDWR) for name in ["one", "two"]]
with socket.socket(socket.AF_UNIX) as one:
    one.connect("{}/home/socket")
    one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))])
'"#,
        fixture.unit(&unit.unit).display()
    );
    let folder = BuildFolder::new();
    let (built, lines) = build(&folder.request(&hook)).await;
    let built = built.unwrap_or_else(|error| panic!("{error}\n{lines}"));
    fixture.wait_for_log_line(&unit, "kept").await;
    fixture.signal_unit(&unit.unit, Signal::SIGUSR1);
    fixture.wait_for_log_line(&unit, "rewritten").await;
    for name in ["one", "two"] {
        assert_eq!(
            fs::read_to_string(built.dir.join(name)).unwrap(),
            "original text\n",
            "{name}"
        );
    }
    assert!(
        !fs::read_dir(&built.dir)
            .unwrap()
            .flatten()
            .any(|e| e.file_name().to_string_lossy().contains("sealing"))
    );
}

#[tokio::test]
async fn hard_link_from_outside_gives_no_access_to_a_frozen_file_and_inner_links_stay() {
    let folder = BuildFolder::new();
    let hook = "echo '#!/bin/sh' > one; chmod 755 one; touch -d 2001-02-03 one; mkdir -p a/b; ln one a/b/two; ln one $HOME/link; \
                echo plain > three; ln three four; ls -i three > number";
    let (built, lines) = build(&folder.request(hook)).await;
    let built = built.unwrap_or_else(|error| panic!("{error}\n{lines}"));
    let found = |name: &str| fs::metadata(built.dir.join(name)).unwrap();
    assert_eq!(found("one").ino(), found("a/b/two").ino());
    assert_eq!(found("three").ino(), found("four").ino());
    assert_eq!(found("one").mtime(), 981_158_400 + found("one").mtime() % 86_400);
    assert_eq!(found("one").mode() & 0o222 & !0o200, 0);
    assert_ne!(found("one").mode() & 0o110, 0, "it can still be run");
    // The link belongs to the app as before, and changes through it affect no version.
    let link = folder.0.join("cache/home/link");
    assert_ne!(fs::metadata(&link).unwrap().ino(), found("one").ino());
    if is_root() {
        assert_eq!(fs::metadata(&link).unwrap().uid(), 20_050);
    }
    fs::write(&link, "REWRITTEN").unwrap();
    assert_eq!(
        fs::read_to_string(built.dir.join("a/b/two")).unwrap(),
        "#!/bin/sh\n"
    );
}
