use std::time::Duration;

use super::*;

const NOW: u64 = 1_795_000_000;

#[test]
fn weak_and_example_secrets_are_refused() {
    for short in ["", "short", &"x7Kq".repeat(7)] {
        assert!(matches!(JwtSecret::new(short), Err(SecretError::TooShort(_))), "{short:?}");
    }
    for example in [&"a".repeat(64), "CHANGEME-CHANGEME-abcdefghijklmnop", "my-super-secret-jwt-key-for-the-node!"] {
        assert!(matches!(JwtSecret::new(example), Err(SecretError::Example)), "{example:?}");
    }
    assert!(JwtSecret::new("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").is_ok());
}

#[test]
fn a_generated_secret_is_private_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    let first = JwtSecret::load_or_generate(&path).unwrap();
    let again = JwtSecret::load_or_generate(&path).unwrap();
    assert_eq!(first.bytes(), again.bytes());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(format!("{first:?}"), "JwtSecret(…)");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(JwtSecret::load_or_generate(&path), Err(SecretError::Exposed { .. })));
}

fn verifies(secrets: &Secrets, tag: &[u8], now: u64) -> bool {
    secrets.ring().verify(None, b"m", tag, now)
}

#[test]
fn a_rotated_secret_verifies_until_its_overlap_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    let secrets = Secrets::generated(path.clone()).unwrap();
    let (old_kid, old_tag) = (secrets.ring().kid().to_owned(), secrets.ring().sign(b"m"));
    let rotated = Secrets::rotate(path.clone(), Duration::from_secs(60), NOW).unwrap();
    assert_eq!(rotated.old_until, Some(NOW + 60));
    assert_eq!(secrets.ring().kid(), old_kid, "nobody has looked yet");

    secrets.look().unwrap();
    let ring = secrets.ring();
    assert_eq!(ring.kid(), rotated.kid);
    assert_ne!(ring.kid(), old_kid);
    assert_ne!(ring.sign(b"m").as_ref(), old_tag.as_ref());
    assert!(verifies(&secrets, old_tag.as_ref(), NOW + 59) && ring.knows(&old_kid, NOW + 59));
    assert!(!verifies(&secrets, old_tag.as_ref(), NOW + 60) && !ring.knows(&old_kid, NOW + 60));
    // Named secrets are asked alone.
    assert!(ring.verify(Some(&old_kid), b"m", old_tag.as_ref(), NOW));
    assert!(!ring.verify(Some(&rotated.kid), b"m", old_tag.as_ref(), NOW));
    assert!(!ring.verify(Some("../../etc/passwd"), b"m", old_tag.as_ref(), NOW));
    for entry in fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap()) {
        let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
        assert!(entry.file_name() == "jwt.lock" || mode == 0, "{:?}", entry.file_name());
    }
}

#[test]
fn without_overlap_the_old_secret_ends_at_once_and_ended_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    let secrets = Secrets::generated(path.clone()).unwrap();
    let old_tag = secrets.ring().sign(b"m");
    Secrets::rotate(path.clone(), Duration::from_secs(5), NOW).unwrap();
    Secrets::rotate(path.clone(), Duration::ZERO, NOW + 5).unwrap();
    secrets.look().unwrap();
    assert!(!verifies(&secrets, old_tag.as_ref(), NOW), "its file is gone");
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("until")), "{names:?}");
}

#[test]
fn rotations_in_one_second_keep_every_secret_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwt");
    let secrets = Secrets::generated(path.clone()).unwrap();
    let mut tags = Vec::new();
    for _ in 0..EARLIER_SECRETS_MAX {
        tags.push(secrets.ring().sign(b"m"));
        Secrets::rotate(path.clone(), Duration::from_secs(60), NOW).unwrap();
        secrets.look().unwrap();
    }
    assert!(tags.iter().all(|tag| verifies(&secrets, tag.as_ref(), NOW)));
    let error = Secrets::rotate(path, Duration::from_secs(60), NOW).unwrap_err();
    assert!(matches!(error, SecretError::TooManyEarlier));
}

#[test]
fn a_configured_secret_has_one_before_it_and_can_be_changed() {
    let secret = |digit: &str| JwtSecret::new(&format!("9f86d081884c7d659a2feaa0c55ad015{digit}")).unwrap();
    let first = Secrets::configured(&secret("a"), None);
    let tag = first.ring().sign(b"m");
    let second = Secrets::configured(&secret("b"), Some(&secret("a")));
    assert!(verifies(&second, tag.as_ref(), NOW));
    second.reconfigure(&secret("b"), None);
    assert!(!verifies(&second, tag.as_ref(), NOW));
    second.look().unwrap();
}
