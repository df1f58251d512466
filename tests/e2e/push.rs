//! `git push` over HTTP, with the real `git` from a clean home.

use std::io::Read;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::AppSource;
use crate::cluster::PostgresCluster;
use crate::git_client::{GitClient, WorkingCopy, remote_lines, repository, url};
use crate::test_instance::{EMAIL, PASSWORD, TestInstance, seconds, wait_for};

/// A Git LFS pointer file.
pub(crate) const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// Returns the newest deploy of an app.
pub(crate) async fn newest(tancho: &TestInstance, app: &str) -> Value {
    let list = tancho.read_json(&format!("/1.0/deploys?app={app}")).await;
    list[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_deploys_and_a_failed_push_changes_nothing() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    // Both sides are empty.
    let empty = client
        .run(
            &client.home,
            &["clone", &url(&tancho, &tancho.token, "shop"), "none"],
        )
        .expect_success();
    assert!(empty.contains("empty repository"), "{empty}");
    work.push(&["main"]).expect_failure();

    let source = AppSource::web("one").hooks(&["echo built by hand"]);
    let first = work.commit(&source, "The first\n\nSaid at length.");
    let said = work.push(&["main"]).expect_success();
    let lines = remote_lines(&said);
    for part in ["Deploying ", "built by hand", "version 1 is built"] {
        assert!(lines.contains(part), "{part}: {said}");
    }
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(work.remote_ref("refs/heads/main"), first);
    let deploy = newest(&tancho, "shop").await;
    for (key, value) in [
        ("Commit", first.as_str()),
        ("Author", "Ana Alba <ana@example.com>"),
        ("Message", "The first\n\nSaid at length."),
        ("Origin", "git"),
        ("User", EMAIL),
        ("Error", ""),
    ] {
        assert_eq!(deploy[key], value, "{key}: {deploy}");
    }

    // A build that fails.
    work.push_broken();
    assert_eq!(work.remote_ref("refs/heads/main"), first);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    tancho.assert_tidy("shop", &["1"]).await;

    // Another branch and a tag are stored, not deployed.
    work.git(&["tag", "v0"]).expect_success();
    let said = work.push(&["main:idea", "v0"]).expect_success();
    assert!(remote_lines(&said).contains("not deployed"), "{said}");
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    assert_ne!(work.remote_ref("refs/heads/idea"), "");
    assert_ne!(work.remote_ref("refs/tags/v0"), "");
    work.push(&[":idea"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/idea"), "");

    // Clone and fetch, also with a password.
    let password = PASSWORD.to_owned();
    let login = EMAIL.replace('@', "%40");
    let by_password = url(&tancho, &password, "shop").replacen("token", &login, 1);
    client
        .run(&client.home, &["clone", "--quiet", &by_password, "clone"])
        .expect_success();
    let clone = WorkingCopy {
        client: &client,
        path: client.home.join("clone"),
    };
    assert_eq!(clone.git(&["rev-parse", "HEAD"]).expect_success().trim(), first);
    let second = clone.commit(&AppSource::web("three"), "From the clone");
    clone.git(&["push", "--quiet", "origin", "main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "three -".to_owned()));
    assert_eq!(newest(&tancho, "shop").await["Commit"], second.as_str());
    work.git(&["fetch", "--quiet", "tancho"]).expect_success();
    assert_eq!(
        work.git(&["rev-parse", "tancho/main"]).expect_success().trim(),
        second
    );

    // Rewritten history: by force only. The deployed branch cannot be deleted.
    work.git(&["reset", "--quiet", "--hard", &first]).expect_success();
    let other = work.commit(&AppSource::web("four"), "Thought over");
    assert!(work.push(&["main"]).expect_failure().contains("rejected"));
    work.push(&["--force", "main"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/main"), other);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "four -".to_owned()));
    let said = work.push(&[":main"]).expect_failure();
    assert!(said.contains("cannot be deleted"), "{said}");
    assert_eq!(work.remote_ref("refs/heads/main"), other);
    // After failures and successes the repository is intact, and no push is in progress.
    assert_eq!(
        crate::test_instance::list_names(&tancho.data.join("repositories")).len(),
        2
    );
    client
        .run(&repository(&tancho), &["fsck", "--strict"])
        .expect_success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_that_cannot_deploy_or_lacks_permission_is_rejected_with_a_reason() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    work.commit(&AppSource::web("one"), "One");
    let tip = work.git(&["rev-parse", "HEAD"]).expect_success();
    let link = format!("160000,{},lib/part", tip.trim());
    work.git(&["update-index", "--add", "--cacheinfo", &link])
        .expect_success();
    work.git(&["commit", "--quiet", "-m", "With a part"])
        .expect_success();
    let said = work.push(&["main"]).expect_failure();
    assert!(
        remote_lines(&said).contains("ERROR: lib/part is a submodule"),
        "{said}"
    );
    work.git(&["reset", "--quiet", "--hard", "HEAD~"])
        .expect_success();
    let large = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    let source = AppSource::default().with(".gitattributes", large);
    work.commit(&source.with("film.bin", POINTER), "Large");
    let said = work.push(&["main"]).expect_failure();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("Git LFS pointers") && lines.contains("film.bin"),
        "{said}"
    );
    assert_eq!(work.remote_ref("refs/heads/main"), "");
    assert_eq!(
        tancho
            .read_json("/1.0/deploys?app=shop")
            .await
            .as_array()
            .map(Vec::len),
        Some(0)
    );

    // Anonymous, with a wrong password, as another user: an existing app looks like an unknown one.
    let stranger = json!({ "email": "bob@example.com", "password": PASSWORD });
    let made = tancho
        .request_as_admin(Method::POST, "/1.0/users")
        .json(&stranger)
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let tokens = format!("{}/1.0/users/bob@example.com/tokens", tancho.running().api);
    let login = tancho
        .http
        .post(tokens)
        .json(&json!({ "password": PASSWORD }))
        .send()
        .await
        .unwrap();
    let login: Value = login.json().await.unwrap();
    for (token, says) in [
        (login["token"].as_str().unwrap(), "not found"),
        ("wrong", "Authentication failed"),
    ] {
        let push = |app: &str| {
            let said = work
                .git(&["push", &url(&tancho, token, app), "main"])
                .expect_failure();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        let (there, unknown) = (push("shop"), push("none"));
        assert_eq!(there, unknown);
        assert!(there.contains(says), "{there}");
        let fetch = |app: &str| {
            let said = work
                .git(&["ls-remote", &url(&tancho, token, app)])
                .expect_failure();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        assert_eq!(fetch("shop"), fetch("none"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_push_is_rejected_naming_the_running_deploy() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let (one, two) = (
        client.init_copy_of_app(&tancho, "one", "shop"),
        client.init_copy_of_app(&tancho, "two", "shop"),
    );
    one.commit(
        &AppSource::web("one").hooks(&["echo in the build; sleep 3"]),
        "One",
    );
    two.commit(&AppSource::web("two"), "Two");
    let (mut first, _lines, _) = one.begin_push("main", "in the build");
    let said = two.push(&["main"]).expect_failure();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("ERROR: ") && lines.contains(&format!("that of {EMAIL} since ")),
        "{said}"
    );
    // A push that only stores need not wait.
    two.push(&["main:aside"]).expect_success();
    assert!(first.wait().unwrap().success());
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    two.push(&["--force", "main"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));

    // A client that disconnects stops neither the deploy nor the branch.
    let last = one.commit(
        &AppSource::web("three").hooks(&["echo in the build; sleep 2"]),
        "Three",
    );
    let (mut pusher, _lines, _) = one.begin_push("+main", "in the build");
    pusher.kill().unwrap();
    pusher.wait().unwrap();
    wait_for("the branch has moved", seconds(60), async || {
        (two.remote_ref("refs/heads/main") == last).then_some(())
    })
    .await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "three -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_during_a_push_is_reported_and_keeps_the_repository_intact() {
    let mut tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let first = work.commit(&AppSource::web("one"), "One");
    work.push(&["main"]).expect_success();
    let cases = [
        (
            "two",
            AppSource::web("two").hooks(&["echo in the build; sleep 2"]),
            "in the build",
        ),
        (
            "three",
            AppSource::slow_to_start("three", "2"),
            "units ready: web 0 of 1",
        ),
    ];
    let mut answers = "one";
    for (text, source, moment) in cases {
        work.commit(&source, "Another");
        let (mut pusher, mut lines, mut said) = work.begin_push("main", moment);
        tancho.kill();
        assert!(!pusher.wait().unwrap().success());
        lines.read_to_string(&mut said).unwrap();
        assert!(said.contains("error: ") || said.contains("fatal: "), "{said}");
        let event = newest_event(&said);
        tancho.serve();
        work.git(&[
            "remote",
            "set-url",
            "tancho",
            &url(&tancho, &tancho.token, "shop"),
        ])
        .expect_success();
        let event = tancho.wait_for_event_end(&event, seconds(30)).await;
        if event["Error"] == "" {
            answers = text;
        }
        assert_eq!(
            tancho.get_app("shop", "/").await,
            (200, format!("{answers} -")),
            "{event}"
        );
        assert_eq!(work.remote_ref("refs/heads/main"), first);
        client
            .run(&repository(&tancho), &["fsck", "--strict"])
            .expect_success();
    }
    // Repeating the push is all that is needed.
    let last = work.commit(&AppSource::web("four"), "Four");
    work.push(&["main"]).expect_success();
    assert_eq!(work.remote_ref("refs/heads/main"), last);
    assert_eq!(tancho.get_app("shop", "/").await, (200, "four -".to_owned()));
}

/// Returns the event that a push has named.
fn newest_event(said: &str) -> String {
    let (_, rest) = said.split_once("(event ").unwrap();
    rest.split_once(')').unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deploy_branch_can_be_chosen_rollback_takes_commits_and_removal_cleans_up() {
    let tancho = TestInstance::start().await;
    tancho.create_app("shop").await;
    let client = GitClient::new(&tancho);
    let work = client.init_copy_of_app(&tancho, "work", "shop");
    let path = "/1.0/apps/shop/repository";
    let none = tancho.read_json(path).await;
    assert_eq!(
        (&none["branch"], &none["host"]),
        (&json!("main"), &json!("")),
        "{none}"
    );
    let shown = tancho
        .request_as_admin(Method::GET, "/apps/shop")
        .send()
        .await
        .unwrap();
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["repository"], none["url"]);
    assert_eq!(
        tancho.read_json("/1.0/apps/shop").await["repository"],
        none["url"]
    );
    let http = format!("{}/git/shop.git", tancho.running().api);
    assert_eq!(none["httpUrl"], http.as_str());

    // If only master is pushed, it is deployed.
    let one = work.commit(&AppSource::web("one"), "One");
    work.push(&["main:master"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(tancho.read_json(path).await["branch"], "master");
    let head = work
        .git(&["ls-remote", "--symref", "tancho", "HEAD"])
        .expect_success();
    assert!(head.contains("ref: refs/heads/master"), "{head}");

    // Another deploy branch.
    let bad = tancho
        .request_as_admin(Method::PUT, path)
        .form(&[("branch", "../x")])
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), 400);
    tancho.change(Method::PUT, path, &[("branch", "live")]).await;
    work.commit(&AppSource::web("two"), "Two");
    let said = work.push(&["main:master"]).expect_success();
    assert!(said.contains("only pushes to live are deployed"), "{said}");
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    work.push(&["main:live"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert!(tancho.read_json(path).await["bytes"].as_i64().unwrap() > 1000);

    // Rollback to a commit.
    let form = [("image", &one[..10])];
    tancho
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    let form = [("image", "abcdef0123")];
    let gone = tancho
        .request_as_admin(Method::POST, "/1.0/apps/shop/deploy/rollback")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404);

    // After the removal it starts empty, and the running release stays.
    tancho.change(Method::DELETE, path, &[]).await;
    assert_eq!(work.remote_ref("refs/heads/live"), "");
    assert_eq!(tancho.get_app("shop", "/").await, (200, "one -".to_owned()));
    let healed = tancho
        .request_as_admin(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    wait_for("the old repository is removed", seconds(90), async || {
        (crate::test_instance::list_names(&tancho.data.join("repositories")).len() == 2).then_some(())
    })
    .await;
    work.push(&["main:live"]).expect_success();
    assert_eq!(tancho.get_app("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(tancho.read_json(path).await["branch"], "live");

    tancho.change(Method::DELETE, "/1.0/apps/shop", &[]).await;
    assert_eq!(
        crate::test_instance::list_names(&tancho.data.join("repositories")),
        ["hooks"]
    );
    let said = work.push(&["main:live"]).expect_failure();
    assert!(said.contains("not found"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn push_to_any_replica_is_visible_on_all() {
    let folder = TestInstance::new_empty();
    let cluster = PostgresCluster::start(PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut all: Vec<TestInstance> = (0..2)
        .map(|_| {
            let mut tancho = TestInstance::new_empty();
            tancho.set("DATABASE_URL", &cluster.url("postgres"));
            tancho.set("TANCHO_SECRETS_KEYS", &key);
            tancho.serve();
            tancho
        })
        .collect();
    all[0].login().await;
    let token = all[0].token.clone();
    all[1].token = token;
    all[0].team().await;
    all[0].create_app("shop").await;
    let client = GitClient::new(&folder);
    let work = client.init_copy_of_app(&all[0], "work", "shop");
    work.commit(&AppSource::web("one"), "One");
    work.push(&["main"]).expect_success();
    // The other replica does not have the repository, but knows which one does.
    work.git(&[
        "remote",
        "set-url",
        "tancho",
        &url(&all[1], &all[1].token, "shop"),
    ])
    .expect_success();
    let two = work.commit(&AppSource::web("two").hooks(&["echo built there"]), "Two");
    let said = work.push(&["main"]).expect_success();
    assert!(remote_lines(&said).contains("built there"), "{said}");
    assert_eq!(
        crate::test_instance::list_names(&all[1].data.join("repositories")),
        ["hooks"]
    );
    for tancho in &all {
        let clone = format!("clone-{}", tancho.root.file_name().unwrap().display());
        let from = url(tancho, &tancho.token, "shop");
        client
            .run(&client.home, &["clone", "--quiet", &from, &clone])
            .expect_success();
        let tip = client
            .run(&client.home.join(clone), &["rev-parse", "HEAD"])
            .expect_success();
        assert_eq!(tip.trim(), two);
    }
    assert_eq!(all[0].get_app("shop", "/").await, (200, "two -".to_owned()));
    // The removal of an app by one replica also removes what another one has.
    all[0].create_app("other").await;
    work.git(&[
        "push",
        "--quiet",
        &url(&all[0], &all[0].token, "other"),
        "main:aside",
    ])
    .expect_success();
    assert_eq!(
        crate::test_instance::list_names(&all[0].data.join("repositories")).len(),
        3
    );
    all[1].change(Method::DELETE, "/1.0/apps/other", &[]).await;
    let healed = all[0]
        .request_as_admin(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    wait_for("the repository is removed", seconds(90), async || {
        (crate::test_instance::list_names(&all[0].data.join("repositories")).len() == 2).then_some(())
    })
    .await;
    // A wrong token is refused there as well, and an absent replica is named.
    let wrong = work
        .git(&["ls-remote", &url(&all[1], "wrong", "shop")])
        .expect_failure();
    assert!(wrong.contains("Authentication failed"), "{wrong}");
    all[0].kill();
    let said = work.git(&["ls-remote", "tancho"]).expect_failure();
    assert!(said.contains("does not respond"), "{said}");
    drop(all);
}
