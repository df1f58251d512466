//! Real histories and trees: harmless malformed objects, and files that only resemble rejected ones.

use crate::apps::AppSource;
use crate::git_client::{GitClient, WorkingCopy, remote_lines};
use crate::push::POINTER;
use crate::push_hostile::git_with_input;
use crate::test_instance::TestInstance;

/// Creates a root commit as an old program wrote it.
fn old_commit(work: &WorkingCopy<'_>, author: &str) -> String {
    let tree = work.git(&["rev-parse", "HEAD^{tree}"]).expect_success();
    let commit = format!(
        "tree {}\nauthor {author}\ncommitter {author}\n\nOld\n",
        tree.trim()
    );
    let arguments = ["hash-object", "-t", "commit", "-w", "--literally", "--stdin"];
    let id = git_with_input(work, &arguments, commit.as_bytes());
    String::from_utf8(id).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harmless_malformed_objects_are_accepted_and_attacks_rejected() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::web("one"), "One");
    let mut parents = Vec::new();
    for author in [
        "Ana <ana@example.com> 1300000000 +051800",
        "Ana <ana@example.com>1300000000 +0100",
        "Ana<ana@example.com> 1300000000 +0100",
        "Ana ana@example.com 1300000000 +0100",
        "Ana <ana@example.com> 0012345 +0100",
        "Ana <a<na@example.com> 1300000000 +0100",
    ] {
        parents.push(old_commit(&work, author));
    }
    let mut arguments = vec!["commit-tree", "-m", "All of them", "HEAD^{tree}"];
    for parent in &parents {
        arguments.extend(["-p", parent]);
    }
    let tip = work.git(&arguments).expect_success();
    let said = work
        .push(&[&format!("{}:refs/heads/main", tip.trim())])
        .expect_success();
    assert!(remote_lines(&said).contains("badTimezone"), "{said}");
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));

    // Objects that attack a checkout are still rejected.
    let blob = git_with_input(&work, &["hash-object", "-w", "--stdin"], b"x");
    let blob = String::from_utf8(blob).unwrap();
    let modules = "[submodule \"x\"]\n\tpath = x\n\turl = -u./payload\n";
    let modules = git_with_input(&work, &["hash-object", "-w", "--stdin"], modules.as_bytes());
    let modules = String::from_utf8(modules).unwrap();
    for (entry, why) in [
        (format!("100644 blob {}\t.GIT\n", blob.trim()), "hasDotgit"),
        (
            format!("120000 blob {}\t.gitmodules\n", blob.trim()),
            "gitmodulesSymlink",
        ),
        (
            format!("100644 blob {}\t.gitmodules\n", modules.trim()),
            "gitmodulesUrl",
        ),
    ] {
        let tree = git_with_input(&work, &["mktree"], entry.as_bytes());
        let tree = String::from_utf8(tree).unwrap();
        let commit = work
            .git(&["commit-tree", "-m", "Attack", tree.trim()])
            .expect_success();
        let said = work
            .push(&[&format!("{}:refs/heads/attack", commit.trim())])
            .expect_failure();
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(work.remote_ref("refs/heads/attack"), "");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_lfs_pointers_tracked_by_attributes_are_rejected_by_name() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    // A comment, a rule for ordinary files, one that a later rule reverts, and a pointer without a rule.
    let attributes =
        "# *.txt filter=lfs\n*.bin filter=lfs -text\nexample/* -filter\n*.old filter=lfs\n*.old !filter\n";
    let good = AppSource::web("one")
        .with(".gitattributes", attributes)
        .with("whole.bin", "not a pointer")
        .with("pointer.txt", POINTER)
        .with("before.old", POINTER);
    let tip = work.commit(&good, "Good");
    work.push(&["main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    // A macro and a quoted pattern track files as well.
    for (attributes, name) in [
        ("[attr]large filter=lfs\n*.mov large\n", "film.mov"),
        ("\"my *.png\" filter=lfs\n", "my image.png"),
        ("*.bin filter=lfs\n", "whole.bin"),
    ] {
        let source = AppSource::default()
            .with(".gitattributes", attributes)
            .with(name, POINTER);
        work.commit(&source, "Pointer");
        let said = work.push(&["main"]).expect_failure();
        let lines = remote_lines(&said);
        assert!(
            lines.contains("Git LFS pointers") && lines.contains(name),
            "{said}"
        );
        assert!(!lines.contains("pointer.txt"), "{said}");
        work.git(&["reset", "--quiet", "--hard", &tip]).expect_success();
    }
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
}
