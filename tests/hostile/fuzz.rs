//! Fuzz tests: each parser of untrusted input runs for some seconds on generated input and on random
//! mutations of known input, good and hostile. Nothing may panic, hang, or violate the stated properties.
//!
//! `TANCHO_FUZZ_SECONDS` is the time for each parser (`script/test` sets 20); by default it is short. Past
//! failures are in `regressions/` and are tried first. Known inputs are the rows of the tables and of
//! `corpus/`.

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
use tancho::builders::{Procfile, TsuruYaml, UnpackError, find_main_process, merge_processes};
use tancho::kernel::error::{Error, ErrorKind};
use tancho::services::manifest;
use tancho::web::errors::{classic, modern};
use tancho::web::params::Params;

use super::archives::{entry, pax, unpack_archive};
use super::*;

/// The maximum time of a single case, on a busy machine without optimisation.
const PATIENCE: Duration = Duration::from_secs(20);

fn seconds() -> Duration {
    let configured = std::env::var_os("TANCHO_FUZZ_SECONDS").and_then(|text| text.to_str()?.parse().ok());
    Duration::from_secs(configured.unwrap_or(2))
}

/// Runs cases until the time is over, and prints how many there were.
#[expect(clippy::print_stdout, reason = "output for manual runs")]
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

/// Returns the known inputs of a kind: rows of the tables, and of `corpus/texts.jsonl`, whose rows are valid.
fn known_texts(kind: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct CorpusRow {
        kind: String,
        text: String,
    }
    let corpus = include_str!("corpus/texts.jsonl");
    let all = [texts::TABLE, names::TABLE, corpus]
        .map(parse_rows::<CorpusRow>)
        .into_iter()
        .flatten();
    let found: Vec<String> = all.filter(|row| row.kind == kind).map(|row| row.text).collect();
    assert!(!found.is_empty(), "{kind}");
    // Mutating very long ones is slow and finds nothing new.
    found.into_iter().filter(|text| text.len() < 16 << 10).collect()
}

/// One mutation of some bytes.
#[derive(Clone, Debug)]
enum ByteMutation {
    Flip(Index, u8),
    Drop(Index, usize),
    Repeat(Index, usize, usize),
    Put(Index, &'static str),
    Swap(Index, Index),
}

/// Fragments that are difficult for parsers.
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

fn any_mutation() -> impl Strategy<Value = ByteMutation> {
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, bits)| ByteMutation::Flip(at, bits)),
        (any::<Index>(), 1..40_usize).prop_map(|(at, count)| ByteMutation::Drop(at, count)),
        (any::<Index>(), 1..60_usize, 1..30_usize)
            .prop_map(|(at, length, times)| ByteMutation::Repeat(at, length, times)),
        (any::<Index>(), proptest::sample::select(STONES))
            .prop_map(|(at, stone)| ByteMutation::Put(at, stone)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| ByteMutation::Swap(one, other)),
    ]
}

fn mutate(mut bytes: Vec<u8>, changes: &[ByteMutation]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len();
        match change {
            ByteMutation::Put(at, stone) => {
                let at = at.index(length + 1);
                bytes.splice(at..at, stone.bytes());
            }
            _ if length == 0 => {}
            ByteMutation::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            ByteMutation::Drop(at, count) => {
                let at = at.index(length);
                bytes.drain(at..(at + count).min(length));
            }
            ByteMutation::Repeat(at, part, times) => {
                let at = at.index(length);
                let part = bytes[at..(at + part).min(length)].repeat(*times);
                bytes.splice(at..at, part);
            }
            ByteMutation::Swap(one, other) => bytes.swap(one.index(length), other.index(length)),
        }
    }
    bytes
}

/// Mutated known bytes, or random bytes.
fn bytes(known: Vec<Vec<u8>>) -> BoxedStrategy<Vec<u8>> {
    let near = (
        proptest::sample::select(known),
        proptest::collection::vec(any_mutation(), 0..6),
    )
        .prop_map(|(bytes, changes)| mutate(bytes, &changes));
    prop_oneof![9 => near, 1 => proptest::collection::vec(any::<u8>(), 0..300)].boxed()
}

/// The same as a string; invalid UTF-8 is replaced.
fn text(kind: &str) -> BoxedStrategy<String> {
    let near = bytes(known_texts(kind).into_iter().map(String::into_bytes).collect())
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    prop_oneof![9 => near, 1 => any::<String>()].boxed()
}

fn assert_readable_error(error: &Error) {
    assert!(
        matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unreadable),
        "{error}"
    );
    assert_printable_sentence("fuzz", error.message());
}

#[test]
fn procfiles() {
    fuzz("procfile", text("procfile"), |text| {
        match Procfile::parse(&text) {
            Err(error) => assert_readable_error(&error),
            Ok(read) => {
                let line = |p: &tancho::builders::ProcessCommand| format!("{}: {}\n", p.name, p.command);
                let again: String = read.processes.iter().map(line).collect();
                assert_eq!(
                    Procfile::parse(&again).unwrap(),
                    read,
                    "parsed input can be serialized and parsed again"
                );
                if let Ok(all) = merge_processes(&read, &TsuruYaml::default()) {
                    assert!(find_main_process(&all).is_some());
                }
            }
        }
    });
}

#[test]
fn tsuru_yamls() {
    fuzz("tsuru-yaml", text("tsuru.yaml"), |text| {
        match TsuruYaml::parse(&text) {
            Err(error) => assert_readable_error(&error),
            Ok(read) => {
                let json = serde_json::to_value(&read).unwrap();
                assert_eq!(
                    serde_json::from_value::<TsuruYaml>(json).unwrap(),
                    read,
                    "parsed input can be stored"
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
        |text| match manifest::ManifestFields::from_yaml(&text)
            .and_then(manifest::ManifestFields::into_manifest)
        {
            Err(error) => assert_readable_error(&error),
            Ok(read) => {
                assert_eq!(
                    manifest::parse_base_url(&read.endpoint).unwrap(),
                    read.endpoint,
                    "it is valid as its own base"
                );
                assert!(read.endpoint.starts_with("http://") || read.endpoint.starts_with("https://"));
                assert!(!read.endpoint.contains(['#', '?']) && !read.endpoint.contains(char::is_control));
                assert!(!read.username.contains(char::is_control) && !read.username.contains(':'));
                assert!(!read.password.expose_secret().contains(char::is_control));
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
            Err(error) => assert_readable_error(&error),
            Ok(name) => {
                // Names of environment variables are the longest.
                assert!((1..=255).contains(&name.len()), "{name:?}");
                assert!(
                    !name.contains('/') && !name.contains(char::is_control),
                    "{kind} {name:?}"
                );
                // E-mail addresses are never used in a path or a host.
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
    let broken = (whole.clone(), proptest::collection::vec(any_mutation(), 0..4))
        .prop_map(|(tar, changes)| mutate(tar, &changes));
    let broken = broken.boxed();
    let packed =
        (broken.clone(), proptest::collection::vec(any_mutation(), 0..2)).prop_map(|(tar, changes)| {
            let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packed, &tar).unwrap();
            mutate(packed.finish().unwrap(), &changes)
        });
    prop_oneof![whole, broken, packed].boxed()
}

#[test]
fn archives() {
    fuzz("archive", archive(), |bytes| match unpack_archive(&bytes) {
        Ok(_) => {}
        Err(UnpackError::Refused(words)) => assert_printable_sentence("fuzz", &words),
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

/// Asserts that the response is plain text with exactly this message, whatever it contains.
fn assert_plain_text(response: Response, status: StatusCode, words: &str) {
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
fn error_responses_of_both_editions() {
    let words = prop_oneof![
        any::<String>(),
        proptest::sample::select(STONES).prop_map(str::to_owned)
    ];
    let cases = (proptest::sample::select(KINDS), words, ".{0,40}");
    fuzz("wordings", cases, |(kind, words, cause)| {
        let kind: ErrorKind = kind.parse().unwrap();
        let error = || match kind {
            ErrorKind::Internal => Error::internal(std::io::Error::other(format!("cause-{cause}"))),
            kind => Error::new(kind, words.clone()),
        };
        let said = error().message().to_owned();
        assert!(!said.contains("cause-"), "{said}");
        assert_plain_text(
            classic::ClassicError(error()).into_response(),
            classic::status_for(kind),
            &said,
        );
        assert_plain_text(
            modern::ModernError(error()).into_response(),
            modern::status_for(kind),
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
    fuzz(
        "bodies",
        cases,
        |(body, kind, query)| match Params::parse_request(&Uri::from_static(query), kind, Bytes::from(body)) {
            Err(error) => assert_readable_error(&error),
            Ok(input) => {
                for key in ["name", "a", "a.b", "units", "tags", "private", ""] {
                    let asked = [
                        input.get_string(key).err(),
                        input.require_string(key).err(),
                        input.get_body_map().err(),
                    ];
                    asked
                        .into_iter()
                        .flatten()
                        .for_each(|error| assert_readable_error(&error));
                }
            }
        },
    );
}
