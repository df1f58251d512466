//! Platforms that operators add: an archive with the scripts `detect`, `compile` and `release` at its top level,
//! and whatever they need beside them.

use std::fs::{self, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::platforms::{NEW_PREFIX, SCRIPT_NAMES, create_public_dir};
use super::tree::remove_tree;
use super::unpack::{UnpackError, UnpackLimits, extract_archive, refuse_archive};
use crate::kernel::names::PlatformName;

/// The maximum size of an archive, in bytes, as it is sent.
pub const MAX_PLATFORM_ARCHIVE_BYTES: usize = 512 << 10;

const LIMITS: UnpackLimits = UnpackLimits {
    total_bytes: 8 << 20,
    file_bytes: 4 << 20,
    entries: 1000,
    depth: 20,
    ratio: 200,
};

/// Returns true if these are the first bytes of an archive: gzip, or tar.
pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b]) || bytes.get(257..262) == Some(b"ustar")
}

/// Checks that an archive is a platform, by unpacking it beside the platforms of the binary. Blocks. Errors:
/// `Refused`, with a sentence for the user.
pub fn check_platform_archive(platforms_dir: &Path, archive: &[u8]) -> Result<(), UnpackError> {
    let fresh = new_folder(platforms_dir)?;
    let checked = unpack_platform(&fresh, archive, &fresh.join("scripts"));
    remove_tree(&fresh)?;
    checked
}

/// Installs the scripts of a platform beside those of the binary, unless they are there, and returns the folder
/// to build with. `platforms_dir` is the folder that `install_platforms` returned. Blocks.
pub fn install_platform_archive(
    platforms_dir: &Path,
    platform: &PlatformName,
    digest: &str,
    archive: &[u8],
) -> Result<PathBuf, UnpackError> {
    let home = archive_home(platforms_dir, platform, digest);
    if home.is_dir() {
        return Ok(home);
    }
    let fresh = new_folder(platforms_dir)?;
    let unpacked = unpack_platform(&fresh, archive, &fresh.join(platform.as_str()));
    let installed = unpacked.and_then(|()| Ok(fs::rename(&fresh, &home)?));
    match installed {
        Ok(()) => Ok(home),
        failed => {
            remove_tree(&fresh)?;
            // Another build was faster.
            if home.is_dir() {
                Ok(home)
            } else {
                failed.map(|()| home)
            }
        }
    }
}

/// Returns the folder of installed scripts, if they are on disk.
pub fn find_installed_archive(
    platforms_dir: &Path,
    platform: &PlatformName,
    digest: &str,
) -> Option<PathBuf> {
    Some(archive_home(platforms_dir, platform, digest)).filter(|home| home.is_dir())
}

fn archive_home(platforms_dir: &Path, platform: &PlatformName, digest: &str) -> PathBuf {
    platforms_dir.with_file_name(format!("{platform}@{digest}"))
}

fn new_folder(platforms_dir: &Path) -> io::Result<PathBuf> {
    let fresh = platforms_dir.with_file_name(format!("{NEW_PREFIX}{}", uuid::Uuid::new_v4().simple()));
    create_public_dir(&fresh)?;
    Ok(fresh)
}

/// Unpacks an archive, through a file in `scratch`, and checks its scripts.
fn unpack_platform(scratch: &Path, archive: &[u8], dest: &Path) -> Result<(), UnpackError> {
    let file = scratch.join("archive");
    fs::write(&file, archive)?;
    extract_archive(&file, dest, &LIMITS, &|| false)?;
    fs::remove_file(&file)?;
    for script in SCRIPT_NAMES {
        check_script(&dest.join(script), script)?;
    }
    Ok(open_folders(dest)?)
}

/// Checks that a script is a file that the kernel can run, and makes it executable.
fn check_script(path: &Path, name: &str) -> Result<(), UnpackError> {
    if !fs::symlink_metadata(path).is_ok_and(|found| found.is_file()) {
        return refuse_archive(format!(
            "The archive has no file {name} at its top level: a platform consists of the scripts detect, compile and release."
        ));
    }
    let mut head = Vec::new();
    fs::File::open(path)?.take(4).read_to_end(&mut head)?;
    if !(head.starts_with(b"#!") || head == b"\x7fELF") {
        return refuse_archive(format!(
            "The file {name} cannot be run: begin it with a line such as #!/bin/sh."
        ));
    }
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// Lets every user read the folders; links are not followed.
fn open_folders(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builders::platforms::install_platforms;

    fn pack(files: &[(&str, &str)]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o600);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[test]
    fn archive_is_installed_once_for_every_user_until_the_next_start() {
        let root = std::env::temp_dir().join(format!("tancho-platforms-{}", uuid::Uuid::new_v4().simple()));
        let exe = std::env::current_exe().unwrap();
        let home = install_platforms(&root, &exe).unwrap();
        let ruby = PlatformName::parse("ruby").unwrap();
        let scripts = SCRIPT_NAMES.map(|name| (name, "#!/bin/sh\n"));
        let archive = pack(&[&scripts[..], &[("lib/more", "x")]].concat());
        assert!(is_archive(&archive) && !is_archive(b"FROM python"));
        check_platform_archive(&home, &archive).unwrap();
        assert_eq!(find_installed_archive(&home, &ruby, "d1"), None);
        let dir = install_platform_archive(&home, &ruby, "d1", &archive).unwrap();
        assert_eq!(find_installed_archive(&home, &ruby, "d1"), Some(dir.clone()));
        assert_eq!(install_platform_archive(&home, &ruby, "d1", b"").unwrap(), dir);
        for path in ["ruby/detect", "ruby/lib", "ruby"] {
            let mode = fs::metadata(dir.join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{path}");
        }
        let refused = install_platform_archive(&home, &ruby, "d2", &pack(&scripts[1..]));
        assert!(matches!(refused, Err(UnpackError::Refused(_))));
        install_platforms(&root, &exe).unwrap();
        let mut left: Vec<_> = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        left.sort();
        let mut expected = vec![home, root.join("bin")];
        expected.sort();
        assert_eq!(left, expected);
        remove_tree(&root).unwrap();
    }
}
