//! What nobody thought of: each parser of strangers' bytes for some seconds, fed with invented texts and with
//! known ones, good and hostile, changed at random. Nothing may panic, hang, or break what is said beside it.
//!
//! `TANCHO_FUZZ_SECONDS` is the time for each (`script/test` gives 20); without it a taste. What once failed
//! lies in `regressions/` and is tried first. The known texts are the tables' rows and `corpus/`.

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use serde::Deserialize;
use tancho::builders::{Procfile, TsuruYaml, UnpackError, main_process, processes};
use tancho::http::kit::input::Input;
use tancho::http::wording::{classic, modern};
use tancho::kernel::problem::{Kind, Problem};
use tancho::services::manifest;

use super::archives::{attempt, entry, pax};
use super::*;

/// No single case may take longer, on a busy machine without optimisation.
const PATIENCE: Duration = Duration::from_secs(20);

fn seconds() -> Duration {
    let told = std::env::var_os("TANCHO_FUZZ_SECONDS").and_then(|text| text.to_str()?.parse().ok());
    Duration::from_secs(told.unwrap_or(2))
}

/// Tries cases until the time is over, and says how many there were.
#[expect(clippy::print_stdout, reason = "for who runs it by hand")]
fn fuzz<T: Debug>(name: &str, strategy: impl Strategy<Value = T>, check: impl Fn(T)) {
    let kept: &'static str = Box::leak(format!("tests/hostile/regressions/{name}.txt").into_boxed_str());
    let until = Instant::now() + seconds();
    let (cases, slowest) = (Mutex::new(0_u64), Mutex::new(Duration::ZERO));
    while Instant::now() < until {
        let mut runner = TestRunner::new(Config {
            cases: 200,
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))),
            ..Config::default()
        });
        let tried = runner.run(&strategy, |case| {
            let begun = Instant::now();
            check(case);
            let took = begun.elapsed();
            *cases.lock().unwrap() += 1;
            let mut slowest = slowest.lock().unwrap();
            *slowest = (*slowest).max(took);
            if took > PATIENCE {
                return Err(TestCaseError::fail(format!("it took {took:?}")));
            }
            Ok(())
        });
        if let Err(failure) = tried {
            panic!("{name}: {failure}");
        }
    }
    let (cases, slowest) = (cases.into_inner().unwrap(), slowest.into_inner().unwrap());
    println!(
        "fuzz {name}: {cases} cases in {} s, the slowest {slowest:.1?}",
        seconds().as_secs()
    );
    assert!(cases > 0);
}

/// The texts of a kind: rows of the tables, and `corpus/texts.jsonl`, whose rows are good.
fn known(kind: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Row {
        kind: String,
        text: String,
    }
    let corpus = include_str!("corpus/texts.jsonl");
    let all = [texts::TABLE, names::TABLE, corpus]
        .map(rows::<Row>)
        .into_iter()
        .flatten();
    let found: Vec<String> = all.filter(|row| row.kind == kind).map(|row| row.text).collect();
    assert!(!found.is_empty(), "{kind}");
    // Cutting and mending endless ones teaches nothing and takes long.
    found.into_iter().filter(|text| text.len() < 16 << 10).collect()
}

/// One change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(Index, u8),
    Drop(Index, usize),
    Repeat(Index, usize, usize),
    Put(Index, &'static str),
    Swap(Index, Index),
}

/// What parsers stumble over.
const STONES: &[&str] = &[
    "\0",
    "\r\n",
    "\n",
    "\t",
    " ",
    ":",
    ": ",
    "- ",
    "&a ",
    "*a",
    "<<: ",
    "!!binary ",
    "!!int ",
    "'",
    "\"",
    "`",
    "{",
    "}",
    "[",
    "]",
    "#",
    "---\n",
    "...\n",
    "|\n",
    ">-\n",
    "%",
    "%00",
    "%2e%2e%2f",
    "../",
    "//",
    "/",
    "\\",
    "\u{feff}",
    "\u{202e}",
    "é",
    "🦢",
    "\u{0}",
    "null",
    "~",
    "true",
    "0x7f000001",
    "1e309",
    "-1",
    "99999999999999999999",
    "$(id)",
    ";",
    "=",
    "a.b.c.d.e.f.g.h.i.j",
    "&",
    "[]=",
    "\u{1b}[2J",
    "\u{85}",
    "\u{2028}",
];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, count)| Change::Drop(at, count)),
        (any::<Index>(), 1..60_usize, 1..30_usize)
            .prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
        (any::<Index>(), proptest::sample::select(STONES)).prop_map(|(at, stone)| Change::Put(at, stone)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Change::Swap(one, other)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        match change {
            Change::Put(at, stone) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, stone.bytes());
            }
            _ if length == 0 => {}
            Change::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Change::Drop(at, count) => {
                let at = at.index(length);
                bytes.drain(at..(at + count).min(length));
            }
            Change::Repeat(at, part, times) => {
                let at = at.index(length);
                let part = bytes[at..(at + part).min(length)].repeat(*times);
                bytes.splice(at..at, part);
            }
            Change::Swap(one, other) => bytes.swap(one.index(length), other.index(length)),
        }
    }
    bytes
}

/// Known bytes changed a little, or bytes that are nobody's.
fn bytes(known: Vec<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    let near = (
        proptest::sample::select(known),
        proptest::collection::vec(change(), 0..6),
    )
        .prop_map(|(bytes, changes)| changed(bytes, &changes));
    prop_oneof![9 => near, 1 => proptest::collection::vec(any::<u8>(), 0..300)].boxed()
}

/// The same as text; what is none is made one.
fn text(kind: &str) -> BoxedStrategy<String> {
    let near = bytes(known(kind).into_iter().map(String::into_bytes).collect())
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    prop_oneof![9 => near, 1 => any::<String>()].boxed()
}

fn refused(problem: &Problem) {
    assert!(
        matches!(problem.kind(), Kind::Invalid | Kind::Unreadable),
        "{problem}"
    );
    assert_fit_to_show("fuzz", problem.words());
}

#[test]
fn procfiles() {
    fuzz("procfile", text("procfile"), |text| {
        match Procfile::parse(&text) {
            Err(problem) => refused(&problem),
            Ok(read) => {
                let line = |p: &tancho::builders::Process| format!("{}: {}\n", p.name, p.command);
                let again: String = read.processes.iter().map(line).collect();
                assert_eq!(
                    Procfile::parse(&again).unwrap(),
                    read,
                    "what is read can be written and read again"
                );
                if let Ok(all) = processes(&read, &TsuruYaml::default()) {
                    assert!(main_process(&all).is_some());
                }
            }
        }
    });
}

#[test]
fn tsuru_yamls() {
    fuzz("tsuru-yaml", text("tsuru.yaml"), |text| {
        match TsuruYaml::parse(&text) {
            Err(problem) => refused(&problem),
            Ok(read) => {
                let json = serde_json::to_value(&read).unwrap();
                assert_eq!(
                    serde_json::from_value::<TsuruYaml>(json).unwrap(),
                    read,
                    "what is read can be kept"
                );
                let all = read.processes.iter().filter_map(|p| p.command.as_ref());
                let hooks = &read.hooks;
                for command in all
                    .chain(&hooks.build)
                    .chain(&hooks.restart.before)
                    .chain(&hooks.restart.after)
                {
                    assert!(!command.contains('\0'), "{command:?}");
                }
            }
        }
    });
}

#[test]
fn manifests() {
    fuzz(
        "manifest",
        text("manifest"),
        |text| match manifest::Fields::from_yaml(&text).and_then(manifest::Fields::check) {
            Err(problem) => refused(&problem),
            Ok(read) => {
                assert_eq!(
                    manifest::base_url(&read.endpoint).unwrap(),
                    read.endpoint,
                    "it is its own base"
                );
                assert!(read.endpoint.starts_with("http://") || read.endpoint.starts_with("https://"));
                assert!(!read.endpoint.contains(['#', '?']) && !read.endpoint.contains(char::is_control));
                assert!(!read.username.contains(char::is_control) && !read.username.contains(':'));
                assert!(!read.password.expose().contains(char::is_control));
            }
        },
    );
}

#[test]
fn names_of_everything() {
    let kinds = names::KINDS.map(|kind| text(kind).prop_map(move |text| (kind, text)).boxed());
    fuzz(
        "names",
        proptest::strategy::Union::new(kinds),
        |(kind, text)| match names::parse(kind, &text) {
            Err(problem) => refused(&problem),
            Ok(name) => {
                // The longest are those of variables.
                assert!((1..=255).contains(&name.len()), "{name:?}");
                assert!(
                    !name.contains('/') && !name.contains(char::is_control),
                    "{kind} {name:?}"
                );
                // No path and no host is ever made of an address.
                let is_path = name.contains('\\') || name.starts_with('.');
                assert!(kind == "email" || !is_path, "{kind} {name:?}");
                assert!(
                    kind == "team" || !name.contains(char::is_whitespace),
                    "{kind} {name:?}"
                );
                if kind != "host" {
                    assert_eq!(name, text);
                    assert_eq!(names::parse(kind, &name).unwrap(), name);
                }
            }
        },
    );
}

/// A tar archive of good and bad entries.
fn archive() -> BoxedStrategy<Vec<u8>> {
    let name = prop_oneof![
        4 => "[ab./]{0,12}",
        1 => "(\\.\\./){0,3}[ab]{0,2}",
        1 => "/?[ab](/[ab.]{1,2}){0,12}",
    ];
    let kind = proptest::sample::select(b"00000055221gxLKSZ3\0".to_vec());
    let one = (
        kind,
        name.clone(),
        name,
        0..2000_usize,
        any::<bool>(),
        any::<u64>(),
    )
        .prop_map(|(kind, name, link, length, lies, claim)| {
            let body = vec![b'x'; length];
            let size = if lies && claim % 16 == 0 {
                claim
            } else {
                length as u64
            };
            match kind {
                b'x' => pax("path", &name),
                b'g' => pax("linkpath", &link),
                _ => entry(kind, name.as_bytes(), link.as_bytes(), &body, size),
            }
        });
    let whole = proptest::collection::vec(one, 0..12).prop_map(|entries| {
        let mut tar = entries.concat();
        tar.resize(tar.len() + 1024, 0);
        tar
    });
    let broken = (whole.clone(), proptest::collection::vec(change(), 0..4))
        .prop_map(|(tar, changes)| changed(tar, &changes));
    let broken = broken.boxed();
    let packed = (broken.clone(), proptest::collection::vec(change(), 0..2)).prop_map(|(tar, changes)| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &tar).unwrap();
        changed(packed.finish().unwrap(), &changes)
    });
    prop_oneof![whole, broken, packed].boxed()
}

#[test]
fn archives() {
    fuzz("archive", archive(), |bytes| match attempt(&bytes) {
        Ok(_) => {}
        Err(UnpackError::Refused(words)) => assert_fit_to_show("fuzz", &words),
        Err(other) => panic!("{other:?}"),
    });
}

const KINDS: &[&str] = &[
    "invalid",
    "unreadable",
    "unauthenticated",
    "forbidden",
    "quota-exceeded",
    "not-found",
    "method-not-allowed",
    "conflict",
    "service-exists",
    "locked",
    "precondition",
    "too-large",
    "too-many",
    "failed",
    "cancelled",
    "unavailable",
    "internal",
];

/// An answer in words says them and nothing else, as plain text, whatever the words.
fn assert_said(response: Response, status: StatusCode, words: &str) {
    assert_eq!(response.status(), status);
    assert!(status.is_client_error() || status.is_server_error());
    let (head, body) = response.into_parts();
    let body = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(body.collect())
        .unwrap()
        .to_bytes();
    assert_eq!(body, format!("{words}\n").as_bytes());
    assert_eq!(head.headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(head.headers["x-content-type-options"], "nosniff");
    let known = [
        "content-type",
        "x-content-type-options",
        "content-length",
        "www-authenticate",
        "retry-after",
    ];
    assert!(
        head.headers.keys().all(|name| known.contains(&name.as_str())),
        "{:?}",
        head.headers
    );
}

#[test]
fn both_wordings() {
    let words = prop_oneof![
        any::<String>(),
        proptest::sample::select(STONES).prop_map(str::to_owned)
    ];
    let cases = (proptest::sample::select(KINDS), words, ".{0,40}");
    fuzz("wordings", cases, |(kind, words, cause)| {
        let kind: Kind = kind.parse().unwrap();
        let problem = || match kind {
            Kind::Internal => Problem::internal(std::io::Error::other(format!("cause-{cause}"))),
            kind => Problem::new(kind, words.clone()),
        };
        let said = problem().words().to_owned();
        assert!(!said.contains("cause-"), "{said}");
        assert_said(
            classic::Refusal(problem()).into_response(),
            classic::status(kind),
            &said,
        );
        assert_said(
            modern::Refusal(problem()).into_response(),
            modern::status(kind),
            &said,
        );
    });
}

#[test]
fn bodies_of_requests() {
    let known = [
        r#"{"name": "board", "platform": "python", "tags": ["a"], "plan": {"name": "small"}}"#,
        r#"["A", "B"]"#,
        "name=board&envs.0.name=A&envs.0.value=b%20c&private=true",
        "a.b.c.d.e.f.g.h.i=1&a=2&a.b=3",
        "units=1&process=web&units=2",
        "",
    ];
    let bodies = bytes(known.map(|text| text.as_bytes().to_vec()).to_vec());
    let kinds = vec![
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
    ];
    let queries = vec!["/", "/?name=a", "/?a.b=1&a=2&a.b.c=3", "/?%00=%ff", "/?=&=&&"];
    let cases = (
        bodies,
        proptest::sample::select(kinds),
        proptest::sample::select(queries),
    );
    fuzz("bodies", cases, |(body, kind, query)| {
        match Input::read(&Uri::from_static(query), kind, Bytes::from(body)) {
            Err(problem) => refused(&problem),
            Ok(input) => {
                for key in ["name", "a", "a.b", "units", "tags", "private", ""] {
                    let asked = [
                        input.text(key).err(),
                        input.required(key).err(),
                        input.body_map().err(),
                    ];
                    asked.into_iter().flatten().for_each(|problem| refused(&problem));
                }
            }
        }
    });
}
