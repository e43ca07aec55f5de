//! Whose request a proxy passes on: `X-Forwarded-For`, of trusted proxies alone.
//!
//! A proxy appends the address that it saw to what the client sent, so only the right end is worth something: from there
//! to the left, the first address that is no trusted proxy is the client's. What stands left of it is the client's own
//! claim and is not read. `Forwarded` (RFC 7239) is ignored: a proxy that writes one of the two passes the other on as
//! the client wrote it, so a node that read both would believe anybody.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

/// The header.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies in a row; a chain that is longer is a mistake or an attack.
const PROXIES_MAX: usize = 16;

/// The header of a trusted proxy is not a list of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("X-Forwarded-For is not a list of addresses")]
pub(crate) struct Malformed;

/// Whether `address` is a trusted proxy's.
pub(crate) fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// The client of a request that came from the trusted proxy `peer`. Without the header it is the proxy itself (its
/// health checks); where all are trusted it is the first.
///
/// # Errors
/// [`Malformed`], where an address that counts is none, or none within [`PROXIES_MAX`].
pub(crate) fn client(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Malformed> {
    let mut client = peer.to_canonical();
    let mut seen = 0;
    // Several headers are one list (RFC 9110 section 5.3).
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for part in value.to_str().map_err(|_| Malformed)?.rsplit(',') {
            seen += 1;
            if seen > PROXIES_MAX {
                return Err(Malformed);
            }
            client = address(part.trim()).ok_or(Malformed)?;
            if !is_trusted(trusted, client) {
                return Ok(client);
            }
        }
    }
    Ok(client)
}

/// An address as proxies write it: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let bracketed = bare.len() != text.len();
    let plain = bare.parse::<IpAddr>().ok().filter(|address| !bracketed || address.is_ipv6());
    let address = plain.or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let value = |value: &&str| (X_FORWARDED_FOR, HeaderValue::from_str(value).expect("a header value"));
        values.iter().map(value).collect()
    }

    fn check(values: &[&str], expected: Result<&str, Malformed>) {
        let trusted = networks(&["10.0.0.0/8", "127.0.0.1/32", "2001:db8:1::/48"]);
        let expected = expected.map(|address| address.parse::<IpAddr>().expect("an address"));
        let peer = "::ffff:127.0.0.1".parse().expect("an address");
        assert_eq!(client(&trusted, peer, &headers(values)), expected, "{values:?}");
    }

    #[test]
    fn what_is_no_list_of_addresses_is_refused() {
        for bad in [
            "",
            " ",
            ",",
            "198.51.100.1,",
            "unknown",
            "_hidden",
            "198.51.100.256",
            "198.51.100.1:99999",
            "[198.51.100.1]",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]:",
            "2001:db8::1%eth0",
            "198.51.100.1 203.0.113.2",
            "\"198.51.100.1\"",
            "for=198.51.100.1",
            "198.51.100.1;",
            "0x7f.1",
            "198.51.100.01",
            "node.example",
        ] {
            check(&[bad], Err(Malformed));
            check(&["198.51.100.1", bad], Err(Malformed));
            check(&[&format!("198.51.100.1, {bad}")], Err(Malformed));
        }
        check(&[&["10.0.0.1"; PROXIES_MAX + 1].join(",")], Err(Malformed));
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_clients() {
        check(&["198.51.100.1"], Ok("198.51.100.1"));
        check(&["203.0.113.7, 198.51.100.1"], Ok("198.51.100.1"));
        check(&["203.0.113.7", "198.51.100.1"], Ok("198.51.100.1"));
        check(&["198.51.100.1, 10.1.2.3"], Ok("198.51.100.1"));
        check(&["203.0.113.7, 198.51.100.1 ,10.1.2.3", "127.0.0.1"], Ok("198.51.100.1"));
        check(&["127.0.0.1, 198.51.100.1"], Ok("198.51.100.1"));
        // What a client writes to the left is neither believed nor read.
        check(&["nonsense, 198.51.100.1"], Ok("198.51.100.1"));
        check(&["198.51.100.1:4711"], Ok("198.51.100.1"));
        check(&["2001:db8::7"], Ok("2001:db8::7"));
        check(&["[2001:db8::7]:4711, [2001:db8:1::1]"], Ok("2001:db8::7"));
        check(&["::ffff:198.51.100.1"], Ok("198.51.100.1"));
    }

    #[test]
    fn a_proxy_that_names_nobody_asks_for_itself() {
        check(&[], Ok("127.0.0.1"));
        check(&["10.0.0.7, 10.0.0.8"], Ok("10.0.0.7"));
    }

    #[test]
    fn trust_is_by_network_in_both_notations() {
        let trusted = networks(&["10.0.0.0/8"]);
        assert!(is_trusted(&trusted, "::ffff:10.1.1.1".parse().expect("an address")));
        assert!(!is_trusted(&trusted, "11.0.0.1".parse().expect("an address")));
        assert!(!is_trusted(&[], "127.0.0.1".parse().expect("an address")));
    }

    proptest! {
        /// Whatever a client puts in front, the address that the proxy appended wins.
        #[test]
        fn no_prefix_moves_the_client(prefix in "[ -~]{0,60}") {
            let trusted = networks(&["127.0.0.1/32"]);
            let headers = headers(&[&format!("{prefix},198.51.100.1")]);
            let found = client(&trusted, [127, 0, 0, 1].into(), &headers);
            prop_assert_eq!(found, Ok([198, 51, 100, 1].into()));
        }
    }
}
