//! The signature of a request: `Tancho-Signature: t=<seconds since 1970>,v1=<hexadecimal digits>`. The digits
//! are HMAC-SHA256 (RFC 2104), by the secret of the webhook, over the same seconds, a dot, and the body.
//! The time is signed too, so that a receiver can refuse old requests that somebody sends again.

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The name of the header with the signature.
pub(super) const SIGNATURE_HEADER: &str = "tancho-signature";
/// The name of the header with the id of the delivery, the same for each attempt.
pub(super) const DELIVERY_HEADER: &str = "tancho-delivery";

/// Returns the value of the header.
pub(super) fn sign_body(secret: &str, at: DateTime<Utc>, body: &[u8]) -> String {
    let seconds = at.timestamp().to_string();
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC accepts keys of any length");
    mac.update(seconds.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret of the webhook'` prints it.
    #[test]
    fn signature_is_the_hmac_of_time_and_body() {
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let signed = sign_body("a secret of the webhook", at, br#"{"a":1}"#);
        assert_eq!(
            signed,
            "t=1700000000,v1=d77aa457f4fffab816d4ad1394d2e56e93feac8493cd67bd6e345355a11eebec"
        );
        assert_ne!(signed, sign_body("another", at, br#"{"a":1}"#));
        assert_ne!(signed, sign_body("a secret of the webhook", at, br#"{"a":2}"#));
    }
}
