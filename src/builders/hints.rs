//! Hints for users about a tree that was packed or named wrongly: lines of the build's output.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::layout::quote_name;
use super::procfile::ProcessCommand;
use super::tsuru_yaml::FILE_NAMES;
use super::unpack::UnpackSummary;

/// Hints about files of the archive that are ignored, one line each.
pub(super) fn archive_hints(tree: &Path, unpacked: &UnpackSummary) -> Vec<String> {
    let mut lines = Vec::new();
    if unpacked.skipped_files > 0 {
        lines.push(format!(
            " ---> Skipping {} files that macOS adds to archives (._* and the like)",
            unpacked.skipped_files
        ));
    }
    for name in list_names(tree) {
        let lower = name.to_lowercase();
        let right = match lower.strip_suffix(".txt").unwrap_or(&lower) {
            "procfile" => Some("Procfile"),
            other => FILE_NAMES.into_iter().find(|known| *known == other),
        };
        if let Some(right) = right.filter(|right| *right != name && !tree.join(right).exists()) {
            lines.push(format!(
                " !     The file {} is not read: rename it to {right}",
                quote_name(name.as_bytes())
            ));
        }
    }
    lines
}

/// A hint for an archive in which the app is in a folder instead of at the top.
pub(super) fn single_folder_hint(tree: &Path) -> Option<String> {
    let names: Vec<String> = list_names(tree)
        .into_iter()
        .filter(|name| !name.starts_with('.') && name != "pax_global_header")
        .collect();
    let [name] = names.as_slice() else { return None };
    let inside = fs::symlink_metadata(tree.join(name)).is_ok_and(|found| found.is_dir());
    // A static app may consist of this one folder.
    (inside && name != "public").then(|| {
        let name = quote_name(name.as_bytes());
        format!(
            "The archive contains only the folder {name}: pack its contents instead, as in `tar -C {name} -czf app.tar.gz .`"
        )
    })
}

/// Hints about commands that begin with the path of a file that the built tree does not have.
pub(super) fn process_hints(tree: &Path, processes: &[ProcessCommand]) -> Vec<String> {
    let mut lines = Vec::new();
    for process in processes {
        let program = process.command.split_whitespace().next().unwrap_or_default();
        let plain = program
            .chars()
            .all(|c| c.is_alphanumeric() || "./_-+@".contains(c));
        if !plain
            || !program.contains('/')
            || program.starts_with('/')
            || exists_in_tree(tree, Path::new(program))
        {
            continue;
        }
        let built = list_names(&tree.join(".tancho/bin"));
        let instead = match built.is_empty() || built.len() > 10 {
            true => String::new(),
            false => format!(
                "; call the programs that the build made by their names alone: {}",
                built.join(", ")
            ),
        };
        lines.push(format!(
            " !     The process {} runs {program}, which is not in the app{instead}",
            process.name
        ));
    }
    lines
}

/// Returns whether a path is in the tree. A path through a link counts as existing: following it would
/// disclose files that only Tancho can see.
fn exists_in_tree(tree: &Path, path: &Path) -> bool {
    let mut at = tree.to_owned();
    for part in path.components() {
        match part {
            Component::CurDir => continue,
            Component::Normal(name) => at.push(name),
            _ => return true,
        }
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_symlink() => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    true
}

/// The sorted names in a folder; empty if it cannot be read or is a link.
fn list_names(folder: &Path) -> Vec<String> {
    if !fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir()) {
        return Vec::new();
    }
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let name = entry.ok()?.file_name();
            Some(String::from_utf8_lossy(name.as_bytes()).into_owned())
        })
        .collect();
    names.sort_unstable();
    names
}
