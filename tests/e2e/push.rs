//! `git push` over HTTP, with the real `git` from a clean home.

use std::io::Read;
use std::path::PathBuf;

use reqwest::Method;
use serde_json::{Value, json};

use crate::apps::Source;
use crate::cluster::Cluster;
use crate::desk::{Copy, Desk, remote_lines, repository, url};
use crate::house::{EMAIL, House, PASSWORD, seconds, until};

/// The newest deploy of an app.
async fn newest(house: &House, app: &str) -> Value {
    let list = house.read(&format!("/1.0/deploys?app={app}")).await;
    list[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_deploys_and_a_broken_one_changes_nothing() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    // Nothing there yet, on either side.
    let empty = desk
        .run(&desk.home, &["clone", &url(&house, &house.token, "shop"), "none"])
        .must();
    assert!(empty.contains("empty repository"), "{empty}");
    work.push(&["main"]).must_fail();

    let source = Source::web("one").hooks(&["echo built by hand"]);
    let first = work.commit(&source, "The first\n\nSaid at length.");
    let said = work.push(&["main"]).must();
    let lines = remote_lines(&said);
    for part in ["Deploying ", "built by hand", "version 1 is built"] {
        assert!(lines.contains(part), "{part}: {said}");
    }
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(work.remote("refs/heads/main"), first);
    let deploy = newest(&house, "shop").await;
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
    assert_eq!(work.remote("refs/heads/main"), first);
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    house.assert_tidy("shop", &["1"]).await;

    // Another branch and a tag are kept, not deployed.
    work.git(&["tag", "v0"]).must();
    let said = work.push(&["main:idea", "v0"]).must();
    assert!(remote_lines(&said).contains("not deployed"), "{said}");
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_ne!(work.remote("refs/heads/idea"), "");
    assert_ne!(work.remote("refs/tags/v0"), "");
    work.push(&[":idea"]).must();
    assert_eq!(work.remote("refs/heads/idea"), "");

    // Clone and fetch, by a password as well.
    let password = PASSWORD.to_owned();
    let login = EMAIL.replace('@', "%40");
    let by_password = url(&house, &password, "shop").replacen("token", &login, 1);
    desk.run(&desk.home, &["clone", "--quiet", &by_password, "clone"])
        .must();
    let clone = Copy {
        desk: &desk,
        path: desk.home.join("clone"),
    };
    assert_eq!(clone.git(&["rev-parse", "HEAD"]).must().trim(), first);
    let second = clone.commit(&Source::web("three"), "From the clone");
    clone.git(&["push", "--quiet", "origin", "main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "three -".to_owned()));
    assert_eq!(newest(&house, "shop").await["Commit"], second.as_str());
    work.git(&["fetch", "--quiet", "tancho"]).must();
    assert_eq!(work.git(&["rev-parse", "tancho/main"]).must().trim(), second);

    // History that was thought over: by force only. The branch that is deployed stays.
    work.git(&["reset", "--quiet", "--hard", &first]).must();
    let other = work.commit(&Source::web("four"), "Thought over");
    assert!(work.push(&["main"]).must_fail().contains("rejected"));
    work.push(&["--force", "main"]).must();
    assert_eq!(work.remote("refs/heads/main"), other);
    assert_eq!(house.visit("shop", "/").await, (200, "four -".to_owned()));
    let said = work.push(&[":main"]).must_fail();
    assert!(said.contains("cannot be deleted"), "{said}");
    assert_eq!(work.remote("refs/heads/main"), other);
    // What went wrong and right has left a repository in order, and no push under way.
    assert_eq!(crate::house::names(&house.data.join("repositories")).len(), 2);
    desk.run(&repository(&house), &["fsck", "--strict"]).must();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_deployed_and_who_may_not_push_are_told_so() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    work.commit(&Source::web("one"), "One");
    let tip = work.git(&["rev-parse", "HEAD"]).must();
    let link = format!("160000,{},lib/part", tip.trim());
    work.git(&["update-index", "--add", "--cacheinfo", &link]).must();
    work.git(&["commit", "--quiet", "-m", "With a part"]).must();
    let said = work.push(&["main"]).must_fail();
    assert!(
        remote_lines(&said).contains("ERROR: lib/part is a submodule"),
        "{said}"
    );
    work.git(&["reset", "--quiet", "--hard", "HEAD~"]).must();
    let large = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    work.commit(&Source::default().with(".gitattributes", large), "Large");
    let said = work.push(&["main"]).must_fail();
    assert!(remote_lines(&said).contains("Git LFS"), "{said}");
    assert_eq!(work.remote("refs/heads/main"), "");
    assert_eq!(
        house.read("/1.0/deploys?app=shop").await.as_array().map(Vec::len),
        Some(0)
    );

    // Nobody, a wrong password, a stranger: an app that is there looks like one that is not.
    let stranger = json!({ "email": "bob@example.com", "password": PASSWORD });
    let made = house
        .by(Method::POST, "/1.0/users")
        .json(&stranger)
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 201);
    let tokens = format!("{}/1.0/users/bob@example.com/tokens", house.running().api);
    let login = house
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
            let said = work.git(&["push", &url(&house, token, app), "main"]).must_fail();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        let (there, unknown) = (push("shop"), push("none"));
        assert_eq!(there, unknown);
        assert!(there.contains(says), "{there}");
        let fetch = |app: &str| {
            let said = work.git(&["ls-remote", &url(&house, token, app)]).must_fail();
            said.replace(app, "APP").replace(token, "TOKEN")
        };
        assert_eq!(fetch("shop"), fetch("none"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_pushes_at_once_the_second_is_told_of_the_first() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let (one, two) = (desk.copy(&house, "one", "shop"), desk.copy(&house, "two", "shop"));
    one.commit(&Source::web("one").hooks(&["echo in the build; sleep 3"]), "One");
    two.commit(&Source::web("two"), "Two");
    let (mut first, _lines, _) = one.begin_push("main", "in the build");
    let said = two.push(&["main"]).must_fail();
    let lines = remote_lines(&said);
    assert!(
        lines.contains("ERROR: ") && lines.contains(&format!("that of {EMAIL} since ")),
        "{said}"
    );
    // What is only kept need not wait.
    two.push(&["main:aside"]).must();
    assert!(first.wait().unwrap().success());
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    two.push(&["--force", "main"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));

    // A pusher who hangs up stops neither the deploy nor the branch.
    let last = one.commit(
        &Source::web("three").hooks(&["echo in the build; sleep 2"]),
        "Three",
    );
    let (mut pusher, _lines, _) = one.begin_push("+main", "in the build");
    pusher.kill().unwrap();
    pusher.wait().unwrap();
    until("the branch has moved", seconds(60), async || {
        (two.remote("refs/heads/main") == last).then_some(())
    })
    .await;
    assert_eq!(house.visit("shop", "/").await, (200, "three -".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tancho_killed_in_a_push_tells_the_pusher_and_keeps_the_repository() {
    let mut house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    let first = work.commit(&Source::web("one"), "One");
    work.push(&["main"]).must();
    let cases = [
        (
            "two",
            Source::web("two").hooks(&["echo in the build; sleep 2"]),
            "in the build",
        ),
        (
            "three",
            Source::slow_to_start("three", "2"),
            "units ready: web 0 of 1",
        ),
    ];
    let mut answers = "one";
    for (text, source, moment) in cases {
        work.commit(&source, "Another");
        let (mut pusher, mut lines, mut said) = work.begin_push("main", moment);
        house.kill();
        assert!(!pusher.wait().unwrap().success());
        lines.read_to_string(&mut said).unwrap();
        assert!(said.contains("error: ") || said.contains("fatal: "), "{said}");
        let event = newest_event(&said);
        house.serve();
        work.git(&["remote", "set-url", "tancho", &url(&house, &house.token, "shop")])
            .must();
        let event = house.ended(&event, seconds(30)).await;
        if event["Error"] == "" {
            answers = text;
        }
        assert_eq!(
            house.visit("shop", "/").await,
            (200, format!("{answers} -")),
            "{event}"
        );
        assert_eq!(work.remote("refs/heads/main"), first);
        desk.run(&repository(&house), &["fsck", "--strict"]).must();
    }
    // The same again is all that has to be done.
    let last = work.commit(&Source::web("four"), "Four");
    work.push(&["main"]).must();
    assert_eq!(work.remote("refs/heads/main"), last);
    assert_eq!(house.visit("shop", "/").await, (200, "four -".to_owned()));
}

/// The event that a push has named.
fn newest_event(said: &str) -> String {
    let (_, rest) = said.split_once("(event ").unwrap();
    rest.split_once(')').unwrap().0.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_branch_is_chosen_rollback_knows_commits_and_removal_leaves_nothing() {
    let house = House::start().await;
    house.create_app("shop").await;
    let desk = Desk::new(&house);
    let work = desk.copy(&house, "work", "shop");
    let path = "/1.0/apps/shop/repository";
    let none = house.read(path).await;
    assert_eq!(
        (&none["branch"], &none["host"]),
        (&json!("main"), &json!("")),
        "{none}"
    );
    let shown = house.by(Method::GET, "/apps/shop").send().await.unwrap();
    let shown: Value = shown.json().await.unwrap();
    assert_eq!(shown["repository"], none["url"]);
    assert_eq!(house.read("/1.0/apps/shop").await["repository"], none["url"]);
    let http = format!("{}/git/shop.git", house.running().api);
    assert_eq!(none["httpUrl"], http.as_str());

    // Where only master comes, that is it.
    let one = work.commit(&Source::web("one"), "One");
    work.push(&["main:master"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    assert_eq!(house.read(path).await["branch"], "master");
    let head = work.git(&["ls-remote", "--symref", "tancho", "HEAD"]).must();
    assert!(head.contains("ref: refs/heads/master"), "{head}");

    // Another choice.
    let bad = house
        .by(Method::PUT, path)
        .form(&[("branch", "../x")])
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), 400);
    house.change(Method::PUT, path, &[("branch", "live")]).await;
    work.commit(&Source::web("two"), "Two");
    let said = work.push(&["main:master"]).must();
    assert!(said.contains("pushes of live are"), "{said}");
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    work.push(&["main:live"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
    assert!(house.read(path).await["bytes"].as_i64().unwrap() > 1000);

    // Back to a commit.
    let form = [("image", &one[..10])];
    house
        .change(Method::POST, "/1.0/apps/shop/deploy/rollback", &form)
        .await;
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    let form = [("image", "abcdef0123")];
    let gone = house
        .by(Method::POST, "/1.0/apps/shop/deploy/rollback")
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(gone.status(), 404);

    // Given up, it begins anew, and what runs stays.
    house.change(Method::DELETE, path, &[]).await;
    assert_eq!(work.remote("refs/heads/live"), "");
    assert_eq!(house.visit("shop", "/").await, (200, "one -".to_owned()));
    let healed = house
        .by(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    until("the old one has gone", seconds(90), async || {
        (crate::house::names(&house.data.join("repositories")).len() == 2).then_some(())
    })
    .await;
    work.push(&["main:live"]).must();
    assert_eq!(house.visit("shop", "/").await, (200, "two -".to_owned()));
    assert_eq!(house.read(path).await["branch"], "live");

    house.change(Method::DELETE, "/1.0/apps/shop", &[]).await;
    assert_eq!(crate::house::names(&house.data.join("repositories")), ["hooks"]);
    let said = work.push(&["main:live"]).must_fail();
    assert!(said.contains("not found"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_to_any_replica_is_seen_by_all() {
    let folder = House::empty();
    let cluster = Cluster::start(PathBuf::from(format!("{}-pg", folder.root.display())));
    let key = format!("1:{}", "5e".repeat(32));
    let mut all: Vec<House> = (0..2)
        .map(|_| {
            let mut house = House::empty();
            house.set("DATABASE_URL", &cluster.url("postgres"));
            house.set("TANCHO_SECRETS_KEYS", &key);
            house.serve();
            house
        })
        .collect();
    all[0].login().await;
    let token = all[0].token.clone();
    all[1].token = token;
    all[0].team().await;
    all[0].create_app("shop").await;
    let desk = Desk::new(&folder);
    let work = desk.copy(&all[0], "work", "shop");
    work.commit(&Source::web("one"), "One");
    work.push(&["main"]).must();
    // The other one has not the repository, but knows who has.
    work.git(&[
        "remote",
        "set-url",
        "tancho",
        &url(&all[1], &all[1].token, "shop"),
    ])
    .must();
    let two = work.commit(&Source::web("two").hooks(&["echo built there"]), "Two");
    let said = work.push(&["main"]).must();
    assert!(remote_lines(&said).contains("built there"), "{said}");
    assert_eq!(crate::house::names(&all[1].data.join("repositories")), ["hooks"]);
    for house in &all {
        let clone = format!("clone-{}", house.root.file_name().unwrap().display());
        let from = url(house, &house.token, "shop");
        desk.run(&desk.home, &["clone", "--quiet", &from, &clone]).must();
        let tip = desk.run(&desk.home.join(clone), &["rev-parse", "HEAD"]).must();
        assert_eq!(tip.trim(), two);
    }
    assert_eq!(all[0].visit("shop", "/").await, (200, "two -".to_owned()));
    // An app that is removed by one takes along what lies at the other.
    all[0].create_app("other").await;
    work.git(&[
        "push",
        "--quiet",
        &url(&all[0], &all[0].token, "other"),
        "main:aside",
    ])
    .must();
    assert_eq!(crate::house::names(&all[0].data.join("repositories")).len(), 3);
    all[1].change(Method::DELETE, "/1.0/apps/other", &[]).await;
    let healed = all[0]
        .by(Method::GET, "/healers/repositories")
        .send()
        .await
        .unwrap();
    assert_eq!(healed.status(), 200);
    until("the repository has gone", seconds(90), async || {
        (crate::house::names(&all[0].data.join("repositories")).len() == 2).then_some(())
    })
    .await;
    // A wrong token is refused there as well, and an absent replica is named.
    let wrong = work
        .git(&["ls-remote", &url(&all[1], "wrong", "shop")])
        .must_fail();
    assert!(wrong.contains("Authentication failed"), "{wrong}");
    all[0].kill();
    let said = work.git(&["ls-remote", "tancho"]).must_fail();
    assert!(said.contains("does not answer"), "{said}");
    drop(all);
}
