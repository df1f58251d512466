//! Masks secrets in a command line, which its event stores: the values of the app's private variables, and what looks
//! like a password, a token or a key.

use std::sync::LazyLock;

use regex::Regex;

use crate::kernel::secret::Secret;
use crate::kernel::secret_mask::mask_secrets;

/// In `NAME=value`, `name: value`, `--name value` and `-pvalue`, the name; in `scheme://user:password@host`, what comes
/// before the password.
static LOOKS_SECRET: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let name = r"[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key)[\w.-]*";
    let value = r#"(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^\s;&|]+)"#;
    let named = format!(r#"(?i)(?P<name>{name}["']?\s*[=:]\s*|--?{name}\s+){value}"#);
    let header = format!(r"(?i)(?P<header>authorization:\s*(?:bearer|basic)\s+){value}");
    let url = r"(?P<url>://[^/\s:@]*:)[^@\s/]+@";
    Regex::new(&format!("{named}|{header}|{url}")).ok()
});

/// Returns the command line with asterisks in the place of secrets.
pub(super) fn mask_command(line: &str, private: &[Secret]) -> String {
    let masked = mask_secrets(line, private);
    let Some(looks_secret) = &*LOOKS_SECRET else {
        // The expression is checked by a test.
        return "***".to_owned();
    };
    let replace = |found: &regex::Captures<'_>| {
        let kept = |group: &str| found.name(group).map(|kept| kept.as_str());
        match (kept("name").or(kept("header")), kept("url")) {
            (Some(name), _) => format!("{name}***"),
            (None, Some(url)) => format!("{url}***@"),
            (None, None) => "***".to_owned(),
        }
    };
    looks_secret.replace_all(&masked, replace).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_command_are_masked() {
        let private = [Secret::new("k-12345"), Secret::new("")];
        for (line, masked) in [
            ("curl -H 'X-Key: k-12345' x", "curl -H 'X-Key: ***' x"),
            (
                "PGPASSWORD=abc psql -c 'select 1'",
                "PGPASSWORD=*** psql -c 'select 1'",
            ),
            ("x --password \"a b\" --user u", "x --password *** --user u"),
            ("x --api-key=abc; y", "x --api-key=***; y"),
            (
                "psql postgres://app:s3cret@db:5432/app",
                "psql postgres://app:***@db:5432/app",
            ),
            (
                "curl -H 'Authorization: Bearer abc' x",
                "curl -H 'Authorization: Bearer *** x",
            ),
        ] {
            assert_eq!(mask_command(line, &private), masked);
        }
    }

    #[test]
    fn command_without_secrets_is_kept() {
        for line in [
            "ls -l /tmp",
            "python manage.py migrate --noinput",
            "echo $DB_PASSWORD",
        ] {
            assert_eq!(mask_command(line, &[Secret::new("k-12345")]), line);
        }
    }
}
