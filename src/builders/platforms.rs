//! The platforms that ship in the binary: folders of scripts with the buildpack interface.
//!
//! * `detect <build-dir>` exits with 0 when it knows such an app, and prints its name;
//! * `compile <build-dir> <cache-dir>` makes the app ready to run, in place. What it puts at
//!   `.tancho/bin` comes first in the `PATH` of hooks and units;
//! * `release <build-dir>` prints lines of a Procfile, for apps that have none.
//!
//! The build folder moves after the build, to `$TANCHO_FINAL_DIR`: nothing in it may hold its own path.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::kernel::names::PlatformName;

/// A platform of the binary.
#[derive(Clone, Copy, Debug)]
pub struct ShippedPlatform {
    /// Its name.
    pub name: &'static str,
    /// What it builds, in one line.
    pub description: &'static str,
    scripts: [(&'static str, &'static str); 3],
}

macro_rules! shipped {
    ($($name:literal: $description:literal;)*) => {
        &[$(ShippedPlatform {
            name: $name,
            description: $description,
            scripts: [
                ("detect", include_str!(concat!("platforms/", $name, "/detect"))),
                ("compile", include_str!(concat!("platforms/", $name, "/compile"))),
                ("release", include_str!(concat!("platforms/", $name, "/release"))),
            ],
        }),*]
    };
}

const SHIPPED: &[ShippedPlatform] = shipped! {
    "python": "Python apps with requirements.txt or pyproject.toml";
    "nodejs": "Node.js apps with package.json";
    "go": "Go modules: every main package is built";
    "static": "Folders of files, served with index.html as the start page";
    "procfile": "Anything that runs as it is: a Procfile says how";
};

/// The platforms of the binary, in the order in which `detect` is worth asking.
pub fn shipped() -> &'static [ShippedPlatform] {
    SHIPPED
}

/// Writes the platforms below `dir`, readable by all, and answers the folder to build with. Its name
/// holds the hash of the scripts: another Tancho with other scripts does not disturb builds under way.
/// `exe` is this program; static apps run a copy of it, at a path that stays the same across upgrades.
/// Blocks.
pub fn install(dir: &Path, exe: &Path) -> io::Result<PathBuf> {
    let mut hash = Sha256::new();
    for platform in SHIPPED {
        for (script, text) in platform.scripts {
            hash.update(format!("{}/{script} {}\n{text}", platform.name, text.len()));
        }
    }
    let home = dir.join(&hex::encode(hash.finalize())[..16]);
    public_dir(dir)?;
    place_exe(&dir.join("bin"), exe)?;
    if home.is_dir() {
        return Ok(home);
    }
    let fresh = dir.join(format!(".new-{}", uuid::Uuid::new_v4().simple()));
    for platform in SHIPPED {
        let folder = fresh.join(platform.name);
        fs::create_dir_all(&folder)?;
        for (script, text) in platform.scripts {
            let path = folder.join(script);
            fs::write(&path, text)?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        }
        public_dir(&folder)?;
    }
    public_dir(&fresh)?;
    match fs::rename(&fresh, &home) {
        // Another process was faster.
        Err(_) if home.is_dir() => super::tree::remove_tree(&fresh)?,
        renamed => renamed?,
    }
    Ok(home)
}

fn public_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o755))
}

/// Puts the program where units of other users can run it: a hard link where that is possible and
/// enough, else a copy; left alone when it is there already.
fn place_exe(bin: &Path, exe: &Path) -> io::Result<()> {
    public_dir(bin)?;
    let place = bin.join("tancho");
    let source = fs::metadata(exe)?;
    if let Ok(found) = fs::metadata(&place) {
        let same_file = (found.dev(), found.ino()) == (source.dev(), source.ino());
        let same_copy = found.len() == source.len() && found.modified()? == source.modified()?;
        if same_file || same_copy {
            return Ok(());
        }
    }
    let fresh = bin.join(format!(".new-{}", uuid::Uuid::new_v4().simple()));
    let linked = source.mode() & 0o005 == 0o005 && fs::hard_link(exe, &fresh).is_ok();
    if !linked {
        fs::copy(exe, &fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o755))?;
        File::options()
            .write(true)
            .open(&fresh)?
            .set_modified(source.modified()?)?;
    }
    fs::rename(&fresh, &place)
}

/// The scripts of one platform on the disk.
pub(super) struct Scripts {
    pub(super) detect: PathBuf,
    pub(super) compile: PathBuf,
    pub(super) release: PathBuf,
    /// The program that `install` has placed beside the platforms.
    pub(super) program: PathBuf,
}

impl Scripts {
    pub(super) fn find(dir: &Path, platform: &PlatformName) -> Option<Self> {
        let folder = dir.join(platform.as_str());
        let [detect, compile, release] = ["detect", "compile", "release"].map(|s| folder.join(s));
        [&detect, &compile, &release]
            .iter()
            .all(|s| s.is_file())
            .then_some(Self {
                detect,
                compile,
                release,
                program: dir.with_file_name("bin").join("tancho"),
            })
    }
}
