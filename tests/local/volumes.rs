//! Volumes of units: shared by those that are bound, and out of reach of all others.

use tancho::kernel::ids::VolumeId;
use tancho::kernel::names::VolumeName;
use tancho::provisioners::UnitVolume;

use super::isolation::{
    OTHER, USER, is_root, isolated_fixture, kernel_has, make_accessible, own_uid, python, unit_output,
};
use super::*;

/// A path whose first folder no host has.
const PATH: &str = "/tancho-test-data";

/// A volume whose group is this one, where units have users of their own.
fn volume(group: u32) -> UnitVolume {
    UnitVolume {
        id: VolumeId::new(),
        number: own_uid(group).unwrap_or(1).try_into().unwrap(),
        name: VolumeName::parse("shop-data").unwrap(),
        path: PATH.into(),
        is_read_only: false,
        max_bytes: 64 << 20,
        options: Default::default(),
    }
}

/// Whether units have mounts of their own on this host; if not, the test says so.
fn has_mounts() -> bool {
    let policy = SandboxPolicy {
        namespaces: true,
        ..SandboxPolicy::default()
    };
    let probed = policy.with_probed_namespaces(env!("CARGO_BIN_EXE_tancho").as_ref());
    require_feature("namespaces", is_root() && probed.namespaces)
}

/// A unit with a volume that runs a Python program. The data folder of the volume is `DATA`.
fn unit_with(fixture: &LocalFixture, name: &str, user: u32, volume: &UnitVolume, program: &str) -> UnitSpec {
    let prelude = r#"
import os, sys
DATA = os.environ.get("TANCHO_VOLUME_SHOP_DATA", "none")
def attempt(what, act):
    try:
        act()
        print("DONE", what, flush=True)
    except OSError as error:
        print("refused", what, error.errno, flush=True)
"#;
    let mut spec = python(
        fixture,
        name,
        &format!("{prelude}\n{program}\nprint('end', flush=True)\nimport time; time.sleep(1000)\n"),
    );
    set_user(&mut spec, own_uid(user));
    spec.volumes = vec![volume.clone()];
    spec
}

fn refusals(lines: &[String]) -> Vec<&str> {
    lines
        .iter()
        .map(String::as_str)
        .filter(|line| line.starts_with("refused") || line.starts_with("DONE"))
        .collect()
}

#[tokio::test]
async fn data_of_a_volume_stays_and_is_shared_by_its_apps() {
    let fixture = isolated_fixture(|settings| settings.limits.confinement.namespaces = true);
    let has_mounts = has_mounts();
    let volume = volume(25_001);
    let write = r#"
print("path", DATA, flush=True)
os.mkdir(DATA + "/made")
open(DATA + "/made/file", "w").write("kept")
print("root", os.path.isdir("/etc"), os.path.isdir("/proc/self"), os.path.isdir(os.environ["HOME"]), flush=True)
attempt("write to the root", lambda: open("/stray", "w"))
"#;
    let first = unit_with(&fixture, "first", USER, &volume, write);
    fixture.start(&first).await;
    let lines = unit_output(&fixture, &first).await;
    if has_mounts {
        assert!(lines.contains(&format!("path {PATH}")), "{lines:#?}");
    }
    assert!(lines.contains(&"root True True True".to_owned()), "{lines:#?}");
    assert!(
        refusals(&lines)[0].starts_with("refused write to the root"),
        "{lines:#?}"
    );
    fixture.local.remove_unit(&first.unit).await.unwrap();
    let read = r#"
print("read", open(DATA + "/made/file").read(), flush=True)
open(DATA + "/made/other", "w").write("of another app")
os.rename(DATA + "/made/file", DATA + "/moved")
os.remove(DATA + "/moved")
"#;
    let second = unit_with(&fixture, "second", OTHER, &volume, read);
    fixture.start(&second).await;
    let lines = unit_output(&fixture, &second).await;
    assert!(lines.contains(&"read kept".to_owned()), "{lines:#?}");
    fixture.local.remove_unit(&second.unit).await.unwrap();
    let folder = fixture.root.join("units.volumes").join(volume.id.to_string());
    assert!(folder.join("data/made/other").exists());
    fixture.local.remove_volume(volume.id).await.unwrap();
    fixture.local.remove_volume(volume.id).await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn volume_that_is_read_only_is_not_written_to_by_any_path() {
    let fixture = isolated_fixture(|settings| settings.limits.confinement.namespaces = true);
    if !has_mounts() {
        return;
    }
    let mut volume = volume(25_002);
    let writer = unit_with(
        &fixture,
        "writer",
        USER,
        &volume,
        "open(DATA + '/file', 'w').write('kept')",
    );
    fixture.start(&writer).await;
    unit_output(&fixture, &writer).await;
    volume.is_read_only = true;
    // Once with both protections, once with that of the mounts alone.
    let data = fixture
        .root
        .join("units.volumes")
        .join(volume.id.to_string())
        .join("data");
    let program = format!(
        r#"
for folder in [DATA, {data:?}]:
    attempt("read", lambda: open(folder + "/file").read())
    attempt("write", lambda: open(folder + "/file", "a"))
    attempt("create", lambda: open(folder + "/new", "w"))
    attempt("remove", lambda: os.remove(folder + "/file"))
    attempt("rename", lambda: os.rename(folder + "/file", folder + "/moved"))
    attempt("link", lambda: os.link(folder + "/file", folder + "/linked"))
    attempt("mode", lambda: os.chmod(folder, 0o777))
"#
    );
    let reader = unit_with(&fixture, "reader", OTHER, &volume, &program);
    fixture.start(&reader).await;
    let lines = unit_output(&fixture, &reader).await;
    let seen = refusals(&lines);
    assert_eq!(seen.len(), 14, "{lines:#?}");
    for line in seen {
        assert_eq!(line == "DONE read", !line.starts_with("refused"), "{lines:#?}");
    }
    assert_eq!(fs::read(data.join("file")).unwrap(), b"kept");
}

#[tokio::test]
async fn volume_opens_no_way_to_other_files_and_none_for_other_apps() {
    let fixture = isolated_fixture(|settings| settings.limits.confinement.namespaces = true);
    if !is_root() || !kernel_has("Landlock") {
        return;
    }
    let volume = volume(25_003);
    let secret = fixture.root.join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    make_accessible(&secret, 0o755);
    make_accessible(&secret.join("file"), 0o644);
    let root = fixture.root.clone();
    let attack = format!(
        r#"
secret = {secret:?}
attempt("read by ..", lambda: open(DATA + "/../../../secret/file").read())
os.symlink(secret + "/file", DATA + "/link")
attempt("read by a link", lambda: open(DATA + "/link").read())
os.symlink(secret, DATA + "/folder")
attempt("list by a link", lambda: os.listdir(DATA + "/folder"))
attempt("link of a foreign file", lambda: os.link(secret + "/file", DATA + "/hard"))
attempt("link of a file of the system", lambda: os.link("/etc/passwd", DATA + "/passwd"))
attempt("move out", lambda: os.rename(DATA + "/link", secret + "/moved"))
attempt("move the folder", lambda: os.rename(DATA, DATA + "-moved"))
attempt("remove the folder", lambda: os.rmdir(DATA))
attempt("list all volumes", lambda: os.listdir({root:?} + "/units.volumes"))
attempt("make a device", lambda: os.mknod(DATA + "/disk", 0o60666, os.makedev(252, 0)))
open(DATA + "/program", "w").write("exec id")
os.chmod(DATA + "/program", 0o4755)
attempt("give away", lambda: os.chown(DATA + "/program", 0, 0))
open(DATA + "/own", "w").write("of the volume")
"#
    );
    let unit = unit_with(&fixture, "hostile", USER, &volume, &attack);
    fixture.start(&unit).await;
    let lines = unit_output(&fixture, &unit).await;
    let seen = refusals(&lines);
    assert_eq!(seen.len(), 11, "{lines:#?}");
    assert!(seen.iter().all(|line| line.starts_with("refused")), "{lines:#?}");
    // An app that is not bound reaches nothing, whatever the modes of the files are.
    let data = fixture
        .root
        .join("units.volumes")
        .join(volume.id.to_string())
        .join("data");
    make_accessible(&data.join("own"), 0o666);
    let program = format!(
        r#"
for folder in [{data:?}, "{PATH}"]:
    attempt("list", lambda: os.listdir(folder))
    attempt("read", lambda: open(folder + "/own").read())
    attempt("write", lambda: open(folder + "/stray", "w"))
print("groups", os.getgroups(), flush=True)
"#
    );
    for landlock in [true, false] {
        let fixture = isolated_fixture(|settings| settings.limits.confinement.landlock = landlock);
        let mut unit = unit_with(&fixture, "unbound", OTHER, &volume, &program);
        unit.volumes.clear();
        fixture.start(&unit).await;
        let lines = unit_output(&fixture, &unit).await;
        let seen = refusals(&lines);
        assert_eq!(seen.len(), 6, "{lines:#?}");
        assert!(seen.iter().all(|line| line.starts_with("refused")), "{lines:#?}");
        assert!(lines.contains(&"groups []".to_owned()), "{lines:#?}");
    }
    // What the attacker has left does not lead its removal elsewhere.
    fixture.local.remove_unit(&unit.unit).await.unwrap();
    fixture.local.remove_volume(volume.id).await.unwrap();
    assert_eq!(fs::read(secret.join("file")).unwrap(), b"secret");
}

#[tokio::test]
async fn path_that_the_host_cannot_add_is_told_by_the_variable() {
    let fixture = isolated_fixture(|settings| settings.limits.confinement.namespaces = true);
    let mut volume = volume(25_004);
    volume.path = fixture.root.join("absent").to_str().unwrap().to_owned();
    let write = "open(DATA + '/file', 'w').write('kept'); print('path', DATA, flush=True)";
    let unit = unit_with(&fixture, "told", USER, &volume, write);
    fixture.start(&unit).await;
    let data = fixture
        .root
        .join("units.volumes")
        .join(volume.id.to_string())
        .join("data");
    let lines = unit_output(&fixture, &unit).await;
    assert!(lines.contains(&format!("path {}", data.display())), "{lines:#?}");
    assert_eq!(fs::read(data.join("file")).unwrap(), b"kept");
}

#[tokio::test]
async fn full_volume_is_only_read_and_emptied_until_it_has_room() {
    let fixture = isolated_fixture(|_| {});
    if !kernel_has("Landlock") {
        return;
    }
    let mut volume = volume(25_005);
    volume.max_bytes = 1 << 20;
    // Each run knows by its scratch folder which one it is.
    let program = r#"
log = os.environ["HOME"] + "/runs"
run = os.path.getsize(log) if os.path.exists(log) else 0
open(log, "a").write("x")
if run == 0:
    open(DATA + "/big", "w").write("x" * (3 << 20))
    print("wrote", flush=True)
elif run == 1:
    attempt("full: read", lambda: open(DATA + "/big").read())
    attempt("full: write", lambda: open(DATA + "/more", "w"))
    attempt("full: append", lambda: open(DATA + "/big", "a"))
    attempt("full: folder", lambda: os.mkdir(DATA + "/folder"))
    attempt("full: remove", lambda: os.remove(DATA + "/big"))
    print("emptied", flush=True)
else:
    attempt("room: write", lambda: open(DATA + "/more", "w"))
    print("room", flush=True)
"#;
    let unit = unit_with(&fixture, "filling", USER, &volume, program);
    fixture.start(&unit).await;
    for line in ["wrote", "emptied", "room"] {
        fixture.wait_for_log_line(&unit, line).await;
    }
    let lines = unit_output(&fixture, &unit).await;
    let seen: Vec<&str> = refusals(&lines);
    let is_done = |what: &str| seen.contains(&format!("DONE {what}").as_str());
    for (what, done) in [
        ("full: read", true),
        ("full: write", false),
        ("full: append", false),
        ("full: folder", false),
        ("full: remove", true),
        ("room: write", true),
    ] {
        assert_eq!(is_done(what), done, "{what}: {lines:#?}");
    }
    let notices: Vec<&String> = lines
        .iter()
        .filter(|line| line.contains("the volume shop-data"))
        .collect();
    assert_eq!(notices.len(), 2, "{lines:#?}");
    assert!(notices[0].contains("holds more than 1M"), "{lines:#?}");
}
