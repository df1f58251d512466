//! Checks the URLs of webhooks and of their proxies. Whether an address may be called is checked when it is
//! (`outbound`).

use url::Url;

use crate::kernel::error::Error;

const MAX_URL_BYTES: usize = 2000;

/// Checks a URL; `field` is its name in the request. Errors: `Invalid`.
pub(super) fn check_url(field: &str, text: &str) -> Result<(), Error> {
    if text.len() > MAX_URL_BYTES {
        return Err(Error::invalid(format!(
            "{field} is longer than {MAX_URL_BYTES} bytes."
        )));
    }
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    let Some(url) = url else {
        return Err(Error::invalid(format!(
            "{field} must be a URL such as https://example.com/hook."
        )));
    };
    // The user part could hide the real host from a reader, and would be sent to wherever the host leads.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid(format!(
            "{field} must not contain a user name or a password: send credentials in a header."
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_urls_are_accepted() {
        for good in [
            "http://example.com",
            "https://hooks.example.com:8443/services/T0/B0?token=x",
            "http://[2001:db8::1]/x",
            "HTTPS://EXAMPLE.com/",
        ] {
            assert!(check_url("url", good).is_ok(), "{good}");
        }
    }

    #[test]
    fn other_urls_and_those_with_credentials_are_refused_without_quoting_them() {
        for bad in [
            "",
            "example.com",
            "/hook",
            "ftp://example.com/",
            "file:///etc/passwd",
            "http://",
            "http://canary@example.com/",
            "http://u:canary@example.com/",
            "https://:canary@example.com/",
            "socks5://example.com:1080",
            &format!("https://example.com/{}", "x".repeat(MAX_URL_BYTES)),
        ] {
            let error = check_url("url", bad).unwrap_err();
            assert!(error.message().starts_with("url "), "{error}");
            assert!(!error.message().contains("canary"), "{error}");
        }
    }
}
