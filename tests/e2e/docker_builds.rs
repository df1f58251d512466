//! Images that a pool of containers builds of a source with a Dockerfile, on a real Docker Engine.

use reqwest::{Method, Response};
use serde_json::Value;

use crate::apps::AppSource;
use crate::docker::{
    DockerEngine, EngineSocket, TEXT, add_pool, create_app, start, start_behind_socket, wait_for_text,
};
use crate::test_instance::{TestInstance, seconds, wait_for};

/// A Dockerfile that serves `index.html`.
const PLAIN: &str = "FROM tancho-test-web:1\nCOPY index.html /www/index.html\n";
const SECRET: &str = "correct-horse-battery";

fn source(dockerfile: &str) -> AppSource {
    AppSource::default()
        .with("Dockerfile", dockerfile)
        .with("index.html", TEXT)
}

/// Deploys; returns the whole response.
async fn deploy(tancho: &TestInstance, app: &str, source: &AppSource) -> (u16, String) {
    let answer = tancho.begin_deploy(app, &source.pack()).await;
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn fail(tancho: &TestInstance, app: &str, dockerfile: &str) -> String {
    let (status, text) = deploy(tancho, app, &source(dockerfile)).await;
    assert!(status == 200 && !text.ends_with("\nOK\n"), "{status} {text}");
    text
}

/// Begins a deploy of files and a Dockerfile beside them, as the client does with `--dockerfile`.
async fn send_dockerfile(tancho: &TestInstance, app: &str, dockerfile: &str, files: &AppSource) -> Response {
    let mut body = format!(
        "--edge\r\nContent-Disposition: form-data; name=\"dockerfile\"\r\n\r\n{dockerfile}\r\n--edge\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"archive.tar.gz\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&files.pack());
    body.extend_from_slice(b"\r\n--edge--\r\n");
    let request = tancho.request_as_admin(Method::POST, &format!("/1.0/apps/{app}/deploy"));
    let request = request.header("content-type", "multipart/form-data; boundary=edge");
    request.body(body).send().await.unwrap()
}

/// Reads until a text has come.
async fn read_until(answer: &mut Response, said: &str) {
    let mut text = String::new();
    while !text.contains(said) {
        let chunk = answer.chunk().await.unwrap();
        text.push_str(&String::from_utf8_lossy(
            &chunk.unwrap_or_else(|| panic!("ended: {text}")),
        ));
    }
}

async fn list_deploys(tancho: &TestInstance, app: &str) -> Value {
    tancho.read_json(&format!("/1.0/deploys?app={app}")).await
}

/// Waits until the builds of an app have left nothing.
async fn wait_until_tidy(engine: &DockerEngine, app_id: &str) {
    wait_for("builds have left nothing", seconds(30), async || {
        engine.build_leftovers(app_id).is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dockerfile_is_built_with_public_variables_only_and_rolled_back() {
    let Some(engine) = DockerEngine::find("dockerfile_is_built_with_public_variables_only_and_rolled_back")
    else {
        return;
    };
    let tancho = start(&engine).await;
    create_app(&tancho, "built1").await;
    tancho.set_env("built1", "COLOR", "red").await;
    let form = [
        ("Envs.0.Name", "TOKEN"),
        ("Envs.0.Value", SECRET),
        ("Private", "true"),
    ];
    tancho.change(Method::POST, "/1.0/apps/built1/env", &form).await;

    let dockerfile = "FROM tancho-test-web:1 AS made\nARG COLOR=none\nARG TOKEN=none\n\
                      RUN echo \"color is $COLOR, token is $TOKEN\"; echo correct-horse-battery > /dev/null\n\
                      FROM tancho-test-web:1\nCOPY . /src\nRUN ls -a /src | tr '\\n' ' '\n\
                      COPY --from=made /bin/busybox /made\nCOPY index.html /www/index.html\n";
    let files = source("this one is not used")
        .with("Procfile", "web: httpd -f -p 8080 -h /www\nworker: sleep 1000\n")
        .with(".dockerignore", "secret.txt\n*.log\n")
        .with("secret.txt", "x")
        .with("a.log", "x");
    let answer = send_dockerfile(&tancho, "built1", dockerfile, &files).await;
    let text = answer.text().await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    assert!(text.contains("color is red, token is none"), "{text}");
    assert!(text.contains(". .. Dockerfile Procfile index.html"), "{text}");
    assert!(!text.contains(SECRET) && text.contains("echo ***"), "{text}");
    wait_for_text(&tancho, "built1").await;
    let deploys = list_deploys(&tancho, "built1").await;
    let image = deploys[0]["Image"].as_str().unwrap().to_owned();
    assert!(image.contains(":v1@sha256:"), "{image}");
    wait_for("both processes run", seconds(20), async || {
        (engine.containers("built1").1.len() == 2).then_some(())
    })
    .await;

    // Nothing of the private value is in what the engine has of the images.
    let app_id = engine.app_id("built1");
    let filter = format!("label=tancho.build={app_id}");
    for id in engine.run(&["images", "--all", "--quiet", "--filter", &filter]) {
        let kept = [
            engine.run(&["history", "--no-trunc", &id]),
            engine.run(&["image", "inspect", &id]),
        ];
        // The Dockerfile itself names it once: what somebody writes there is no secret.
        let kept = kept.concat().join("\n").replace("echo correct-horse-battery", "");
        assert!(!kept.contains(SECRET), "{kept}");
    }

    let (status, text) = deploy(&tancho, "built1", &source(PLAIN).with("index.html", "second")).await;
    assert!(status == 200 && text.ends_with("\nOK\n"), "{status} {text}");
    assert_eq!(tancho.get_app("built1", "/").await, (200, "second".to_owned()));
    let form = [("image", "v1"), ("origin", "rollback")];
    tancho
        .change(Method::POST, "/1.0/apps/built1/deploy/rollback", &form)
        .await;
    wait_for_text(&tancho, "built1").await;
    tancho.change(Method::DELETE, "/1.0/apps/built1", &[]).await;
    wait_for("no image of the app is left", seconds(30), async || {
        let images = engine.run(&["images", "--all", "--quiet", "--filter", &filter]);
        (images.is_empty() && engine.kept(&app_id).0.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn build_that_fails_names_the_step_and_leaves_nothing() {
    let Some(engine) = DockerEngine::find("build_that_fails_names_the_step_and_leaves_nothing") else {
        return;
    };
    let mut tancho = TestInstance::new_empty();
    tancho.set("TANCHO_DOCKER_HOST", &engine.0);
    tancho.set("TANCHO_BUILDS_MAX_DISK_BYTES", "20M");
    tancho.set("TANCHO_BUILDS_MAX_UNPACKED_BYTES", "4M");
    tancho.serve();
    tancho.login().await;
    tancho.team().await;
    add_pool(&tancho).await;
    create_app(&tancho, "built2").await;
    let (_, text) = deploy(&tancho, "built2", &source(PLAIN)).await;
    assert!(text.ends_with("\nOK\n"), "{text}");
    let app_id = engine.app_id("built2");
    let own = format!("FROM tancho.invalid/{app_id}:v1\n");
    let copy = format!("FROM tancho-test-web:1\nCOPY --from=tancho.invalid/{app_id}:v1 /www /x\n");
    let short = engine
        .run(&["images", "--quiet", &format!("tancho.invalid/{app_id}")])
        .swap_remove(0);
    let by_id = format!("FROM {short}\n");
    for (dockerfile, why) in [
        (
            "FROM tancho-test-web:1\nRUN echo made\nRUN echo it is broken >&2; exit 3\n",
            "The step `RUN echo it is broken >&2; exit 3` of the Dockerfile exited with status 3",
        ),
        (
            "FROM tancho-test-web:1\nCOPY nothing /x\n",
            "The step `COPY nothing /x` of the Dockerfile failed",
        ),
        (
            "FROM registry.invalid/nothing:1\n",
            "registry.invalid/nothing:1 cannot be fetched",
        ),
        ("FROM scratch\n", "has no command"),
        ("", "has no FROM"),
        (&own, "belongs to a version of an app"),
        (&copy, "belongs to a version of an app"),
        (&by_id, "cannot be fetched"),
        (
            "FROM tancho-test-web:1\nADD http://127.0.0.1:1/x /x\n",
            "ADD takes files of the app only",
        ),
        ("FROM tancho-test-web:1\nRUN yes > /big\n", "wrote more than 20"),
        (
            "FROM tancho-test-web:1\nCMD [\"/bin/false\"]\nFROM scratch AS none\nCOPY index.html /\n",
            "has no command",
        ),
    ] {
        let text = fail(&tancho, "built2", dockerfile).await;
        assert!(text.contains(why), "{dockerfile}: {text}");
    }
    let files = AppSource::web("one");
    let (_, text) = deploy(&tancho, "built2", &files).await;
    assert!(text.contains("The source has no Dockerfile"), "{text}");
    let large = source(PLAIN).with("large", &"x".repeat(5 << 20));
    let (_, text) = deploy(&tancho, "built2", &large).await;
    assert!(
        text.contains("larger than allowed") || text.contains("more than"),
        "{text}"
    );
    wait_until_tidy(&engine, &app_id).await;
    assert_eq!(engine.kept(&app_id).0, ["v1"]);
    wait_for_text(&tancho, "built2").await;

    // A pool of files takes no Dockerfile.
    tancho.create_app("files").await;
    let answer = send_dockerfile(&tancho, "files", PLAIN, &files).await;
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(
        status == 400 && text.contains("builds no Dockerfiles"),
        "{status} {text}"
    );
    tancho.change(Method::DELETE, "/1.0/apps/built2", &[]).await;
    wait_for("no image of the app is left", seconds(30), async || {
        engine.kept(&app_id).0.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_build_is_cancelled_ends_in_time_and_survives_a_kill() {
    let Some(engine) = DockerEngine::find("endless_build_is_cancelled_ends_in_time_and_survives_a_kill")
    else {
        return;
    };
    let mut tancho = TestInstance::new_empty();
    tancho.set("TANCHO_DOCKER_HOST", &engine.0);
    tancho.set("TANCHO_BUILDS_DEADLINE_SECONDS", "20");
    tancho.set("TANCHO_BUILDS_MAX_OUTPUT_BYTES", "64K");
    tancho.serve();
    tancho.login().await;
    tancho.team().await;
    add_pool(&tancho).await;
    create_app(&tancho, "built3").await;
    let (_, text) = deploy(&tancho, "built3", &source(PLAIN)).await;
    assert!(text.ends_with("\nOK\n"), "{text}");
    let app_id = engine.app_id("built3");

    let endless = source("FROM tancho-test-web:1\nRUN echo made\nRUN echo it begins; sleep 1000\n");
    let mut answer = tancho.begin_deploy("built3", &endless.pack()).await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut answer, "it begins").await;
    let cancel = tancho.request_as_admin(Method::POST, &format!("/1.1/events/{event}/cancel"));
    let cancelled = cancel.form(&[("reason", "wrong one")]).send().await.unwrap();
    assert_eq!(cancelled.status(), 204);
    let ended = tancho.wait_for_event_end(&event, seconds(15)).await;
    assert_eq!(ended["CancelInfo"]["Canceled"], true, "{ended}");
    wait_until_tidy(&engine, &app_id).await;

    // It floods its output, too.
    let text = fail(
        &tancho,
        "built3",
        "FROM tancho-test-web:1\nRUN yes correct horse\n",
    )
    .await;
    assert!(
        text.contains("took longer than 20 seconds"),
        "{}",
        &text[text.len() - 300..]
    );
    assert!(text.len() < 200_000, "{} bytes of output", text.len());
    wait_until_tidy(&engine, &app_id).await;

    // Killed in a build, which the next server does again.
    let slow =
        source("FROM tancho-test-web:1\nRUN echo it begins; sleep 3\nCOPY index.html /www/index.html\n");
    let mut answer = tancho
        .begin_deploy("built3", &slow.with("index.html", "slow").pack())
        .await;
    let event = answer.headers()["x-tsuru-eventid"].to_str().unwrap().to_owned();
    read_until(&mut answer, "it begins").await;
    tancho.kill();
    tancho.serve();
    let ended = tancho.wait_for_event_end(&event, seconds(30)).await;
    assert_eq!(ended["Error"], "", "{ended}");
    assert_eq!(tancho.get_app("built3", "/").await, (200, "slow".to_owned()));
    wait_until_tidy(&engine, &app_id).await;
    tancho.change(Method::DELETE, "/1.0/apps/built3", &[]).await;
    wait_for("no image of the app is left", seconds(30), async || {
        engine.kept(&app_id).0.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_that_goes_away_in_a_build_fails_the_deploy_and_nothing_else() {
    let Some(engine) =
        DockerEngine::find("engine_that_goes_away_in_a_build_fails_the_deploy_and_nothing_else")
    else {
        return;
    };
    let (tancho, path, socket) = start_behind_socket(&engine).await;
    create_app(&tancho, "built4").await;
    let (_, text) = deploy(&tancho, "built4", &source(PLAIN)).await;
    assert!(text.ends_with("\nOK\n"), "{text}");
    let app_id = engine.app_id("built4");
    let endless = source("FROM tancho-test-web:1\nRUN echo it begins; sleep 1000\n");
    let mut answer = tancho.begin_deploy("built4", &endless.pack()).await;
    read_until(&mut answer, "it begins").await;
    socket.close().await;
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("The Docker Engine does not answer") && !text.ends_with("\nOK\n"),
        "{text}"
    );
    let socket = EngineSocket::listen(&path, Some(&engine));
    // The next build finds what that one has left.
    wait_for("the engine builds again", seconds(60), async || {
        let (_, text) = deploy(&tancho, "built4", &source(PLAIN)).await;
        text.ends_with("\nOK\n").then_some(())
    })
    .await;
    wait_until_tidy(&engine, &app_id).await;
    wait_for_text(&tancho, "built4").await;
    tancho.change(Method::DELETE, "/1.0/apps/built4", &[]).await;
    wait_for("no image of the app is left", seconds(30), async || {
        engine.kept(&app_id).0.is_empty().then_some(())
    })
    .await;
    drop(tancho);
    socket.close().await;
}
