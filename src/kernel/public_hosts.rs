//! Which host names a cname may have: names outside the platform, and wildcards that cover only such names.
//!
//! A wildcard `*.example.com` matches each host one label below `example.com`, as in certificates.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Top-level names that never leave a machine or a network, or that Tancho uses itself.
const RESERVED_TLDS: [&str; 3] = ["localhost", "invalid", "local"];

const MAX_LABEL_LEN: usize = 63;

/// The hosts that belong to the platform.
#[derive(Clone, Debug)]
pub struct PlatformHosts {
    domain: String,
    api_host: Option<String>,
}

impl PlatformHosts {
    /// `domain` is the parent of the apps' addresses, `api_url` the address of the API for clients; it may be
    /// empty.
    pub fn new(domain: &str, api_url: &str) -> Self {
        let host = url::Url::parse(api_url)
            .ok()
            .and_then(|url| url.host_str().map(normalize_host));
        Self {
            domain: normalize_host(domain),
            api_host: host,
        }
    }

    /// Returns the domain below which apps have their addresses.
    pub fn app_domain(&self) -> &str {
        &self.domain
    }

    /// Checks whether a cname may be set on an app. Errors: a sentence for the user.
    pub fn check_cname(&self, cname: &str) -> Result<(), String> {
        let name = normalize_host(cname);
        let suffix = name.strip_prefix("*.");
        check_syntax(&name, suffix)?;
        let is_inside = |host: &str| host == self.domain || is_subdomain(host, &self.domain);
        if is_inside(suffix.unwrap_or(&name)) {
            return Err(format!(
                "{name} is in the platform's own domain; use a name outside it."
            ));
        }
        if suffix.is_some_and(|suffix| is_subdomain(&self.domain, suffix)) {
            return Err(format!(
                "{name} covers the platform's own domain {}; add the hosts one by one.",
                self.domain
            ));
        }
        match &self.api_host {
            Some(api) if covers_host(&name, suffix, api) => Err(format!(
                "{name} covers the host of the platform's API; choose another name."
            )),
            _ => Ok(()),
        }
    }
}

/// Checks the syntax of a cname, independent of the platform's hosts.
fn check_syntax(name: &str, suffix: Option<&str>) -> Result<(), String> {
    let host = suffix.unwrap_or(name);
    let labels: Vec<&str> = host.split('.').collect();
    let last = labels.last().copied().unwrap_or_default();
    if is_ip_address(host, last) {
        return Err(format!("{name} is an IP address; a cname must be a DNS name."));
    }
    let is_label = |label: &&str| {
        (1..=MAX_LABEL_LEN).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && !label.contains('*')
    };
    if !labels.iter().all(is_label) {
        return Err(format!(
            "{name} is not a host name: use one such as www.example.com."
        ));
    }
    if RESERVED_TLDS.contains(&last) {
        return Err(format!(
            "{name} is a local name; use a public one such as www.example.com."
        ));
    }
    if suffix.is_some() && labels.len() < 2 {
        return Err(format!(
            "{name} is too broad: use at least two labels after the star, such as *.example.com."
        ));
    }
    Ok(())
}

/// True for any form that clients accept as an IP address: if the last label is a number, the whole host
/// counts as one.
fn is_ip_address(host: &str, last: &str) -> bool {
    let hexadecimal = last.strip_prefix("0x");
    host.parse::<Ipv4Addr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<Ipv6Addr>().is_ok()
        || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn covers_host(name: &str, suffix: Option<&str>, host: &str) -> bool {
    match suffix {
        None => name == host,
        Some(suffix) => host.split_once('.').is_some_and(|(_, rest)| rest == suffix),
    }
}

fn is_subdomain(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

fn normalize_host(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> PlatformHosts {
        PlatformHosts::new("apps.example.com", "https://api.example.org:8443")
    }

    #[test]
    fn outside_names_are_accepted_as_cnames() {
        for name in [
            "www.shop.test",
            "shop.test",
            "WWW.Shop.test",
            "*.shop.test",
            "xn--bcher-kva.example",
            "myapps.example.com",
            "a_b.shop.test",
            "1.shop.test",
            "intranet",
            "*.org.example.net",
        ] {
            assert_eq!(hosts().check_cname(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn platform_hosts_and_invalid_names_are_refused_as_cnames() {
        for name in [
            "apps.example.com",
            "x.apps.example.com",
            "X.Apps.Example.com",
            "x.apps.example.com.",
            "*.apps.example.com",
            "*.x.apps.example.com",
            "*.example.com",
            "*.com",
            "*.org",
            "*",
            "*.",
            "api.example.org",
            "API.example.org",
            "*.example.org",
            "127.0.0.1",
            "10.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "1.2.3.0x",
            "[::1]",
            "::1",
            "localhost",
            "LOCALHOST",
            "x.localhost",
            "*.localhost",
            "*.x.localhost",
            "healthcheck.invalid",
            "printer.local",
            "-a.example.net",
            "a-.example.net",
        ] {
            assert!(hosts().check_cname(name).is_err(), "{name}");
        }
        let long = format!("{}.example.net", "a".repeat(64));
        assert!(hosts().check_cname(&long).is_err());
    }

    #[test]
    fn a_platform_on_localhost_leaves_all_other_names_to_apps() {
        let hosts = PlatformHosts::new("localhost", "http://127.0.0.1:8080");
        assert_eq!(hosts.check_cname("www.example.com"), Ok(()));
        assert_eq!(hosts.check_cname("*.example.com"), Ok(()));
        assert!(hosts.check_cname("x.localhost").is_err());
    }
}
