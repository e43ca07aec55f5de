use std::{
    io,
    net::IpAddr,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::AddressPlace;

/// No limit on what is read.
const ANY: usize = usize::MAX;

/// What is known of one connection: an extension of every request that comes over it, as `Arc<Wire>`.
#[derive(Debug)]
pub(crate) struct Wire {
    peer: IpAddr,
    proxied: bool,
    tls: bool,
    /// Bytes that may still be read before the client has proven who it is, or [`ANY`].
    allowance: AtomicUsize,
    /// The place of the proxied client whose WebSocket this connection has become.
    upgraded: OnceLock<AddressPlace>,
}

impl Wire {
    pub(crate) fn new(peer: IpAddr, proxied: bool, tls: bool) -> Self {
        Self { peer, proxied, tls, allowance: AtomicUsize::new(ANY), upgraded: OnceLock::new() }
    }

    /// The other end: a client or a proxy.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether that is a trusted proxy, so that each request has a client of its own.
    pub(crate) fn is_proxied(&self) -> bool {
        self.proxied
    }

    /// Whether this listener speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Keeps a proxied client's place for as long as the connection lives. It is upgraded once at most.
    pub(crate) fn keep(&self, place: AddressPlace) {
        // A second place would be dropped here, and so be free: there is no second upgrade of one stream.
        let _ = self.upgraded.set(place);
    }

    /// From now on, and until [`Self::lift`], only so many bytes are read.
    pub(crate) fn limit(&self, bytes: usize) {
        self.allowance.store(bytes, Ordering::Relaxed);
    }

    /// The client has proven who it is.
    pub(crate) fn lift(&self) {
        self.allowance.store(ANY, Ordering::Relaxed);
    }

    /// Whether a stranger has used up what it may send.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.allowance.load(Ordering::Relaxed) == 0
    }

    /// Counts what was read. One task reads a connection, so load and store need not be one.
    pub(super) fn read(&self, bytes: usize) -> io::Result<()> {
        let left = self.allowance.load(Ordering::Relaxed);
        if left == ANY {
            return Ok(());
        }
        let left = left.saturating_sub(bytes);
        self.allowance.store(left, Ordering::Relaxed);
        if left == 0 { Err(io::Error::other("too much was sent before a token was")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stranger_may_send_so_much() {
        let wire = Wire::new([127, 0, 0, 1].into(), false, false);
        wire.read(1_000_000).expect("nothing is limited yet");
        wire.limit(100);
        wire.read(60).expect("within");
        assert!(!wire.is_exhausted());
        assert!(wire.read(60).is_err() && wire.is_exhausted());
        assert!(wire.read(1).is_err(), "it stays so");
        wire.limit(100);
        wire.lift();
        wire.read(1_000_000).expect("known");
    }
}
