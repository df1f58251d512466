//! What the papers claim: each protection in `SECURITY.md` names tests, and each of them is there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The names of all functions in Rust sources below a folder.
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
fn each_protection_names_tests_that_exist() {
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
            .unwrap_or_else(|| panic!("no test beside: {claim}"));
        let names = names.trim_end_matches("`)");
        for name in names.split("`, `") {
            assert!(
                known.contains(name),
                "there is no test {name:?}, named beside: {claim}"
            );
        }
    }
}
