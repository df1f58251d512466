//! A secret text in memory: it does not print itself, and is wiped when dropped.

use std::fmt;

use zeroize::Zeroize;

/// A password, a token, the value of a variable. Only `expose` shows it.
#[derive(Clone, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Whoever calls this keeps it out of logs, events and errors.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// True of the empty text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// 256 random bits in hexadecimal: a new token or password.
    pub fn random() -> Self {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).expect("the system gives random bytes");
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
        assert_eq!(Secret::random().expose().len(), 64);
        assert_ne!(Secret::random(), Secret::random());
    }
}
