//! What signatures cost through the node's own code: `cargo bench -p bench --bench signing`. Targets for 512 bytes, per
//! core: 100,000 a second signed (10 µs), 30,000 a second verified (33 µs).

use std::hint::black_box;

use auth::{
    KeyVerdict, NodeKeys,
    keys::{KeyMetrics, Keyring, KeysConfig, Origin},
};
use criterion::{Criterion, criterion_group, criterion_main};
use protocol::SessionId;
use signing::{SecretKey, Signer, frame};

const MESSAGE: [u8; 512] = [0x5a; 512];

/// The bare crate: a strict verification includes the look at the commitment's order.
fn ed25519(criterion: &mut Criterion) {
    let secret = SecretKey::from_seed(&[7; 32]).expect("every seed is a key");
    let public = secret.public_key();
    let signature = secret.sign(&MESSAGE).expect("a key in memory signs");
    let mut group = criterion.benchmark_group("ed25519 512 B");
    group.bench_function("sign", |bencher| bencher.iter(|| secret.sign(black_box(&MESSAGE))));
    group
        .bench_function("verify", |bencher| bencher.iter(|| public.verify(black_box(&MESSAGE), black_box(&signature))));
    group.bench_function("read a public key", |bencher| {
        bencher.iter(|| signing::PublicKey::from_bytes(black_box(public.as_bytes())));
    });
    group.finish();
}

/// As the node signs receipts and verifies tokens: with the counters, and the look at the key's state.
fn keyring(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = KeysConfig { dir: folder.path().to_owned(), passphrase: None, pkcs11: None };
    let (keyring, _) = Keyring::open(&config, Origin::File, KeyMetrics::default()).expect("a keyring");
    let (kid, signature) = keyring.sign(&MESSAGE).expect("a key in memory signs");
    assert_eq!(keyring.verify(&kid, &MESSAGE, &signature), KeyVerdict::Valid);
    let mut group = criterion.benchmark_group("keyring 512 B");
    group.bench_function("sign", |bencher| bencher.iter(|| keyring.sign(black_box(&MESSAGE))));
    group.bench_function("verify", |bencher| {
        bencher.iter(|| keyring.verify(&kid, black_box(&MESSAGE), black_box(&signature)));
    });
    group.finish();
}

/// A frame of a client: its bytes are put together, then verified.
fn signed_frame(criterion: &mut Criterion) {
    let secret = SecretKey::from_seed(&[9; 32]).expect("every seed is a key");
    let session = SessionId::new("s1").expect("an id");
    let payload = "x".repeat(512);
    let bytes = || frame::signed_bytes(&[1; 32], &session, 7, black_box(&payload));
    let (public, signature) = (secret.public_key(), secret.sign(&bytes()).expect("a key in memory signs"));
    criterion.bench_function("frame 512 B/verify", |bencher| bencher.iter(|| public.verify(&bytes(), &signature)));
}

criterion_group!(benches, ed25519, keyring, signed_frame);
criterion_main!(benches);
