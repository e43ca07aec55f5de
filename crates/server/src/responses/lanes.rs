//! Which request of a WebSocket runs now: in order within a lane, side by side between lanes, bounded in all.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

/// A lane's name; `None` is the default lane.
pub(super) type Lane = Option<Arc<str>>;

/// Lanes that run at once.
pub(super) const IN_FLIGHT_MAX: usize = 16;
/// Named lanes of one connection, over its whole life.
pub(super) const NAMED_LANES_MAX: usize = 32;
/// Requests that wait on one connection.
pub(super) const WAITING_MAX: usize = 128;
/// Longest name of a lane.
const LANE_NAME_BYTES_MAX: usize = 256;

/// Reads a lane's name: 1 to 256 of `[A-Za-z0-9_.-]`.
pub(super) fn name(text: &str) -> Option<Arc<str>> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    ((1..=LANE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)).then(|| text.into())
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// [`NAMED_LANES_MAX`] names are in use.
    Lanes,
    /// [`WAITING_MAX`] requests wait.
    Requests,
    /// The requests that wait or run have too many bytes.
    Bytes,
}

/// The lanes of one connection.
#[derive(Debug)]
pub(super) struct Lanes<T> {
    waiting: VecDeque<(Lane, usize, T)>,
    /// Lanes that run, with the bytes of their request.
    running: HashMap<Lane, usize>,
    named: HashSet<Arc<str>>,
    /// Of all requests that wait or run.
    bytes: usize,
    bytes_max: usize,
}

impl<T> Lanes<T> {
    /// No lanes yet; all requests that wait or run may have this many bytes together.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { waiting: VecDeque::new(), running: HashMap::new(), named: HashSet::new(), bytes: 0, bytes_max }
    }

    /// Takes a request of this many bytes.
    ///
    /// # Errors
    /// [`Full`]; nothing changed.
    pub(super) fn push(&mut self, lane: Lane, bytes: usize, request: T) -> Result<(), Full> {
        let new_name = lane.as_ref().filter(|name| !self.named.contains(*name));
        if new_name.is_some() && self.named.len() >= NAMED_LANES_MAX {
            return Err(Full::Lanes);
        }
        if self.waiting.len() >= WAITING_MAX {
            return Err(Full::Requests);
        }
        // One request may always be taken: its own size has a limit already.
        if self.bytes > 0 && self.bytes + bytes > self.bytes_max {
            return Err(Full::Bytes);
        }
        self.named.extend(new_name.cloned());
        self.bytes += bytes;
        self.waiting.push_back((lane, bytes, request));
        Ok(())
    }

    /// The next request that may run, which then runs until [`Lanes::finish`].
    pub(super) fn start(&mut self) -> Option<(Lane, T)> {
        if self.running.len() >= IN_FLIGHT_MAX {
            return None;
        }
        let next = self.waiting.iter().position(|(lane, ..)| !self.running.contains_key(lane))?;
        let (lane, bytes, request) = self.waiting.remove(next)?;
        self.running.insert(lane.clone(), bytes);
        Some((lane, request))
    }

    /// The lane's request is over.
    pub(super) fn finish(&mut self, lane: &Lane) {
        let bytes = self.running.remove(lane);
        debug_assert!(bytes.is_some(), "only what runs ends");
        self.bytes -= bytes.unwrap_or(0);
    }

    /// Whether nothing waits or runs.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(text: &str) -> Lane {
        (!text.is_empty()).then(|| name(text).expect("a name"))
    }

    fn started(lanes: &mut Lanes<u32>) -> Vec<u32> {
        std::iter::from_fn(|| lanes.start()).map(|(_, request)| request).collect()
    }

    #[test]
    fn names_are_short_and_plain() {
        let long = "a".repeat(257);
        for bad in ["", " ", "a b", "a/b", "é", "a\n", "a\0", "a:b", &long] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
        for good in ["a", "A-z_0.9", "...", &long[1..]] {
            assert_eq!(name(good).as_deref(), Some(good));
        }
    }

    #[test]
    fn a_lane_runs_in_order_and_lanes_side_by_side() {
        let mut lanes = Lanes::new(1000);
        for (name, request) in [("a", 1), ("a", 2), ("", 3), ("b", 4), ("", 5), ("a", 6)] {
            lanes.push(lane(name), 1, request).expect("room");
        }
        assert_eq!(started(&mut lanes), [1, 3, 4]);
        lanes.finish(&lane("a"));
        assert_eq!(started(&mut lanes), [2]);
        lanes.finish(&lane(""));
        lanes.finish(&lane("b"));
        assert_eq!(started(&mut lanes), [5]);
        lanes.finish(&lane("a"));
        assert_eq!(started(&mut lanes), [6]);
        assert!(!lanes.is_idle());
        lanes.finish(&lane("a"));
        lanes.finish(&lane(""));
        assert!(lanes.is_idle());
        assert_eq!(lanes.bytes, 0);
    }

    #[test]
    fn sixteen_run_and_the_rest_waits() {
        let mut lanes = Lanes::new(1000);
        for request in 0..20 {
            lanes.push(lane(&format!("lane-{request}")), 1, request).expect("room");
        }
        assert_eq!(started(&mut lanes), (0..16).collect::<Vec<_>>());
        lanes.finish(&lane("lane-5"));
        assert_eq!(started(&mut lanes), [16]);
    }

    #[test]
    fn names_requests_and_bytes_are_bounded() {
        let mut lanes = Lanes::new(100);
        for request in 0..32 {
            lanes.push(lane(&format!("lane-{request}")), 1, request).expect("room");
        }
        assert_eq!(lanes.push(lane("one-more"), 1, 32), Err(Full::Lanes));
        assert_eq!(lanes.push(lane("lane-7"), 1, 32), Ok(()), "a known name");
        assert_eq!(lanes.push(lane(""), 1, 33), Ok(()), "the default lane has no name");
        assert_eq!(lanes.push(lane(""), 67, 34), Err(Full::Bytes));
        assert_eq!(lanes.push(lane(""), 66, 34), Ok(()));

        let mut lanes = Lanes::new(usize::MAX);
        for request in 0..128 {
            lanes.push(None, 1, request).expect("room");
        }
        assert_eq!(lanes.push(None, 1, 128), Err(Full::Requests));

        let mut lanes = Lanes::new(10);
        assert_eq!(lanes.push(None, 11, 0), Ok(()), "one is always taken");
        assert_eq!(lanes.push(None, 0, 1), Err(Full::Bytes));
    }

    #[test]
    fn a_refused_request_leaves_no_name() {
        let mut lanes = Lanes::new(1);
        lanes.push(None, 1, 0).expect("room");
        for attempt in 0..100 {
            assert_eq!(lanes.push(lane(&format!("lane-{attempt}")), 1, 1), Err(Full::Bytes));
        }
        assert!(lanes.named.is_empty());
    }
}
