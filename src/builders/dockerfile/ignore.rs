//! `.dockerignore`: which files of the source are no part of the build. Tancho applies it, since neither the client nor
//! the engine does.

use std::fs;
use std::io;
use std::path::Path;

use regex::Regex;

use crate::builders::tree::remove_tree;
use crate::kernel::error::Error;
use crate::kernel::excerpt::quote_excerpt;

/// The name of the file.
pub(super) const IGNORE_FILE: &str = ".dockerignore";
/// The most rules; each is tried on each file.
const MAX_RULES: usize = 500;

/// The rules of a file, in its order: the last one that fits decides.
#[derive(Default)]
pub(super) struct IgnoreRules(Vec<IgnoreRule>);

struct IgnoreRule {
    pattern: Regex,
    /// With a `!`: files that an earlier rule has left out are there again.
    keeps: bool,
}

impl IgnoreRules {
    /// Parses the file. Errors: `Invalid`, with the line.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let mut rules = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (keeps, pattern) = match line.strip_prefix('!') {
                Some(pattern) => (true, pattern.trim()),
                None => (false, line),
            };
            let pattern = clean_pattern(pattern);
            if pattern.is_empty() {
                continue;
            }
            let regex = Regex::new(&translate_pattern(&pattern)).map_err(|_| {
                Error::invalid(format!(
                    "{IGNORE_FILE}, line {}: {} is no pattern.",
                    index + 1,
                    quote_excerpt(&pattern)
                ))
            })?;
            rules.push(IgnoreRule {
                pattern: regex,
                keeps,
            });
            if rules.len() > MAX_RULES {
                return Err(Error::invalid(format!(
                    "{IGNORE_FILE} has more than {MAX_RULES} patterns: use fewer."
                )));
            }
        }
        Ok(Self(rules))
    }

    /// Removes from a tree what the rules leave out. Stops when `stop` returns true.
    pub(super) fn prune_tree(&self, top: &Path, stop: &dyn Fn() -> bool) -> io::Result<()> {
        match self.0.is_empty() {
            true => Ok(()),
            false => self.prune_folder(top, "", &vec![false; self.0.len()], stop),
        }
    }

    fn prune_folder(
        &self,
        folder: &Path,
        name: &str,
        above: &[bool],
        stop: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            if stop() {
                return Ok(());
            }
            let own = entry.file_name().to_string_lossy().into_owned();
            let path = if name.is_empty() {
                own
            } else {
                format!("{name}/{own}")
            };
            let fits = self.find_fitting(&path, above);
            let is_left_out = self.decide(&fits);
            if !entry.file_type()?.is_dir() {
                if is_left_out {
                    fs::remove_file(entry.path())?;
                }
                continue;
            }
            if is_left_out && !self.0.iter().any(|rule| rule.keeps) {
                remove_tree(&entry.path())?;
                continue;
            }
            self.prune_folder(&entry.path(), &path, &fits, stop)?;
            if is_left_out {
                // It stays if a rule keeps something in it.
                let _ = fs::remove_dir(entry.path());
            }
        }
        Ok(())
    }

    /// Which rules fit a path, or a folder above it.
    fn find_fitting(&self, path: &str, above: &[bool]) -> Vec<bool> {
        let rules = self.0.iter().zip(above);
        rules
            .map(|(rule, above)| *above || rule.pattern.is_match(path))
            .collect()
    }

    fn decide(&self, fits: &[bool]) -> bool {
        let mut rules = self.0.iter().zip(fits).rev();
        rules
            .find(|(_, fits)| **fits)
            .is_some_and(|(rule, _)| !rule.keeps)
    }
}

/// The pattern without what changes nothing: a leading `/`, `.` and empty parts; `..` takes a part away.
fn clean_pattern(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Translates a pattern, as Docker does: `**` is any number of folders, `*` and `?` stay within one.
fn translate_pattern(pattern: &str) -> String {
    let mut regex = "(?s)^".to_owned();
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '*' if rest.starts_with('*') => {
                rest = rest.trim_start_matches('*');
                match rest.strip_prefix('/') {
                    Some(after) => {
                        rest = after;
                        regex.push_str("(.*/)?");
                    }
                    None => regex.push_str(".*"),
                }
            }
            '*' => regex.push_str("[^/]*"),
            '?' => regex.push_str("[^/]"),
            '[' => match rest.split_once(']') {
                Some((class, after)) if !class.is_empty() => {
                    regex.push_str(&translate_class(class));
                    rest = after;
                }
                _ => regex.push_str(r"\["),
            },
            '\\' => {
                let next = rest.chars().next().unwrap_or('\\');
                rest = rest.strip_prefix(next).unwrap_or(rest);
                regex.push_str(&regex::escape(&next.to_string()));
            }
            c => regex.push_str(&regex::escape(&c.to_string())),
        }
    }
    regex.push('$');
    regex
}

fn translate_class(class: &str) -> String {
    let (start, class) = match class.strip_prefix('^') {
        Some(class) => ("[^", class),
        None => ("[", class),
    };
    let mut text = start.to_owned();
    for c in class.chars() {
        if "[]&~\\^".contains(c) {
            text.push('\\');
        }
        text.push(c);
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pruned(rules: &str, files: &[&str]) -> Vec<String> {
        let top = std::env::temp_dir().join(format!("tancho-ignore-{}", uuid::Uuid::new_v4().simple()));
        for file in files {
            let path = top.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        IgnoreRules::parse(rules)
            .unwrap()
            .prune_tree(&top, &|| false)
            .unwrap();
        let left = files.iter().filter(|file| top.join(file).exists());
        let left = left.map(|file| (*file).to_owned()).collect();
        remove_tree(&top).unwrap();
        left
    }

    #[test]
    fn files_are_left_out_as_docker_leaves_them_out() {
        let files = [
            ".env",
            "a.md",
            "docs/b.md",
            "docs/keep.md",
            "node/x/y",
            "src/a.rs",
            "src/tmp1/z",
        ];
        for (rules, left) in [
            ("", &files[..]),
            (
                "# a remark\n\n/.env\n./docs/../docs",
                &["a.md", "node/x/y", "src/a.rs", "src/tmp1/z"],
            ),
            (
                "*.md",
                &[
                    ".env",
                    "docs/b.md",
                    "docs/keep.md",
                    "node/x/y",
                    "src/a.rs",
                    "src/tmp1/z",
                ],
            ),
            (
                "**/*.md\n!docs/keep.md",
                &[".env", "docs/keep.md", "node/x/y", "src/a.rs", "src/tmp1/z"],
            ),
            ("*\n!src", &["src/a.rs", "src/tmp1/z"]),
            ("*\n!src\nsrc/tmp[0-9]", &["src/a.rs"]),
            ("**", &[]),
            ("node/**/y\ns?c", &[".env", "a.md", "docs/b.md", "docs/keep.md"]),
            (
                "!docs\ndocs",
                &[".env", "a.md", "node/x/y", "src/a.rs", "src/tmp1/z"],
            ),
            (
                "a.m\\d\n[",
                &[
                    ".env",
                    "docs/b.md",
                    "docs/keep.md",
                    "node/x/y",
                    "src/a.rs",
                    "src/tmp1/z",
                ],
            ),
        ] {
            assert_eq!(pruned(rules, &files), left, "{rules:?}");
        }
        let many = "x\n".repeat(MAX_RULES + 1);
        assert!(IgnoreRules::parse(&many).is_err());
        assert!(IgnoreRules::parse("[z-a]").is_err());
    }
}
