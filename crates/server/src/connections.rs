//! Connection caps: in all and per address, before a byte is read, TLS's included.
//!
//! A trusted proxy's connections carry many clients. They count in all, but not for the proxy's address: there each
//! request takes a place of its client's address ([`Connections::admit_client`]) until its answer has ended, and a
//! WebSocket for as long as it lives. So `connections_per_address_max` is what one client can hold open at once, with a
//! proxy and without.

mod stream;
mod wire;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

pub(crate) use self::{stream::Guarded, wire::Wire};
use crate::{Metrics, Settings};

#[derive(Debug, Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Open connections. Clones share the count.
#[derive(Debug, Clone)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
    metrics: Metrics,
}

/// One open TCP connection; dropping it frees its place.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    connections: Connections,
    _place: Option<AddressPlace>,
}

/// A place of one address; dropping it frees it.
#[derive(Debug)]
pub(crate) struct AddressPlace {
    connections: Connections,
    address: IpAddr,
}

/// One open WebSocket, for the gauge.
#[derive(Debug)]
pub(crate) struct SocketGuard {
    metrics: Metrics,
}

impl Connections {
    /// No connection yet.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { open: Arc::default(), metrics }
    }

    /// Takes a place for a connection from `peer`, or says which limit is in the way. A proxy (`proxied`) takes none of
    /// its address.
    pub(crate) fn admit(
        &self,
        peer: IpAddr,
        proxied: bool,
        settings: &Settings,
    ) -> Result<ConnectionGuard, &'static str> {
        let mut open = self.open.lock();
        let taken = if open.total >= settings.connections_max {
            Err("connections_max")
        } else if proxied {
            Ok(None)
        } else {
            self.take(&mut open, peer, settings).map(Some)
        };
        if taken.is_ok() {
            open.total += 1;
        }
        drop(open);
        let place = taken.inspect_err(|limit| self.metrics.limit_hit(limit))?;
        self.metrics.connections.inc();
        self.metrics.active_connections.inc();
        Ok(ConnectionGuard { connections: self.clone(), _place: place })
    }

    /// Takes a place for a request of `client` that came through a proxy, or says which limit is in the way.
    pub(crate) fn admit_client(&self, client: IpAddr, settings: &Settings) -> Result<AddressPlace, &'static str> {
        let taken = self.take(&mut self.open.lock(), client, settings);
        taken.inspect_err(|limit| self.metrics.limit_hit(limit))
    }

    fn take(&self, open: &mut Open, address: IpAddr, settings: &Settings) -> Result<AddressPlace, &'static str> {
        let address = network(address);
        let count = open.by_address.entry(address).or_default();
        if *count >= settings.connections_per_address_max {
            return Err("connections_per_address_max");
        }
        *count += 1;
        Ok(AddressPlace { connections: self.clone(), address })
    }

    /// Counts an open WebSocket.
    pub(crate) fn socket(&self) -> SocketGuard {
        self.metrics.ws_connections.inc();
        self.metrics.ws_active_connections.inc();
        SocketGuard { metrics: self.metrics.clone() }
    }
}

/// What counts as one address: an IPv6 host owns its whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.connections.open.lock().total -= 1;
        self.connections.metrics.active_connections.dec();
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl Drop for SocketGuard {
    fn drop(&mut self) {
        self.metrics.ws_active_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_hold_and_places_come_back() {
        let connections = Connections::new(Metrics::register(&mut telemetry::Registry::default(), "test"));
        let settings = Settings { connections_max: 3, connections_per_address_max: 2, ..Settings::default() };
        let admit = |address: &str| connections.admit(address.parse().unwrap(), false, &settings);
        let first = admit("10.0.0.1").unwrap();
        let _second = admit("::ffff:10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), "connections_per_address_max");
        let _third = admit("2001:db8::1").unwrap();
        assert_eq!(admit("10.0.0.2").unwrap_err(), "connections_max");
        drop(first);
        let _again = admit("10.0.0.1").unwrap();
    }

    #[test]
    fn a_proxy_takes_a_place_in_all_and_its_clients_one_of_their_address() {
        let connections = Connections::new(Metrics::register(&mut telemetry::Registry::default(), "test"));
        let settings = Settings { connections_max: 3, connections_per_address_max: 2, ..Settings::default() };
        let proxy: IpAddr = "10.0.0.1".parse().unwrap();
        let mut open: Vec<_> = (0..3).map(|_| connections.admit(proxy, true, &settings).unwrap()).collect();
        assert_eq!(connections.admit(proxy, true, &settings).unwrap_err(), "connections_max");
        let client = |address: &str| connections.admit_client(address.parse().unwrap(), &settings);
        let first = client("198.51.100.1").unwrap();
        let _second = client("198.51.100.1").unwrap();
        assert_eq!(client("198.51.100.1").unwrap_err(), "connections_per_address_max");
        let _other = client("198.51.100.2").unwrap();
        // The same host without the proxy.
        open.clear();
        let direct = connections.admit("198.51.100.1".parse().unwrap(), false, &settings);
        assert_eq!(direct.unwrap_err(), "connections_per_address_max");
        drop(first);
        let _again = client("198.51.100.1").unwrap();
        assert_eq!(connections.open.lock().by_address.len(), 2);
    }

    #[test]
    fn one_v6_host_is_one_address() {
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff".parse().unwrap()));
        assert_ne!(network("2001:db8::1".parse().unwrap()), network("2001:db8:0:1::1".parse().unwrap()));
    }
}
