//! Sizes in human notation: `512M`, `1Gi`, `65536`. All units are powers of 1024, as in tsuru.

use std::fmt;
use std::str::FromStr;

use crate::kernel::error::Error;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::invalid(format!(
                "{text:?} is not a size: use a number of bytes, or one with K, M or G."
            ))
        };
        let text = text.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "ki" | "kib" => 10,
            "m" | "mb" | "mi" | "mib" => 20,
            "g" | "gb" | "gi" | "gib" => 30,
            _ => return Err(wrong()),
        };
        let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
        number
            .checked_mul(1 << shift)
            .filter(|n| i64::try_from(*n).is_ok())
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl<'de> serde::Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum ByteSizeInput {
            Number(u64),
            Text(String),
        }
        match ByteSizeInput::deserialize(from)? {
            ByteSizeInput::Number(n) => Ok(Self(n)),
            ByteSizeInput::Text(text) => text
                .parse()
                .map_err(|p: Error| serde::de::Error::custom(p.message())),
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n >= 1 << 30 && n % (1 << 30) == 0 => write!(f, "{}G", n >> 30),
            n if n >= 1 << 20 && n % (1 << 20) == 0 => write!(f, "{}M", n >> 20),
            n => write!(f, "{n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in [
            ("0", 0),
            ("10", 10),
            ("1K", 1024),
            ("512M", 512 << 20),
            ("2Gi", 2 << 30),
            ("3 mb", 3 << 20),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        for bad in ["", "M", "-1", "1.5G", "1T", "99999999999G"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
        assert_eq!(ByteSize(512 << 20).to_string(), "512M");
    }
}
