//! What the check of a token costs: `cargo bench -p bench --bench token`. The target for HS256 is 5 µs at the median.

use std::{hint::black_box, sync::Arc, time::Duration};

use auth::{
    Grant, JwtSecret, KeyVerdict, NodeKeys, Permission, Permissions, Revocations, Secrets, TokenAlgorithm, TokenConfig,
    TokenService,
};
use criterion::{Criterion, criterion_group, criterion_main};
use futures_util::FutureExt as _;
use protocol::{JobId, Subject};
use signing::{SecretKey, Signature, Signer};

/// One key, as a node has it.
struct Key(Arc<SecretKey>);

impl NodeKeys for Key {
    fn active(&self) -> Result<(String, Arc<dyn Signer>), String> {
        Ok((self.0.public_key().thumbprint(), Arc::clone(&self.0) as Arc<dyn Signer>))
    }

    fn verify(&self, _kid: &str, message: &[u8], signature: &Signature) -> KeyVerdict {
        match self.0.public_key().verify(message, signature) {
            Ok(()) => KeyVerdict::Valid,
            Err(_) => KeyVerdict::Invalid,
        }
    }
}

fn service() -> TokenService {
    let secret =
        JwtSecret::new("3b1f2b0b822cd15d6c15b0f00a089f86d081884c7d659a2feaa0c55ad015a3bf").expect("long enough");
    let key = SecretKey::from_seed(&[7; 32]).expect("every seed is a key");
    TokenService::new(Secrets::configured(&secret, None), TokenConfig::default())
        .with_keys(Arc::new(Key(Arc::new(key))))
}

/// With a thousand revocations in force: a list that is not empty must not cost more.
fn revoking(service: TokenService) -> (tempfile::TempDir, TokenService) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = store::Store::open(&folder.path().join("node.sqlite")).expect("a store");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let list = runtime.block_on(async {
        let list = Revocations::open(store).await.expect("a list");
        for number in 0..1000 {
            list.revoke_token(&format!("jti-{number}"), None).await.expect("it revokes");
        }
        list
    });
    (folder, service.with_revocations(list))
}

fn token(criterion: &mut Criterion) {
    let (_folder, service) = revoking(service());
    let grant = Grant {
        subject: Subject::new("alice").expect("an id"),
        job: Some(JobId::new("7").expect("an id")),
        session: None,
        permissions: Permissions::of([Permission::Read, Permission::Execute]),
        lifetime: Some(Duration::from_secs(24 * 3600)),
        bound_key: Some("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".to_owned()),
    };
    for algorithm in [TokenAlgorithm::Hs256, TokenAlgorithm::Ed25519] {
        let token = service.issue_signed_by(&grant, algorithm).expect("a token").token;
        let name = algorithm.as_str();
        criterion.bench_function(&format!("token/check/{name}"), |bencher| {
            bencher
                .iter(|| service.verify(black_box(&token)).now_or_never().expect("nothing to wait for").expect("good"));
        });
        criterion.bench_function(&format!("token/issue/{name}"), |bencher| {
            bencher.iter(|| service.issue_signed_by(black_box(&grant), algorithm).expect("a token"));
        });
        // Another character in the middle of the signature: all of it is looked at.
        let (head, tail) = token.split_at(token.len() - 20);
        let other = if tail.starts_with('A') { "B" } else { "A" };
        let forged = format!("{head}{other}{}", &tail[1..]);
        criterion.bench_function(&format!("token/refuse/{name}"), |bencher| {
            bencher.iter(|| {
                service.verify(black_box(&forged)).now_or_never().expect("nothing to wait for").expect_err("bad")
            });
        });
    }
}

criterion_group!(benches, token);
criterion_main!(benches);
