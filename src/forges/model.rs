//! Deliveries: their content and signature; and the notation of host keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use crate::kernel::error::Error;
use crate::kernel::names::BranchName;
use crate::kernel::secret::Secret;
use crate::ssh::client::SshPublicKey;

const MAX_ID_LENGTH: usize = 200;

/// Parses a host key into its fingerprint: from a fingerprint (`SHA256:…`) or a public key, with or without
/// the host in front.
pub(super) fn parse_host_key(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let key = || {
        let (_, behind_host) = text.split_once(char::is_whitespace).unwrap_or_default();
        let key = SshPublicKey::parse(text).or_else(|| SshPublicKey::parse(behind_host.trim_start()))?;
        Some(key.fingerprint())
    };
    let found = match text
        .strip_prefix("SHA256:")
        .map(|digest| digest.trim_end_matches('='))
    {
        Some(digest) => STANDARD_NO_PAD
            .decode(digest)
            .is_ok_and(|digest| digest.len() == 32)
            .then(|| format!("SHA256:{digest}")),
        None => key(),
    };
    found.ok_or_else(|| {
        Error::invalid(
            "Give the host key as its fingerprint (SHA256:…), or as one line of known_hosts or of `ssh-keyscan`.",
        )
    })
}

/// A delivery of a forge's webhook.
#[derive(Clone, Debug)]
pub(super) struct WebhookDelivery<'a> {
    /// `X-Hub-Signature-256: sha256=…`, or `X-Gitea-Signature: …`; in hexadecimal.
    pub(super) signature: &'a str,
    /// `X-GitHub-Delivery` or `X-Gitea-Delivery`.
    pub(super) id: &'a str,
    /// `X-GitHub-Event` or `X-Gitea-Event`.
    pub(super) event: &'a str,
    pub(super) body: &'a [u8],
}

impl WebhookDelivery<'_> {
    /// Returns whether the body was signed with this secret, in constant time.
    pub(super) fn is_signed_by(&self, secret: &Secret) -> bool {
        let hex = self.signature.strip_prefix("sha256=").unwrap_or(self.signature);
        let given = hex::decode(hex).unwrap_or_default();
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .expect("HMAC accepts keys of any length");
        mac.update(self.body);
        mac.verify_slice(&given).is_ok()
    }

    pub(super) fn has_valid_id(&self) -> bool {
        (1..=MAX_ID_LENGTH).contains(&self.id.len()) && self.id.bytes().all(|b| b.is_ascii_graphic())
    }
}

/// The new commit of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PushedCommit {
    pub(super) branch: BranchName,
    pub(super) commit: String,
}

/// Parses the payload of a push. `None`: it is not for a branch, or the branch was deleted. Errors:
/// `Invalid`.
pub(super) fn parse_push(body: &[u8]) -> Result<Option<PushedCommit>, Error> {
    #[derive(Deserialize)]
    struct WebhookBody {
        #[serde(rename = "ref")]
        name: String,
        after: String,
    }
    let body: WebhookBody = serde_json::from_slice(body).map_err(|error| {
        Error::invalid("This is not the payload of a push: send JSON with `ref` and `after`.")
            .with_source(error)
    })?;
    let Some(branch) = body.name.strip_prefix("refs/heads/") else {
        return Ok(None);
    };
    let Ok(branch) = BranchName::parse(branch) else {
        return Ok(None);
    };
    let is_id = matches!(body.after.len(), 40 | 64)
        && body
            .after
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if !is_id {
        return Err(Error::invalid("`after` must be a full commit id."));
    }
    let is_gone = body.after.bytes().all(|b| b == b'0');
    Ok((!is_gone).then_some(PushedCommit {
        branch,
        commit: body.after,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn github_example_signature_is_accepted() {
        let secret = Secret::new("It's a Secret to Everybody");
        let mut delivery = WebhookDelivery {
            signature: "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
            id: "1",
            event: "push",
            body: b"Hello, World!",
        };
        assert!(delivery.is_signed_by(&secret));
        assert!(!delivery.is_signed_by(&Secret::new("another")));
        // Gitea's form.
        delivery.signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert!(delivery.is_signed_by(&secret));
        for wrong in ["", "sha256=", "sha1=757107ea", "757107ea", "sha256=zz"] {
            delivery.signature = wrong;
            assert!(!delivery.is_signed_by(&secret), "{wrong}");
        }
        delivery.signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        delivery.body = b"Hello, World?";
        assert!(!delivery.is_signed_by(&secret));
    }

    #[test]
    fn push_body_has_a_branch_and_a_full_commit_id() {
        let id = "a1".repeat(20);
        let read = |name: &str, after: &str| {
            parse_push(format!(r#"{{"ref":"{name}","after":"{after}","x":1}}"#).as_bytes())
        };
        let found = read("refs/heads/feature/x", &id).unwrap().unwrap();
        assert_eq!(
            (found.branch.as_str(), found.commit.as_str()),
            ("feature/x", id.as_str())
        );
        assert_eq!(read("refs/tags/v1", &id).unwrap(), None);
        assert_eq!(read("refs/heads/main", &"0".repeat(40)).unwrap(), None);
        for bad in ["", "a1", "--upload-pack=x", &"A1".repeat(20)] {
            assert!(read("refs/heads/main", bad).is_err(), "{bad}");
        }
        for bad in ["", "[]", "{}", "payload=%7B%7D"] {
            assert!(parse_push(bad.as_bytes()).is_err(), "{bad}");
        }
    }
    #[test]
    fn host_key_is_read_as_fingerprint_or_public_key() {
        // GitHub's published key.
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
        let fingerprint = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU";
        for good in [
            fingerprint,
            &format!(" {fingerprint}= \n"),
            key,
            &format!("{key} comment"),
            &format!("github.com {key}"),
            &format!("[github.com]:22,140.82.121.4\t{key}"),
        ] {
            assert_eq!(parse_host_key(good).unwrap(), fingerprint, "{good}");
        }
        for bad in [
            "",
            "SHA256:",
            "SHA256:abc",
            "MD5:16:27:ac",
            "ssh-ed25519",
            "github.com ssh-ed25519 AAAA",
            &format!("@revoked * {key}"),
            &format!("{fingerprint}A"),
        ] {
            assert!(parse_host_key(bad).is_err(), "{bad}");
        }
    }
}
