//! Connection caps: in all and per address, before a byte is read.

mod stream;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use parking_lot::Mutex;

pub(crate) use self::stream::Guarded;
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

    /// Takes a place for a connection from `address`, or says which limit is in the way.
    pub(crate) fn admit(&self, address: IpAddr, settings: &Settings) -> Result<ConnectionGuard, &'static str> {
        let address = network(address);
        let mut open = self.open.lock();
        let limit = if open.total >= settings.connections_max {
            Some("connections_max")
        } else if open.by_address.get(&address).copied().unwrap_or(0) >= settings.connections_per_address_max {
            Some("connections_per_address_max")
        } else {
            None
        };
        if let Some(limit) = limit {
            drop(open);
            self.metrics.limit_hit(limit);
            return Err(limit);
        }
        open.total += 1;
        *open.by_address.entry(address).or_default() += 1;
        drop(open);
        self.metrics.connections.inc();
        self.metrics.active_connections.inc();
        Ok(ConnectionGuard { connections: self.clone(), address })
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
        let mut open = self.connections.open.lock();
        open.total -= 1;
        if let Some(count) = open.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&self.address);
            }
        }
        drop(open);
        self.connections.metrics.active_connections.dec();
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
        let admit = |address: &str| connections.admit(address.parse().unwrap(), &settings);
        let first = admit("10.0.0.1").unwrap();
        let _second = admit("::ffff:10.0.0.1").unwrap();
        assert_eq!(admit("10.0.0.1").unwrap_err(), "connections_per_address_max");
        let _third = admit("2001:db8::1").unwrap();
        assert_eq!(admit("10.0.0.2").unwrap_err(), "connections_max");
        drop(first);
        let _again = admit("10.0.0.1").unwrap();
    }

    #[test]
    fn one_v6_host_is_one_address() {
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff".parse().unwrap()));
        assert_ne!(network("2001:db8::1".parse().unwrap()), network("2001:db8:0:1::1".parse().unwrap()));
    }
}
