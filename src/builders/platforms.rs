//! The platforms in the binary: folders of scripts with the buildpack interface.
//!
//! The scripts:
//!
//! * `detect <build-dir>` exits with 0 if it recognises the app, and prints its name;
//!
//! * `compile <build-dir> <cache-dir>` prepares the app to run, in place. Programs that it puts into
//!   `.tancho/bin` come first in the `PATH` of hooks and units;
//!
//! * `release <build-dir>` prints lines of a Procfile, for apps that have none.
//!
//! `compile` gets the app's variables, because the tools that it runs need them.
//!
//! The build folder is moved to `$TANCHO_FINAL_DIR` after the build, so nothing in it may contain its own
//! path.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::kernel::names::PlatformName;

/// A platform of the binary.
#[derive(Clone, Copy, Debug)]
pub struct ShippedPlatform {
    /// The name.
    pub name: &'static str,
    /// What it builds, in one line.
    pub description: &'static str,
    scripts: &'static [(&'static str, &'static str)],
}

macro_rules! shipped {
    ($($name:literal $([+ $more:literal])?: $description:literal;)*) => {
        &[$(ShippedPlatform {
            name: $name,
            description: $description,
            scripts: &[
                ("detect", include_str!(concat!("platforms/", $name, "/detect"))),
                ("compile", include_str!(concat!("platforms/", $name, "/compile"))),
                ("release", include_str!(concat!("platforms/", $name, "/release"))),
                $(($more, include_str!(concat!("platforms/", $name, "/", $more))),)?
            ],
        }),*]
    };
}

const SHIPPED: &[ShippedPlatform] = shipped! {
    "python" [+ "install.py"]: "Python apps: pip, Pipenv, Poetry, uv";
    "nodejs" [+ "install.js"]: "Node.js apps: npm, pnpm, yarn, bun";
    "go": "Go modules and workspaces: every main package is built";
    "static": "Folders of files, served with index.html as the start page";
    "procfile": "Anything that needs no build step; a Procfile lists its processes";
};

/// Returns the platforms of the binary, in the order in which `detect_platform` tries them.
pub fn shipped_platforms() -> &'static [ShippedPlatform] {
    SHIPPED
}

/// The name prefix of an unfinished installation.
pub(super) const NEW_PREFIX: &str = ".new-";
/// The scripts of a platform.
pub(super) const SCRIPT_NAMES: [&str; 3] = ["detect", "compile", "release"];
/// The number of hash characters in the name of a folder of scripts.
const HASH_LENGTH: usize = 16;

/// Installs the platforms below `dir`, readable by all users, and returns the folder to build with. Its name
/// contains the hash of the scripts, so an existing folder is up to date. Removes what earlier versions and
/// killed installations left in `dir`: the caller has locked the data folder, so no other process builds with
/// it. `exe` is this program; static apps run a copy of it, at a path that stays the same across upgrades.
/// Blocks.
pub fn install_platforms(dir: &Path, exe: &Path) -> io::Result<PathBuf> {
    let mut hash = Sha256::new();
    for platform in SHIPPED {
        for (script, text) in platform.scripts {
            hash.update(format!("{}/{script} {}\n{text}", platform.name, text.len()));
        }
    }
    let home = dir.join(&hex::encode(hash.finalize())[..HASH_LENGTH]);
    create_public_dir(dir)?;
    create_public_dir(&dir.join("bin"))?;
    remove_earlier_installations(dir, &home)?;
    install_exe(&dir.join("bin"), exe)?;
    if home.is_dir() {
        return Ok(home);
    }
    let fresh = dir.join(format!("{NEW_PREFIX}{}", uuid::Uuid::new_v4().simple()));
    for platform in SHIPPED {
        let folder = fresh.join(platform.name);
        fs::create_dir_all(&folder)?;
        for (script, text) in platform.scripts {
            let path = folder.join(script);
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        create_public_dir(&folder)?;
    }
    create_public_dir(&fresh)?;
    match fs::rename(&fresh, &home) {
        // Another process was faster.
        Err(_) if home.is_dir() => super::tree::remove_tree(&fresh)?,
        renamed => renamed?,
    }
    Ok(home)
}

fn remove_earlier_installations(dir: &Path, home: &Path) -> io::Result<()> {
    let is_hash = |name: &str| name.len() == HASH_LENGTH && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    for entry in fs::read_dir(dir)?.chain(fs::read_dir(dir.join("bin"))?) {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Scripts from archives are installed again when a build needs them.
        let is_archive = name.contains('@');
        if !(name.starts_with(NEW_PREFIX) || is_archive || is_hash(&name) && path != home) {
            continue;
        }
        // It takes up disk space, but does no other harm.
        if let Err(error) = super::tree::remove_tree(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove an earlier installation of the platforms");
        }
    }
    Ok(())
}

/// Returns the path of the copy of this program that `install_platforms` has placed beside the platforms in
/// `dir`.
pub fn program_path(dir: &Path) -> PathBuf {
    dir.with_file_name("bin").join("tancho")
}

pub(super) fn create_public_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Places the program where units of other users can run it: by a hard link if that is possible and
/// sufficient, else as a copy. An existing one is kept.
fn install_exe(bin: &Path, exe: &Path) -> io::Result<()> {
    let program = bin.join("tancho");
    let source = fs::metadata(exe)?;
    if let Ok(found) = fs::metadata(&program) {
        let same_file = (found.dev(), found.ino()) == (source.dev(), source.ino());
        let same_copy = found.len() == source.len() && found.modified()? == source.modified()?;
        if same_file || same_copy {
            return Ok(());
        }
    }
    let fresh = bin.join(format!("{NEW_PREFIX}{}", uuid::Uuid::new_v4().simple()));
    let linked = source.mode() & 0o005 == 0o005 && fs::hard_link(exe, &fresh).is_ok();
    if !linked {
        fs::copy(exe, &fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
        File::options()
            .write(true)
            .open(&fresh)?
            .set_modified(source.modified()?)?;
    }
    fs::rename(&fresh, &program)
}

/// The scripts of one platform on disk.
pub(super) struct PlatformScripts {
    pub(super) detect: PathBuf,
    pub(super) compile: PathBuf,
    pub(super) release: PathBuf,
    /// The copy of the program that `install_platforms` has placed beside the platforms.
    pub(super) program: PathBuf,
}

impl PlatformScripts {
    pub(super) fn find_scripts(dir: &Path, platform: &PlatformName) -> Option<Self> {
        let folder = dir.join(platform.as_str());
        let [detect, compile, release] = SCRIPT_NAMES.map(|script| folder.join(script));
        [&detect, &compile, &release]
            .iter()
            .all(|s| s.is_file())
            .then_some(Self {
                detect,
                compile,
                release,
                program: program_path(dir),
            })
    }
}
