//! OpenSSH public keys: `<type> <base64> [comment]`, where the base64 data repeats the type.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use crate::kernel::error::Error;

/// The maximum input length, in bytes; an RSA key of 16,384 bits has 2,800.
const MAX_KEY_BYTES: usize = 16 * 1024;
/// The minimum length of an RSA modulus, in bits.
const MIN_RSA_BITS: usize = 2048;

/// A validated public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UserSshKey {
    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub(super) fingerprint: String,
    /// One line.
    pub(super) body: String,
}

impl UserSshKey {
    /// Parses a key. Errors: `Invalid`, with the reason.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        parse_key(text).map_err(|why| Error::invalid(format!("This is not a valid SSH public key: {why}.")))
    }
}

fn parse_key(text: &str) -> Result<UserSshKey, Cow<'static, str>> {
    let text = text.trim();
    if text.len() > MAX_KEY_BYTES {
        return Err("it is too long".into());
    }
    if text.contains("PRIVATE KEY") {
        return Err("it is a private key; keep it secret and send the .pub file".into());
    }
    if let Some(at) = text.lines().skip(1).position(|line| !line.trim().is_empty()) {
        return Err(format!("it must be a single line, but there is a line {}", at + 2).into());
    }
    if text.chars().any(char::is_control) {
        return Err("it must be a single line of printable characters".into());
    }
    let mut words = text.splitn(3, ' ');
    let (Some(kind), Some(encoded)) = (words.next(), words.next()) else {
        return Err("it must be a type, a space, and base64".into());
    };
    let blob = STANDARD
        .decode(encoded)
        .or_else(|_| STANDARD_NO_PAD.decode(encoded))
        .map_err(|_| "its second field is not base64")?;
    let mut fields = WireFields(&blob);
    if fields.next_field() != Some(kind.as_bytes()) {
        return Err("its two types differ".into());
    }
    check_fields(kind, &mut fields)?;
    if !fields.0.is_empty() {
        return Err("there is data after its end".into());
    }
    let digest = STANDARD_NO_PAD.encode(Sha256::digest(&blob));
    Ok(UserSshKey {
        fingerprint: format!("SHA256:{digest}"),
        body: text.to_owned(),
    })
}

fn check_fields(kind: &str, fields: &mut WireFields<'_>) -> Result<(), &'static str> {
    const SHORT: &str = "it is truncated";
    let mut next = || fields.next_field().ok_or(SHORT);
    let fits = match kind {
        "ssh-ed25519" => next()?.len() == 32,
        "sk-ssh-ed25519@openssh.com" => next()?.len() == 32 && !next()?.is_empty(),
        "ssh-rsa" => {
            let (exponent, modulus) = (next()?, next()?);
            if bit_length(modulus) < MIN_RSA_BITS {
                return Err("an RSA key needs at least 2048 bits");
            }
            bit_length(exponent) >= 2
        }
        "ecdsa-sha2-nistp256" => is_point(next()?, next()?, "nistp256", 65),
        "ecdsa-sha2-nistp384" => is_point(next()?, next()?, "nistp384", 97),
        "ecdsa-sha2-nistp521" => is_point(next()?, next()?, "nistp521", 133),
        "sk-ecdsa-sha2-nistp256@openssh.com" => {
            is_point(next()?, next()?, "nistp256", 65) && !next()?.is_empty()
        }
        "ssh-dss" => return Err("DSA keys are too weak; make a new key with ssh-keygen -t ed25519"),
        _ => return Err("its type is not supported; use ed25519, ecdsa or rsa"),
    };
    if fits {
        Ok(())
    } else {
        Err("its fields do not match its type")
    }
}

/// True for an uncompressed point of the named curve.
fn is_point(curve: &[u8], point: &[u8], name: &str, length: usize) -> bool {
    curve == name.as_bytes() && point.len() == length && point[0] == 4
}

/// Returns the length of a big-endian number, in bits; a negative one has none.
fn bit_length(number: &[u8]) -> usize {
    if number.first().is_some_and(|byte| byte & 0x80 != 0) {
        return 0;
    }
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    match number.get(zeros) {
        Some(first) => (number.len() - zeros) * 8 - first.leading_zeros() as usize,
        None => 0,
    }
}

/// The fields of the SSH wire format: strings with a four-byte length prefix.
struct WireFields<'a>(&'a [u8]);

impl<'a> WireFields<'a> {
    fn next_field(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let field = rest.get(..length)?;
        self.0 = &rest[length..];
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Generated with ssh-keygen 9.2; the private keys were discarded.
    const GOOD: &[(&str, &str)] = &[
        (
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAPMNFE7dC/023ABVuTfPoqb7GmqdUnVQ8d2KCp3xDuq ana@laptop",
            "SHA256:wD/Qe7PUEEZq+oSnFqyYWHGIuVmsXJhDp/lNQn7i5Y4",
        ),
        (
            "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBLpQwYPmSL5T5Jj2PrQQz6MlU4LVYUiBKbF+RDEQoXcA7ILLCiRu4WrBD9I3AH+GSHqt2a40g7XPcPeEBswFeNQ= x",
            "SHA256:SBUArfawgE3chq8rw4SatvI9Bdnn0ST/6O2YXDfpLV4",
        ),
        (
            "ecdsa-sha2-nistp521 AAAAE2VjZHNhLXNoYTItbmlzdHA1MjEAAAAIbmlzdHA1MjEAAACFBAHvq0UH2ttQbNS82JCn38OxCUDP1xzRzS4LgqmTOxq7KBAlUWM85E+13Qm+ZTGceKuKpPklYNwmzHmFrojPTfzl8wAdkljIYvAxEx5r+nsGsbNU4t85Jtv48z8B4tIqhxuuLJA4hQ1OnT8P9Y1zvnbl5CY7hhtmlucwtRqkMiZuZ8NxlQ==",
            "SHA256:PxVjytEGBSqljDAl7u2OpdivxKevsVeu1nHig4cRoIs",
        ),
        (
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQDIvvdzuzu0SzG+EAYzjcEG2E8wHNuNWCBW9T9MdS4cp9/kCBwM0dn0Xl0x0dKwdwhLIokoxzBZQvmymMhYyiWrU1oqyGkCFmP75FGR1/Qxm7/gEgC6dHfDf//OOhjksdf3G8RX8CJwyCS5slXQ2a9HcHJFo5Inbc5x90U4D9ZXadsvnPSmX+LxhAJGq0xa5ZZHPCcEVQzQYWFuFRJlJn7hOlGb63SCw5/F3YpY+5G0I0ctOh169GTBjYwMuX6FeYVFVhxZWgTZ4BiAT0jsUrwDWV0rADHZwzljl/cxzHo6HsOWDltneh9pYHpqkRtfTtnHnIykhgnLhgLeqMyl9PIZ two words",
            "SHA256:OJoPK6PrAQsWwK9Mhb//D62OMTWt48o9BKSx5bxR84A",
        ),
    ];
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDi96BTrVyoGcwwpMfIW6t71KhHACtdBuxd12tXPV0yC91uuV1omWu0o12DhYwKDi/aQpJkQa7ggIuC9a5buorYG8woczTHg+WbNd7K0GZKg6zBuSgRPnuvZLu9zbvGwoREnndcbR0XERq1GL5/pVppHY6IrLTUh6AZ/89/ql04ow== weak";

    #[test]
    fn keys_from_ssh_keygen_are_accepted_with_the_same_fingerprints() {
        for (text, fingerprint) in GOOD {
            assert_eq!(
                UserSshKey::parse(text).unwrap().fingerprint,
                *fingerprint,
                "{text}"
            );
        }
    }

    #[test]
    fn comment_does_not_change_the_fingerprint() {
        let (text, fingerprint) = GOOD[0];
        let bare: Vec<&str> = text.split(' ').take(2).collect();
        let key = UserSshKey::parse(&format!("  {}\n", bare.join(" "))).unwrap();
        assert_eq!(key.fingerprint, fingerprint);
    }

    #[test]
    fn malformed_or_weak_key_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "a type, a space"),
            ("my-key", "a type, a space"),
            ("ssh-ed25519 !!!", "not base64"),
            ("ssh-ed25519\tAAAA", "printable characters"),
            ("-----BEGIN OPENSSH PRIVATE KEY-----", "keep it secret"),
            (RSA_1024, "2048 bits"),
            (&GOOD[0].0.replacen("ssh-ed25519", "ssh-rsa", 1), "types differ"),
            (&format!("{}\nssh-ed25519 AAAA", GOOD[0].0), "line 2"),
        ] {
            let error = UserSshKey::parse(text).unwrap_err();
            assert!(error.message().contains(why), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_input_does_not_panic(text in "(ssh-rsa|ssh-ed25519|ecdsa-sha2-nistp256|.{0,9}) .{0,80}") {
            let _ = UserSshKey::parse(&text);
        }

        #[test]
        fn truncated_keys_are_rejected(cut in 1..40_usize) {
            let blob = STANDARD.decode(GOOD[0].0.split(' ').nth(1).unwrap()).unwrap();
            let text = format!("ssh-ed25519 {}", STANDARD.encode(&blob[..blob.len() - cut]));
            prop_assert!(UserSshKey::parse(&text).is_err());
        }
    }
}
