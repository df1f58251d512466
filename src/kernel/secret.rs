//! A secret string in memory: it does not print itself and is zeroed when dropped.

use std::fmt;

use zeroize::Zeroize;

/// A password, a token, the value of a variable. Only `expose_secret` returns the content.
#[derive(Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a string.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the string. Callers must keep it out of logs, events and errors.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }

    /// True if the string is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Generates a new token or password: 256 random bits in hexadecimal.
    pub fn random_hex() -> Self {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).expect("the operating system provides random bytes");
        let text = hex::encode(bytes);
        bytes.zeroize();
        Self(text)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }

    #[test]
    fn random_secrets_have_256_bits() {
        assert_eq!(Secret::random_hex().expose_secret().len(), 64);
        assert_ne!(Secret::random_hex(), Secret::random_hex());
    }
}
