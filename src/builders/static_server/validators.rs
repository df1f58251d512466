//! Validators by content: a strong ETag is a digest of the bytes, computed on the first request for a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use http::header::{IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, HeaderValue};
use moka::future::Cache;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;

/// How many ETags are cached.
const MAX_CACHED_TAGS: u64 = 20_000;
/// Files of at least this size, in bytes, are digested one at a time, so that small files do not wait for
/// large ones.
const LARGE_FILE_BYTES: u64 = 8 << 20;

/// A file at the time its ETag was computed. Within a version it never changes.
type TagKey = (PathBuf, u64, Option<SystemTime>);

/// The ETags of files, each computed once.
pub(super) struct ContentTags {
    known: Cache<TagKey, HeaderValue>,
    large: Semaphore,
}

impl Default for ContentTags {
    fn default() -> Self {
        Self {
            known: Cache::new(MAX_CACHED_TAGS),
            large: Semaphore::new(1),
        }
    }
}

impl ContentTags {
    /// Returns the strong ETag of a file's content. Errors: it cannot be read.
    pub(super) async fn tag_of(&self, path: &Path) -> io::Result<HeaderValue> {
        let found = tokio::fs::metadata(path).await?;
        let key = (path.to_owned(), found.len(), found.modified().ok());
        let tag = async {
            let _turn = match found.len() >= LARGE_FILE_BYTES {
                true => Some(self.large.acquire().await.map_err(io::Error::other)?),
                false => None,
            };
            let path = path.to_owned();
            tokio::task::spawn_blocking(move || digest_file(&path))
                .await
                .map_err(io::Error::other)?
        };
        // Computed once, however many requests ask at the same time.
        let made = self.known.try_get_with(key, tag).await;
        made.map_err(|error| io::Error::new(error.kind(), error.to_string()))
    }
}

fn digest_file(path: &Path) -> io::Result<HeaderValue> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        hash.update(&chunk[..n]);
    }
    let tag = format!("\"{}\"", &hex::encode(hash.finalize())[..32]);
    HeaderValue::from_str(&tag).map_err(io::Error::other)
}

/// The result of a request's preconditions.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PreconditionResult {
    Send,
    /// The client has this content: 304.
    NotModified,
    /// The client asked for other content: 412.
    PreconditionFailed,
}

/// Evaluates `If-Match` and `If-None-Match`. Files have no dates, so preconditions on dates are ignored.
pub(super) fn check_preconditions(headers: &HeaderMap, tag: &HeaderValue) -> PreconditionResult {
    if headers.contains_key(IF_MATCH) && !header_lists_tag(headers, IF_MATCH, tag, false) {
        return PreconditionResult::PreconditionFailed;
    }
    match header_lists_tag(headers, IF_NONE_MATCH, tag, true) {
        true => PreconditionResult::NotModified,
        false => PreconditionResult::Send,
    }
}

/// Returns whether a header lists this tag. Our tags contain no comma.
fn header_lists_tag(headers: &HeaderMap, header: HeaderName, tag: &HeaderValue, weak_too: bool) -> bool {
    headers.get_all(header).iter().any(|list| {
        list.as_bytes().split(|b| *b == b',').any(|one| {
            let one = one.trim_ascii();
            let plain = match weak_too {
                true => one.strip_prefix(b"W/").unwrap_or(one),
                false => one,
            };
            one == b"*" || plain == tag.as_bytes()
        })
    })
}
