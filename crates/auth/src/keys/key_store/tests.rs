use std::{fs, os::unix::fs::PermissionsExt as _};

use signing::{KeyStatus, statement::trusted_keys};

use super::*;

const NOW: u64 = 1_800_000_000;

fn store(dir: &Path, passphrase: Option<&str>) -> KeyStore {
    let passphrase = passphrase.map(|text| Passphrase::new(text.to_owned()));
    KeyStore::open(&KeysConfig { dir: dir.to_owned(), passphrase, pkcs11: None }).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).unwrap()
}

/// A store with an active key (1) and a next one (2).
fn with_next(dir: &Path) -> KeyStore {
    let store = store(dir, None);
    store.add(Origin::Import(key(1)), true, NOW).unwrap();
    store.add(Origin::Import(key(2)), true, NOW + 10).unwrap();
    store
}

fn refused<T: std::fmt::Debug>(result: Result<T, KeysError>, part: &str) {
    let error = result.expect_err(part).to_string();
    assert!(error.contains(part), "{error}");
}

#[test]
fn keys_are_private_files_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("keys");
    let store = store(&dir, None);
    let (ring, made) = store.ring_or_first(Origin::File, NOW).unwrap();
    assert!(made);
    assert_eq!(store.ring_or_first(Origin::File, NOW + 5).unwrap(), (ring.clone(), false));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    let file = dir.join(format!("{}.pem", ring.node_id));
    assert_eq!((mode(&file), mode(&dir.join("keyring.json"))), (0o600, 0o600));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    refused(store.signer(ring.active()).map(|_| ()), "can be read by others");
}

#[test]
fn a_file_with_another_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(folder.path());
    let ring = store.existing_ring().unwrap();
    let (active, next) = (&ring.active().kid, &ring.next().unwrap().kid);
    let path = |kid: &str| folder.path().join(format!("{kid}.pem"));
    fs::copy(path(next), path(active)).unwrap();
    refused(store.signer(ring.active()).map(|_| ()), "does not hold the key");
    fs::write(path(active), "nothing").unwrap();
    refused(store.signer(ring.active()).map(|_| ()), "not a PEM file");
    fs::remove_file(path(active)).unwrap();
    refused(store.signer(ring.active()).map(|_| ()), "No such file");
}

#[test]
fn the_passphrase_opens_the_files_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    let (ring, _) = store(folder.path(), Some("pass")).ring_or_first(Origin::File, NOW).unwrap();
    let open = |passphrase| store(folder.path(), passphrase).signer(ring.active()).map(|_| ());
    refused(open(None), "needs its passphrase");
    refused(open(Some("other")), "passphrase is wrong");
    open(Some("pass")).unwrap();
}

#[test]
fn a_lost_keyring_does_not_become_another_node() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let (ring, _) = store(dir, None).ring_or_first(Origin::File, NOW).unwrap();
    fs::remove_file(dir.join("keyring.json")).unwrap();
    let (again, _) = store(dir, None).ring_or_first(Origin::File, NOW + 1).unwrap();
    assert_eq!(again.node_id, ring.node_id, "a single key can only be the first");

    store(dir, None).add(Origin::File, true, NOW + 2).unwrap();
    fs::remove_file(dir.join("keyring.json")).unwrap();
    refused(store(dir, None).ring_or_first(Origin::File, NOW + 3), "no keyring.json");
}

#[test]
fn each_key_is_signed_by_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(folder.path());
    store.rotate(100, 0, NOW + 20).unwrap();
    store.add(Origin::Import(key(3)), true, NOW + 30).unwrap();
    store.rotate(100, 0, NOW + 40).unwrap();
    let ring = store.existing_ring().unwrap();
    let trusted = trusted_keys(&ring.node_id, &ring.jwks(), &ring.statements);
    assert_eq!(trusted, ring.jwks());
    assert_eq!(trusted.keys.len(), 3);
    assert_eq!(trusted_keys(&ring.node_id, &ring.jwks(), &ring.statements[..1]).keys.len(), 2);
}

#[test]
fn a_next_key_that_cannot_sign_does_not_become_active() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(folder.path());
    let before = store.existing_ring().unwrap();
    fs::remove_file(folder.path().join(format!("{}.pem", before.next().unwrap().kid))).unwrap();
    refused(store.rotate(0, 0, NOW + 20), "No such file");
    assert_eq!(store.existing_ring().unwrap(), before);
}

#[test]
fn an_active_key_that_was_lost_can_be_replaced_openly() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), None);
    let first = store.add(Origin::File, true, NOW).unwrap();
    fs::remove_file(folder.path().join(format!("{}.pem", first.kid))).unwrap();
    refused(store.add(Origin::File, true, NOW + 1), "--without-statement");
    store.add(Origin::File, false, NOW + 1).unwrap();
    store.rotate(0, 0, NOW + 2).unwrap();
    assert!(store.existing_ring().unwrap().statements.is_empty());
}

#[test]
fn a_retired_secret_is_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(folder.path());
    let rotated = store.rotate(100, 0, NOW + 20).unwrap();
    let file = folder.path().join(format!("{}.pem", rotated.retired.kid));
    assert!(file.exists());
    let retired = store.retire(&rotated.retired.kid, NOW + 30).unwrap();
    assert_eq!((retired.status, retired.secret), (KeyStatus::Retired, SecretPlace::Gone));
    assert!(!file.exists());
    refused(store.retire(&rotated.active.kid, NOW + 30), "is the active key");
}

#[test]
fn a_backup_opens_for_whom_it_was_made_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(&folder.path().join("keys"));
    let identity = age::x25519::Identity::generate();
    let other = age::x25519::Identity::generate();
    let secret_text = |identity: &age::x25519::Identity| {
        use age::secrecy::ExposeSecret as _;
        format!("# created: today\n{}\n", identity.to_string().expose_secret())
    };
    let backup = store.backup(&Sealer::recipient(&identity.to_public().to_string()).unwrap()).unwrap();
    let text = String::from_utf8(backup.clone()).unwrap();
    assert!(text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----"));
    assert!(!text.contains("PRIVATE KEY"));

    let target = self::store(&folder.path().join("target"), Some("pass"));
    let opener = |identity| Opener::identity(&secret_text(identity)).unwrap();
    refused(target.restore(&backup, &opener(&other), false, NOW), "cannot be opened");
    refused(target.restore(b"nothing", &opener(&identity), false, NOW), "not a backup");
    let cut = &backup[..backup.len() / 2];
    refused(target.restore(cut, &opener(&identity), false, NOW), "backup");
    assert_eq!(target.ring().unwrap(), None, "what is refused changes nothing");

    let restored = target.restore(&backup, &opener(&identity), false, NOW + 50).unwrap();
    assert_eq!((restored.secrets, &restored.ring), (2, &store.existing_ring().unwrap()));
    // The secrets are under the new place's passphrase.
    let signature = target.signer(restored.ring.active()).unwrap().sign(b"x").unwrap();
    assert_eq!(signature, key(1).sign(b"x").unwrap());
    refused(Sealer::recipient("ssh-ed25519 AAAA"), "no recipient");
    refused(Opener::identity("# nothing\n"), "identity");
}

#[test]
fn a_restore_loses_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = with_next(folder.path());
    let passphrase = Passphrase::new("a long passphrase\n".to_owned());
    let backup = store.backup(&Sealer::passphrase(&passphrase)).unwrap();
    store.rotate(100, 0, NOW + 20).unwrap();
    store.add(Origin::Import(key(3)), true, NOW + 30).unwrap();
    store.rotate(100, 0, NOW + 40).unwrap();

    let opener = Opener::passphrase(&passphrase);
    refused(store.restore(&backup, &opener, false, NOW + 50), "--replace");
    refused(
        store.restore(&backup, &Opener::passphrase(&Passphrase::new("b".into())), true, NOW + 50),
        "cannot be opened",
    );
    let restored = store.restore(&backup, &opener, true, NOW + 50).unwrap();
    let status = |seed: u8| restored.ring.find(&key(seed).public_key().thumbprint()).map(|key| key.status);
    let expected = (Some(KeyStatus::Active), Some(KeyStatus::Next), Some(KeyStatus::Retired));
    assert_eq!((status(1), status(2), status(3)), expected, "key 3 came after the backup, and signed receipts");
    assert_eq!(restored.ring.jwks().keys.len(), 3);
}

#[test]
fn nothing_secret_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let printed = format!("{:?}", store(folder.path(), Some("hush-hush")));
    assert!(printed.contains("Passphrase(…)") && !printed.contains("hush"), "{printed}");
}
