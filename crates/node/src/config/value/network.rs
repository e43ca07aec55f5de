use ipnet::IpNet;

use super::{Raw, Value, quote};

/// A network in CIDR notation (RFC 4632); an address alone is a network of one. The whole internet is none: as a list
/// of who is trusted, it would be everybody.
impl Value for IpNet {
    fn expected() -> String {
        "an address or a network such as \"10.0.0.0/8\"".into()
    }

    fn read(raw: &Raw) -> Option<Self> {
        let text = raw.text()?.trim();
        let network: Self =
            text.parse().or_else(|_| text.parse().map(|address: std::net::IpAddr| address.into())).ok()?;
        // Peers are compared in the notation of IPv4 where they have one.
        let mapped = matches!(network, Self::V6(v6) if v6.addr().to_ipv4_mapped().is_some());
        (network.prefix_len() > 0 && !mapped).then(|| network.trunc())
    }

    fn show(&self) -> String {
        quote(&self.to_string())
    }
}
