//! Determines the client address of a request, for limits and events.
//!
//! Each proxy appends the address of its own peer to `X-Forwarded-For`, so the header is read from its end:
//! while an address is that of a trusted proxy, the entry before it is what that proxy has seen. An entry
//! that is not an address ends the reading, because the client may have written everything before it.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;

use crate::config::IpNetwork;

/// Returns the client address of a request on a connection from `peer`.
pub(super) fn find_client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNetwork]) -> IpAddr {
    let is_trusted = |address| trusted.iter().any(|network| network.contains(address));
    let mut address = peer.to_canonical();
    let values = headers.get_all("x-forwarded-for").iter().rev();
    let mut entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    while is_trusted(address)
        && let Some(before) = entries.next().and_then(parse_entry)
    {
        address = before;
    }
    address
}

/// Parses an address with or without a port; an IPv6 address may be in brackets.
fn parse_entry(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => IpAddr::V6(inner.parse().ok()?),
        None => match text.parse() {
            Ok(address) => address,
            Err(_) => text.parse::<SocketAddr>().ok()?.ip(),
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client_of(peer: &str, values: &[&'static str]) -> String {
        let trusted = ["10.0.0.0/8".parse().unwrap(), "2001:db8::/64".parse().unwrap()];
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", HeaderValue::from_static(value));
        }
        find_client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn client_is_the_last_address_that_no_trusted_proxy_has() {
        for (peer, values, client) in [
            ("192.0.2.1", &["203.0.113.9"] as &[_], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["6.6.6.6", "203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["10.0.0.3,10.0.0.2"], "10.0.0.3"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("2001:db8::1", &["2001:db8:1::9"], "2001:db8:1::9"),
        ] {
            assert_eq!(client_of(peer, values), client, "{peer} {values:?}");
        }
    }

    #[test]
    fn client_address_with_a_port_or_brackets_is_read() {
        for (value, client) in [
            ("6.6.6.6, 203.0.113.9:4711", "203.0.113.9"),
            ("6.6.6.6, [2001:db8:1::9]:80", "2001:db8:1::9"),
            ("6.6.6.6, [2001:db8:1::9]", "2001:db8:1::9"),
            ("6.6.6.6, 203.0.113.9, 10.0.0.2:80", "203.0.113.9"),
        ] {
            assert_eq!(client_of("10.0.0.1", &[value]), client, "{value}");
        }
    }

    #[test]
    fn entry_that_is_no_address_hides_what_the_client_wrote_before_it() {
        for value in [
            "6.6.6.6, unknown",
            "6.6.6.6, _hidden",
            "6.6.6.6,",
            "6.6.6.6, , 10.0.0.2",
            "6.6.6.6, [203.0.113.9]",
            "6.6.6.6, 203.0.113.9:99999",
            "6.6.6.6, \"[2001:db8:1::9]\"",
            "6.6.6.6, fe80::1%eth0",
        ] {
            let client = client_of("10.0.0.1", &[value]);
            assert!(client.starts_with("10.0.0."), "{value}: {client}");
        }
        let headers = HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("x-forwarded-for"),
            HeaderValue::from_bytes(b"6.6.6.6, \xff").unwrap(),
        )]);
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        assert_eq!(
            find_client_address(peer, &headers, &["10.0.0.0/8".parse().unwrap()]),
            peer
        );
    }
}
