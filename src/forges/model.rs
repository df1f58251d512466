//! Where a repository is, what a delivery says and whether it is signed.

use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;
use url::Url;

use crate::kernel::names::BranchName;
use crate::kernel::problem::Problem;
use crate::kernel::secret::Secret;

const LONGEST_URL: usize = 2000;
const LONGEST_ID: usize = 200;

/// The address of a repository: `http(s)`, without name, password, query or fragment.
pub(super) fn parse_url(text: &str) -> Result<Url, Problem> {
    let wrong = || {
        Problem::invalid(
            "Give the repository's address as https://host/path.git; a user name and a password go into fields of \
             their own.",
        )
    };
    let url = Url::parse(text).map_err(|_| wrong())?;
    let fits = text.len() <= LONGEST_URL
        && matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    fits.then_some(url).ok_or_else(wrong)
}

/// A request of a forge.
#[derive(Clone, Debug)]
pub(super) struct Delivery<'a> {
    /// `X-Hub-Signature-256: sha256=…`, or `X-Gitea-Signature: …`; in hexadecimal.
    pub(super) signature: &'a str,
    /// `X-GitHub-Delivery`, or Gitea's.
    pub(super) id: &'a str,
    /// `X-GitHub-Event`, or Gitea's.
    pub(super) event: &'a str,
    pub(super) body: &'a [u8],
}

impl Delivery<'_> {
    /// Whether the body was signed with this secret; takes as long for any wrong signature.
    pub(super) fn is_signed_by(&self, secret: &Secret) -> bool {
        let hex = self.signature.strip_prefix("sha256=").unwrap_or(self.signature);
        let given = hex::decode(hex).unwrap_or_default();
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("a key of any length does");
        mac.update(self.body);
        mac.verify_slice(&given).is_ok()
    }

    pub(super) fn has_sane_id(&self) -> bool {
        (1..=LONGEST_ID).contains(&self.id.len()) && self.id.bytes().all(|b| b.is_ascii_graphic())
    }
}

/// What is new at a forge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) branch: BranchName,
    pub(super) commit: String,
}

/// Reads what a push delivers. `None`: it is of no branch, or of one that has gone. Errors: `Invalid`.
pub(super) fn pushed(body: &[u8]) -> Result<Option<Pushed>, Problem> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(rename = "ref")]
        name: String,
        after: String,
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| {
        Problem::invalid("This is no delivery of a push: send JSON with `ref` and `after`.").because(error)
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
        return Err(Problem::invalid("`after` is no commit: give its id in full."));
    }
    let is_gone = body.after.bytes().all(|b| b == b'0');
    Ok((!is_gone).then_some(Pushed {
        branch,
        commit: body.after,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_githubs_manual_is_signed() {
        let secret = Secret::new("It's a Secret to Everybody");
        let mut delivery = Delivery {
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
    fn a_push_names_a_branch_and_a_commit() {
        let id = "a1".repeat(20);
        let read = |name: &str, after: &str| {
            pushed(format!(r#"{{"ref":"{name}","after":"{after}","x":1}}"#).as_bytes())
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
            assert!(pushed(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_address_is_http_and_holds_no_secret() {
        for good in [
            "https://git.example.com/ana/shop.git",
            "http://127.0.0.1:3000/ana/shop",
        ] {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "shop.git",
            "/etc",
            "file:///etc",
            "ext::sh -c id",
            "ssh://git@h/x",
            "git@h:x.git",
            "https://ana:secret@h/x.git",
            "https://token@h/x.git",
            "https://h/x.git?a=b",
            "https://h/x.git#a",
            "https://",
        ] {
            assert!(parse_url(bad).is_err(), "{bad}");
        }
    }
}
