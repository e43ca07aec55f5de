use signing::{SecretKey, Signer as _};

use super::*;

const DAY: u64 = 86_400;

fn public(seed: u8) -> PublicKey {
    SecretKey::from_seed(&[seed; 32]).unwrap().public_key()
}

fn name(seed: u8) -> String {
    public(seed).thumbprint()
}

fn ring() -> Ring {
    Ring::first(public(1), SecretPlace::File, 1000)
}

fn with_next() -> Ring {
    let mut ring = ring();
    ring.add_next(public(2), SecretPlace::File, None, 2000).unwrap();
    ring
}

fn rotated() -> Ring {
    let mut ring = with_next();
    ring.rotate(DAY, 300, 3000).unwrap();
    ring
}

#[test]
fn steps_that_make_no_sense_are_refused() {
    let check = |mut ring: Ring, step: fn(&mut Ring) -> Result<(), RingError>, expected: RingError| {
        let before = ring.clone();
        assert_eq!(step(&mut ring), Err(expected));
        assert_eq!(ring, before, "a refused step changes nothing");
    };
    let add = |seed| move |ring: &mut Ring| ring.add_next(public(seed), SecretPlace::File, None, 9).map(|_| ());
    assert_eq!(add(1)(&mut ring()), Err(RingError::Known(name(1))));
    assert_eq!(add(3)(&mut with_next()), Err(RingError::HasNext(name(2))));
    assert_eq!(add(1)(&mut rotated()), Err(RingError::Known(name(1))));
    check(ring(), |ring| ring.rotate(0, 0, 9), RingError::NoNext);
    check(with_next(), |ring| ring.rotate(0, 300, 2299), RingError::TooEarly { published_secs: 299, needed_secs: 300 });
    // A clock that went back must not make a key look old.
    check(with_next(), |ring| ring.rotate(0, 300, 0), RingError::TooEarly { published_secs: 0, needed_secs: 300 });
    check(ring(), |ring| ring.retire(&name(1), 9).map(|_| ()), RingError::IsActive(name(1)));
    check(ring(), |ring| ring.retire("x", 9).map(|_| ()), RingError::NoSuchKey("x".into()));
}

#[test]
fn a_damaged_file_is_refused() {
    let check = |change: fn(&mut Ring), why: &'static str| {
        let mut ring = rotated();
        change(&mut ring);
        let json = serde_json::to_vec(&ring).unwrap();
        assert_eq!(Ring::from_json(&json), Err(RingError::Damaged(why)));
    };
    check(|ring| ring.version = 2, "written by another version");
    check(|ring| ring.keys[1].status = KeyStatus::Next, "not exactly one active key");
    check(|ring| ring.keys[0].status = KeyStatus::Active, "not exactly one active key");
    check(|ring| ring.keys[0].kid = name(3), "a name does not fit its key");
    check(|ring| ring.keys[0] = ring.keys[1].clone(), "not exactly one active key");
    check(|ring| ring.node_id = name(2), "the first key is not the node's");
    check(|ring| ring.keys.reverse(), "the first key is not the node's");
    for bad in ["", "{}", "null", "[]"] {
        let expected = RingError::Damaged("not what this version wrote");
        assert_eq!(Ring::from_json(bad.as_bytes()), Err(expected), "{bad}");
    }
    let good = rotated();
    assert_eq!(Ring::from_json(&serde_json::to_vec(&good).unwrap()), Ok(good));
}

#[test]
fn a_key_lives_through_its_states() {
    let mut ring = with_next();
    let status = |ring: &Ring, seed: u8| ring.find(&name(seed)).map(|key| key.status);
    let vouches = |ring: &Ring, seed: u8, at| ring.find(&name(seed)).unwrap().vouches_at(at);
    assert_eq!((status(&ring, 1), status(&ring, 2)), (Some(KeyStatus::Active), Some(KeyStatus::Next)));
    assert!(
        vouches(&ring, 1, 2500) && !vouches(&ring, 2, 2500),
        "nobody can have a token of a key that signs nothing yet"
    );

    ring.rotate(DAY, 300, 3000).unwrap();
    assert_eq!((status(&ring, 1), status(&ring, 2)), (Some(KeyStatus::Retired), Some(KeyStatus::Active)));
    assert_eq!(ring.node_id, name(1), "the node is still the same");
    assert!(vouches(&ring, 2, 3000));
    assert!(vouches(&ring, 1, 3000 + DAY - 1) && !vouches(&ring, 1, 3000 + DAY), "until the overlap ends");

    assert_eq!(ring.retire(&name(1), 4000), Ok(SecretPlace::File), "its secret is to be destroyed");
    assert_eq!(ring.find(&name(1)).unwrap().secret, SecretPlace::Gone);
    assert!(!vouches(&ring, 1, 4000), "the overlap is over");
    assert_eq!(ring.find(&name(1)).unwrap().retired_at, Some(3000), "since when it signs nothing does not change");
}

#[test]
fn the_published_set_has_every_key_that_signs_will_or_did() {
    let published = |ring: &Ring| -> Vec<(Option<String>, Option<KeyStatus>)> {
        ring.jwks().keys.into_iter().map(|jwk| (jwk.kid, jwk.status)).collect()
    };
    let mut ring = rotated();
    ring.add_next(public(3), SecretPlace::File, None, 5000).unwrap();
    let expected = [
        (Some(name(1)), Some(KeyStatus::Retired)),
        (Some(name(2)), Some(KeyStatus::Active)),
        (Some(name(3)), Some(KeyStatus::Next)),
    ];
    assert_eq!(published(&ring), expected);
    ring.retire(&name(3), 6000).unwrap();
    assert_eq!(published(&ring), expected[..2], "a key that was dropped before it signed vouches for nothing");
    ring.retire(&name(1), 6000).unwrap();
    assert_eq!(published(&ring), expected[..2], "what a retired key signed stays verifiable");
}

#[test]
fn an_older_state_keeps_the_keys_that_came_after_it() {
    let mut old = ring();
    let newer = rotated();
    old.keep_keys_of(&newer, 7000);
    let kept = old.find(&name(2)).unwrap();
    assert_eq!((kept.status, kept.retired_at), (KeyStatus::Retired, Some(7000)));
    assert_eq!(old.active().kid, name(1));
    assert_eq!(old.jwks().keys.len(), 2);
    assert!(Ring::from_json(&serde_json::to_vec(&old).unwrap()).is_ok());
}
