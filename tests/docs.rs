//! The claims of the documents: each protection in `SECURITY.md` cites tests, and each of them exists.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Collects the names of all functions in Rust sources below a folder.
fn functions(folder: &Path, found: &mut HashSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.extend(text.lines().filter_map(|line| {
                let (before, after) = line.split_once("fn ")?;
                let is_head = before.trim().is_empty() || before.trim() == "async";
                let name: String = after
                    .chars()
                    .take_while(|c| c.is_alphanumeric() || *c == '_')
                    .collect();
                is_head.then_some(name)
            }));
        }
    }
}

#[test]
fn security_claims_cite_existing_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = HashSet::new();
    functions(&root.join("src"), &mut known);
    functions(&root.join("tests"), &mut known);
    let paper = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let (_, rest) = paper.split_once("## What is protected").unwrap();
    let (claims, _) = rest.split_once("## What is not protected").unwrap();
    let claims: Vec<&str> = claims.lines().filter(|line| line.starts_with("* ")).collect();
    assert!(claims.len() > 25, "only {} claims", claims.len());
    for claim in claims {
        let (_, names) = claim
            .rsplit_once(" (`")
            .unwrap_or_else(|| panic!("the claim cites no test: {claim}"));
        let names = names.trim_end_matches("`)");
        for name in names.split("`, `") {
            assert!(
                known.contains(name),
                "the test {name:?} does not exist; cited by: {claim}"
            );
        }
    }
}

/// Returns the pages for readers: README, SECURITY and everything below docs.
fn pages(root: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![root.join("README.md"), root.join("SECURITY.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn relative_links_in_docs_point_to_existing_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    for page in pages(root) {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap();
            if path.is_empty() || path.contains("://") || path.contains(' ') || path.contains('`') {
                continue;
            }
            links += 1;
            let file = page.parent().unwrap().join(path);
            assert!(
                file.exists(),
                "{} links to {target}, which does not exist",
                page.display()
            );
        }
    }
    assert!(links > 10, "only {links} links");
}

#[test]
fn readme_does_not_exceed_the_word_limit() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let words = fs::read_to_string(root.join("README.md"))
        .unwrap()
        .split_whitespace()
        .count();
    assert!(
        words <= 1200,
        "the README has {words} words; the limit is 1,200, the rest belongs to docs/"
    );
}
