//! The head of a push, before its objects: its ref updates and the client's capabilities. Tancho parses it
//! for pushes over HTTP, where git starts only after waiting, so that a client that waits or is refused can
//! be notified in git's protocol.

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::kernel::log_text::clean_line;

/// The limit on a head, in bytes: some thousand refs. A longer head is passed to git unparsed.
const MAX_HEAD_BYTES: usize = 4 << 20;
/// The largest payload of one packet.
const MAX_PKT_PAYLOAD: usize = 65_515;

/// The head of a push; see the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PushHead {
    /// All bytes that have been read, for git.
    pub(super) raw: Vec<u8>,
    names: Vec<String>,
    has_side_band: bool,
    has_report: bool,
}

impl PushHead {
    /// Reads to the end of the head. Git reports malformed heads.
    pub(super) async fn read_from(from: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut head = Self::default();
        while head.raw.len() < MAX_HEAD_BYTES {
            let mut length = [0; 4];
            if !head.fill_buffer(from, &mut length).await {
                break;
            }
            let text = std::str::from_utf8(&length).ok();
            let Some(length @ 4..) = text.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
                break;
            };
            let mut line = vec![0; length - 4];
            if !head.fill_buffer(from, &mut line).await {
                break;
            }
            head.parse_command(&line);
        }
        head
    }

    /// Returns false at the end of the input.
    async fn fill_buffer(&mut self, from: &mut (impl AsyncRead + Unpin), into: &mut [u8]) -> bool {
        let mut filled = 0;
        while filled < into.len() {
            match from.read(&mut into[filled..]).await {
                Ok(read @ 1..) => filled += read,
                Ok(0) | Err(_) => break,
            }
        }
        self.raw.extend_from_slice(&into[..filled]);
        filled == into.len()
    }

    /// Parses `<old> <new> <ref>`; the first command also has the client's capabilities after a NUL byte.
    fn parse_command(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let (command, features) = line.split_once('\0').unwrap_or((&line, ""));
        for feature in features.split_ascii_whitespace() {
            match feature {
                "side-band-64k" => self.has_side_band = true,
                "report-status" | "report-status-v2" => self.has_report = true,
                _ => {}
            }
        }
        if let Some(name) = command.trim_end().splitn(3, ' ').nth(2) {
            self.names.push(name.to_owned());
        }
    }

    /// Returns whether the client only checks that it may push, as clients with large pushes do first.
    pub(super) fn is_flush_only(&self) -> bool {
        self.raw == b"0000"
    }

    /// Formats a line for the client's terminal; empty if the client does not support it.
    pub(super) fn progress_packet(&self, text: &str) -> Vec<u8> {
        match self.has_side_band {
            true => side_band_packets(2, format!("{}\n", clean_line(text)).as_bytes()),
            false => Vec::new(),
        }
    }

    /// Formats the complete response for a push that is refused before git reads it.
    pub(super) fn refusal_response(&self, words: &str) -> Vec<u8> {
        let words = clean_line(words);
        let mut answer = self.progress_packet(&format!("ERROR: {words}"));
        if self.has_report {
            let mut report = pkt_line(format!("unpack {words}\n").as_bytes());
            for name in &self.names {
                report.extend(pkt_line(format!("ng {name} refused\n").as_bytes()));
            }
            report.extend_from_slice(b"0000");
            match self.has_side_band {
                true => answer.extend(side_band_packets(1, &report)),
                false => answer.extend(report),
            }
        }
        if self.has_side_band {
            answer.extend_from_slice(b"0000");
        }
        answer
    }
}

fn pkt_line(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(MAX_PKT_PAYLOAD)];
    let mut frame = format!("{:04x}", bytes.len() + 4).into_bytes();
    frame.extend_from_slice(bytes);
    frame
}

fn side_band_packets(band: u8, bytes: &[u8]) -> Vec<u8> {
    let frames = bytes.chunks(MAX_PKT_PAYLOAD - 1).map(|chunk| {
        let mut banded = vec![band];
        banded.extend_from_slice(chunk);
        pkt_line(&banded)
    });
    frames.flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FEATURES: &str = "\0 report-status-v2 side-band-64k atomic object-format=sha1";

    fn command(name: &str, features: &str) -> Vec<u8> {
        let (old, new) = ("0".repeat(40), "a".repeat(40));
        pkt_line(format!("{old} {new} {name}{features}").as_bytes())
    }

    #[tokio::test]
    async fn push_head_is_read_up_to_the_flush_packet() {
        let mut push = command("refs/heads/main", FEATURES);
        push.extend(command("refs/tags/v1", ""));
        push.extend_from_slice(b"0000");
        let length = push.len();
        push.extend_from_slice(b"PACK and more");
        let mut rest = push.as_slice();
        let head = PushHead::read_from(&mut rest).await;
        assert_eq!(head.raw, push[..length]);
        assert_eq!(rest, b"PACK and more");
        assert_eq!(head.names, ["refs/heads/main", "refs/tags/v1"]);
        assert!(head.has_side_band && head.has_report && !head.is_flush_only());
        assert!(PushHead::read_from(&mut b"0000".as_slice()).await.is_flush_only());
    }

    #[tokio::test]
    async fn refusal_uses_only_the_capabilities_of_the_client() {
        let banded = PushHead::read_from(&mut command("refs/heads/main", FEATURES).as_slice()).await;
        let said = String::from_utf8(banded.refusal_response("Push\u{1b} again.")).unwrap();
        assert!(said.contains("\u{2}ERROR: Push\u{fffd} again.\n"), "{said}");
        assert!(
            said.contains("unpack Push\u{fffd} again.\n") && said.ends_with("0000"),
            "{said}"
        );
        assert!(said.contains("ng refs/heads/main refused\n"), "{said}");
        let plain = PushHead::read_from(&mut command("refs/heads/main", "\0report-status").as_slice()).await;
        let said = String::from_utf8(plain.refusal_response("Again.")).unwrap();
        assert_eq!(said, "0012unpack Again.\n001fng refs/heads/main refused\n0000");
        assert!(
            plain.progress_packet("x").is_empty() && PushHead::default().refusal_response("x").is_empty()
        );
    }

    proptest! {
        #[test]
        fn malformed_head_loses_no_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut rest = bytes.as_slice();
            let head = runtime.block_on(PushHead::read_from(&mut rest));
            prop_assert_eq!([head.raw.as_slice(), rest].concat(), bytes);
        }
    }
}
