//! Platforms that operators add as archives of scripts.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::pools::PoolFixture;
use crate::recorded::test_service;

/// Packs files.
fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        // Not executable: the server sees to that.
        header.set_mode(0o600);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    let mut encoder = tar.into_inner().unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

/// Packs the scripts of a platform whose builds say this mark.
pub(crate) fn scripts_archive(mark: &str) -> Vec<u8> {
    let compile = format!("#!/bin/sh\n. \"$(dirname \"$0\")/lib/say\"\nsay {mark}\n");
    pack(&[
        ("detect", "#!/bin/sh\necho ruby\n"),
        ("compile", &compile),
        ("release", "#!/bin/sh\necho 'web: ./serve'\n"),
        ("lib/say", "say() { echo \"scripts of mark $1\"; }\n"),
    ])
}

/// Gives a request a multipart body of fields, and of an archive where clients send a Dockerfile.
pub(crate) fn with_parts(
    request: RequestBuilder,
    archive: Option<&[u8]>,
    fields: &[(&str, &str)],
) -> RequestBuilder {
    let mut body = Vec::new();
    let file = archive.map(|bytes| ("dockerfile_content\"; filename=\"Dockerfile", bytes));
    let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
    for (name, value) in file.into_iter().chain(fields) {
        let head = format!("--line\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(value);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--line--\r\n");
    request
        .header("content-type", "multipart/form-data; boundary=line")
        .body(body)
}

/// Sends parts as the administrator.
async fn send_parts(
    fixture: &PoolFixture,
    line: &str,
    archive: Option<&[u8]>,
    fields: &[(&str, &str)],
) -> (u16, String) {
    let (method, path) = line.split_once(' ').unwrap();
    let request = fixture
        .tancho
        .request_as(&fixture.root, method.parse().unwrap(), path);
    let answer = with_parts(request, archive, fields).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

const ADD: &str = "POST /1.0/platforms";
const UPDATE: &str = "PUT /1.0/platforms/ruby";

async fn add_ruby(fixture: &PoolFixture) {
    let (status, text) = send_parts(fixture, ADD, Some(&scripts_archive("one")), &[("name", "ruby")]).await;
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (status, &line["Message"]),
        (200, &json!("Platform successfully added!\n"))
    );
}

async fn images(fixture: &PoolFixture, platform: &str) -> Value {
    let path = format!("/1.6/platforms/{platform}");
    fixture.read(&fixture.ana, &path).await["images"].clone()
}

/// Deploys the app `shop` of ana; returns the output.
async fn deploy(fixture: &PoolFixture) -> String {
    let request = fixture
        .tancho
        .request_as(&fixture.ana, Method::POST, "/1.0/apps/shop/deploy")
        .header("content-type", "application/gzip")
        .body(pack(&[("serve", "#!/bin/sh\n")]));
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.ends_with("\nOK\n"), "{text}");
    text
}

#[tokio::test]
async fn app_is_built_with_the_current_version_of_an_added_platform() {
    let fixture = PoolFixture::start().await;
    test_service::install_platforms(&fixture.tancho);
    test_service::listen_for_all_units(&fixture.tancho).await;
    add_ruby(&fixture).await;
    let app = json!({ "name": "shop", "platform": "ruby" });
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    let text = deploy(&fixture).await;
    assert!(text.contains("scripts of mark one"), "{text}");
    assert!(text.contains("version 1 of the platform ruby"), "{text}");
    let (status, text) = send_parts(
        &fixture,
        UPDATE,
        Some(&scripts_archive("two")),
        &[("disabled", "")],
    )
    .await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(images(&fixture, "ruby").await, json!(["ruby:v1", "ruby:v2"]));
    let text = deploy(&fixture).await;
    assert!(text.contains("scripts of mark two"), "{text}");
    let back = "POST /1.6/platforms/ruby/rollback";
    fixture.change(back, json!({ "image": "ruby:v1" })).await;
    let text = deploy(&fixture).await;
    assert!(text.contains("scripts of mark one"), "{text}");
    for (image, status, text) in [
        ("ruby:v7", 404, "has no version 7"),
        ("ruby:v0", 404, "has no version 0"),
        ("latest", 400, "is no version"),
    ] {
        fixture
            .assert_refused(&fixture.root, back, json!({ "image": image }), status, text)
            .await;
    }
    fixture
        .assert_refused(
            &fixture.root,
            "DELETE /1.0/platforms/ruby",
            Value::Null,
            403,
            "has apps",
        )
        .await;
    fixture.change("DELETE /1.0/apps/shop", Value::Null).await;
    fixture.change("DELETE /1.0/platforms/ruby", Value::Null).await;
    // A later platform of the name begins anew.
    add_ruby(&fixture).await;
    assert_eq!(images(&fixture, "ruby").await, json!(["ruby:v1"]));
    fixture.end().await;
}

#[tokio::test]
async fn platform_of_the_binary_is_replaced_and_rolled_back_but_not_removed() {
    let fixture = PoolFixture::start().await;
    let root = &fixture.root;
    let update = "PUT /1.0/platforms/python";
    for mark in ["1", "2", "3", "4", "5", "6", "7"] {
        let (status, text) = send_parts(&fixture, update, Some(&scripts_archive(mark)), &[]).await;
        assert_eq!(status, 200, "{text}");
    }
    let kept = ["v0", "v3", "v4", "v5", "v6", "v7"].map(|version| format!("python:{version}"));
    assert_eq!(images(&fixture, "python").await, json!(kept));
    let back = "POST /1.6/platforms/python/rollback";
    fixture.change(back, json!({ "image": "python:v0" })).await;
    let current: Option<i32> = sqlx::query_scalar("select version from platform where name = 'python'")
        .fetch_one(&fixture.tancho.running.core.db)
        .await
        .unwrap();
    assert_eq!(current, None);
    fixture
        .assert_refused(
            root,
            "DELETE /1.0/platforms/python",
            Value::Null,
            403,
            "disable it instead",
        )
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn disabled_platform_is_chosen_by_no_new_app() {
    let fixture = PoolFixture::start().await;
    add_ruby(&fixture).await;
    let (status, text) = send_parts(&fixture, UPDATE, None, &[("disabled", "true")]).await;
    assert_eq!(status, 200, "{text}");
    let app = json!({ "name": "shop", "platform": "ruby" });
    fixture
        .assert_refused(&fixture.ana, "POST /1.0/apps", app.clone(), 400, "is disabled")
        .await;
    fixture.change(UPDATE, json!({ "disabled": false })).await;
    let (status, text) = fixture.send(&fixture.ana, "POST /1.0/apps", app).await;
    assert_eq!(status, 201, "{text}");
    fixture
        .assert_refused(&fixture.root, UPDATE, json!({}), 400, "nothing to change")
        .await;
    fixture
        .assert_refused(
            &fixture.root,
            "PUT /1.0/platforms/cobol",
            json!({ "disabled": true }),
            404,
            "Platform cobol not found",
        )
        .await;
    fixture.end().await;
}

#[tokio::test]
async fn archive_that_is_no_platform_is_refused_and_leaves_nothing() {
    let fixture = PoolFixture::start().await;
    let scripts = [
        ("detect", "#!/bin/sh\n"),
        ("compile", "#!/bin/sh\n"),
        ("release", "#!/bin/sh\n"),
    ];
    let large: String = (0..110_000).map(|n: u64| (n * n * 7919).to_string()).collect();
    let mut cut = scripts_archive("1");
    cut.truncate(cut.len() / 2);
    for (archive, status, text) in [
        (
            b"FROM tsuru/python\n".to_vec(),
            400,
            "No pool of this server builds images",
        ),
        (Vec::new(), 400, "No pool of this server builds images"),
        (pack(&scripts[..2]), 400, "no file release at its top level"),
        (
            pack(&[("p/detect", ""), ("p/compile", ""), ("p/release", "")]),
            400,
            "no file detect",
        ),
        (
            pack(&[scripts[0], scripts[1], ("release", "echo web")]),
            400,
            "#!/bin/sh",
        ),
        (
            pack(&[
                scripts[0],
                scripts[1],
                scripts[2],
                ("zeros", &"0".repeat(9 << 20)),
            ]),
            400,
            "larger than",
        ),
        (cut, 400, "archive"),
        (
            pack(&[scripts[0], scripts[1], scripts[2], ("large", &large)]),
            413,
            "more than",
        ),
    ] {
        let (got, said) = send_parts(&fixture, ADD, Some(&archive), &[("name", "ruby")]).await;
        assert!(
            got == status && said.contains(text),
            "{status} {text:?}: {got} {said}"
        );
    }
    let (status, text) = send_parts(&fixture, ADD, None, &[("name", "ruby")]).await;
    assert!(status == 400 && text.contains("is missing"), "{status} {text}");
    let archive = scripts_archive("1");
    let (status, text) = send_parts(&fixture, ADD, Some(&archive), &[("name", "../x")]).await;
    assert!(status == 400 && text.contains("platform name"), "{status} {text}");
    let (status, text) = send_parts(&fixture, ADD, Some(&archive), &[("name", "python")]).await;
    assert!(
        status == 409 && text.contains("already exists"),
        "{status} {text}"
    );
    let platforms = fixture.read(&fixture.ana, "/1.0/platforms").await;
    assert_eq!(platforms.as_array().unwrap().len(), 5, "{platforms}");
    let beside = fixture.tancho.running.core.platforms_dir.parent().unwrap();
    let left = std::fs::read_dir(beside)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(".new-"));
    assert_eq!(left.count(), 0);
    fixture.end().await;
}
