use prometheus_client::{encoding::text::encode, registry::Registry};
use signing::SecretKey;

use super::*;

fn config(dir: &std::path::Path) -> KeysConfig {
    KeysConfig { dir: dir.to_owned(), passphrase: None, pkcs11: None }
}

fn series(registry: &Registry, kid: &str, operation: &str, outcome: &str) -> Option<u64> {
    let mut text = String::new();
    encode(&mut text, registry).unwrap();
    let wanted = format!("llm_node_key_uses_total{{kid=\"{kid}\",operation=\"{operation}\",outcome=\"{outcome}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&wanted)).map(|value| value.parse().unwrap())
}

/// A keyring over a directory, the store that changes it from outside, and what it counts.
struct Beside {
    _folder: tempfile::TempDir,
    keyring: Keyring,
    store: KeyStore,
    registry: Registry,
}

impl Beside {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::default();
        let metrics = KeyMetrics::register(&mut registry);
        let (keyring, made) = Keyring::open(&config(folder.path()), Origin::File, metrics).unwrap();
        assert!(made);
        let store = KeyStore::open(&config(folder.path())).unwrap();
        Self { keyring, store, registry, _folder: folder }
    }

    fn count(&self, kid: &str, operation: &str, outcome: &str) -> u64 {
        series(&self.registry, kid, operation, outcome).unwrap_or_else(|| panic!("no series of {kid}"))
    }
}

#[test]
fn a_running_keyring_follows_what_is_done_beside_it() {
    let node = Beside::new();
    let first = node.keyring.signer().0;
    assert!(!node.keyring.refresh().unwrap(), "nothing has changed");
    let next = node.store.add(Origin::File, true, now()).unwrap().kid;
    assert!(node.keyring.refresh().unwrap());
    assert_eq!(node.keyring.jwks().keys.len(), 2, "published ahead");
    assert_eq!(node.keyring.signer().0, first, "and not used yet");
    node.store.rotate(3600, 0, now()).unwrap();
    assert!(node.keyring.refresh().unwrap());
    let (kid, signature) = node.keyring.sign(b"message").unwrap();
    assert_eq!(kid, next);
    node.keyring.verifying_key(&next).unwrap().verify(b"message", &signature).unwrap();
    assert_eq!(node.keyring.node_id(), first, "the node keeps its name");
    assert_eq!(node.keyring.statements().len(), 1);
}

#[test]
fn every_use_is_counted_by_key_and_outcome() {
    let node = Beside::new();
    let first = node.keyring.signer().0;
    let (_, signature) = node.keyring.sign(b"message").unwrap();
    assert_eq!(node.keyring.verify("x", b"message", &signature), KeyVerdict::Unknown);
    assert_eq!(node.keyring.verify(&first, b"other", &signature), KeyVerdict::Invalid);
    assert_eq!(node.keyring.verify(&first, b"message", &signature), KeyVerdict::Valid);

    let next = node.store.add(Origin::File, true, now()).unwrap().kid;
    node.keyring.refresh().unwrap();
    assert_eq!(node.keyring.verify(&next, b"message", &signature), KeyVerdict::Retired, "it signs nothing yet");
    node.store.rotate(3600, 0, now()).unwrap();
    node.keyring.refresh().unwrap();
    assert_eq!(node.keyring.verify(&first, b"message", &signature), KeyVerdict::Valid, "in the overlap");
    node.store.retire(&first, now()).unwrap();
    node.keyring.refresh().unwrap();
    assert_eq!(node.keyring.verify(&first, b"message", &signature), KeyVerdict::Retired);

    assert_eq!(node.count(&first, "sign", "ok"), 1);
    assert_eq!(node.count(&first, "verify", "ok"), 2);
    assert_eq!(node.count(&first, "verify", "failed"), 1);
    assert_eq!(node.count(&first, "verify", "retired"), 1);
    assert_eq!(node.count(&next, "verify", "retired"), 1);
    assert_eq!(node.count(&next, "sign", "ok"), 0, "at zero from the start");
    assert_eq!(series(&node.registry, "x", "verify", "failed"), None, "a stranger's name makes no series");
}

#[test]
fn a_signer_that_is_held_stops_when_its_key_was_retired() {
    let secret = SecretKey::from_seed(&[1; 32]).unwrap();
    let uses = KeyMetrics::default().uses("k");
    let signer = CountedSigner::new(Arc::new(secret), uses.clone());
    signer.retire(now());
    assert!(signer.sign(b"work that took it just before").is_ok());
    signer.retire(now() - 3600);
    assert!(signer.sign(b"later").is_err());
    assert_eq!((uses.signed.get(), uses.sign_retired.get()), (1, 1));
}

#[test]
fn a_change_that_cannot_be_taken_changes_nothing() {
    let node = Beside::new();
    let before = node.keyring.signer().0;
    let file = node._folder.path().join("keyring.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "{").unwrap();
    assert!(node.keyring.refresh().is_err());
    assert!(!node.keyring.refresh().unwrap(), "said once");
    assert_eq!(node.keyring.signer().0, before);
    assert!(node.keyring.sign(b"it still signs").is_ok());
    std::fs::write(&file, good).unwrap();
    assert!(node.keyring.refresh().unwrap());
    let other = tempfile::tempdir().unwrap();
    let stranger = KeyStore::open(&config(other.path())).unwrap();
    stranger.add(Origin::File, true, now()).unwrap();
    std::fs::copy(other.path().join("keyring.json"), &file).unwrap();
    assert!(node.keyring.refresh().unwrap_err().to_string().contains("another node"));
    assert_eq!(node.keyring.node_id(), before);
}

#[test]
fn series_are_bounded() {
    let mut registry = Registry::default();
    let metrics = KeyMetrics::register(&mut registry);
    for number in 0..100 {
        metrics.uses(&format!("k{number}")).signed.inc();
    }
    assert_eq!(series(&registry, "k0", "sign", "ok"), Some(1));
    assert_eq!(series(&registry, "k99", "sign", "ok"), None);
    assert_eq!(series(&registry, "others", "sign", "ok"), Some(100 - 32));
}
