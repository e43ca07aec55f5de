//! Key statements: a node's key says which key comes after it, so that whoever knows the node's first key (its `node_id`
//! is that key's thumbprint) can follow to the one that signs today, without trusting the way that they came.

use serde::{Deserialize, Serialize};

use crate::{BadSignature, JwkSet, PublicKey, SignError, Signature, Signer, canonical};

/// The purpose, first in the signed bytes; NUL and the canonical JSON without `signature` follow.
const DOMAIN: &[u8] = b"llm-node/v1/key-statement\0";
/// Most statements that are read. Each key but the first has one.
pub const STATEMENTS_MAX: usize = crate::jwk::JWKS_KEYS_MAX;

/// "The key `key` is mine too", signed by another key of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyStatement {
    /// The node: the thumbprint of its first key.
    pub node_id: String,
    /// The new key's name.
    pub key_id: String,
    /// The new key.
    pub public_key: PublicKey,
    /// The name of the key that signed this.
    pub signed_by: String,
    /// When, in seconds since 1970.
    pub issued_at: u64,
    /// By that key.
    pub signature: Signature,
}

/// The statement without what signs it.
#[derive(Serialize)]
struct Unsigned<'a> {
    node_id: &'a str,
    key_id: &'a str,
    public_key: PublicKey,
    signed_by: &'a str,
    issued_at: u64,
}

impl Unsigned<'_> {
    fn bytes(&self) -> Vec<u8> {
        let json = canonical::to_vec(self).expect("text and a whole number are always canonical JSON");
        [DOMAIN, &json].concat()
    }
}

impl KeyStatement {
    /// `signer`, a key of the node `node_id`, vouches for `key`.
    ///
    /// # Errors
    /// [`SignError`] when the signer fails.
    pub fn sign(node_id: &str, key: PublicKey, issued_at: u64, signer: &dyn Signer) -> Result<Self, SignError> {
        let (key_id, signed_by) = (key.thumbprint(), signer.public_key().thumbprint());
        let unsigned = Unsigned { node_id, key_id: &key_id, public_key: key, signed_by: &signed_by, issued_at }.bytes();
        let signature = signer.sign(&unsigned)?;
        Ok(Self { node_id: node_id.to_owned(), key_id, public_key: key, signed_by, issued_at, signature })
    }

    /// Whether it is by `key`.
    ///
    /// # Errors
    /// [`BadSignature`], also when its names do not fit the keys.
    pub fn verify(&self, key: &PublicKey) -> Result<(), BadSignature> {
        if self.signed_by != key.thumbprint() || self.key_id != self.public_key.thumbprint() {
            return Err(BadSignature);
        }
        let Self { node_id, key_id, public_key, signed_by, issued_at, signature } = self;
        let unsigned = Unsigned { node_id, key_id, public_key: *public_key, signed_by, issued_at: *issued_at };
        key.verify(&unsigned.bytes(), signature)
    }
}

/// The keys of `set` that the node `node_id` stands for: its first key, and whatever keys statements lead to from there.
/// A set that somebody on the way changed loses the keys that were put into it.
#[must_use]
pub fn trusted_keys(node_id: &str, set: &JwkSet, statements: &[KeyStatement]) -> JwkSet {
    let candidates: Vec<_> = set
        .keys
        .iter()
        .filter_map(|jwk| jwk.public_key().ok().map(|key| (key.thumbprint(), key, jwk)))
        .filter(|(thumbprint, _, jwk)| jwk.kid.as_ref() == Some(thumbprint))
        .collect();
    let mut trusted: Vec<String> =
        candidates.iter().map(|(kid, ..)| kid).filter(|kid| *kid == node_id).cloned().collect();
    let mut next = 0;
    while next < trusted.len() {
        let by = trusted[next].clone();
        next += 1;
        let Some((_, signer, _)) = candidates.iter().find(|(kid, ..)| *kid == by) else { continue };
        for statement in statements.iter().take(STATEMENTS_MAX).filter(|statement| statement.signed_by == by) {
            let known = candidates.iter().any(|(kid, ..)| *kid == statement.key_id);
            if known
                && !trusted.contains(&statement.key_id)
                && statement.node_id == node_id
                && statement.verify(signer).is_ok()
            {
                trusted.push(statement.key_id.clone());
            }
        }
    }
    let keys = candidates.into_iter().filter(|(kid, ..)| trusted.contains(kid)).map(|(.., jwk)| jwk.clone());
    JwkSet { keys: keys.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn key(seed: u8) -> SecretKey {
        SecretKey::from_seed(&[seed; 32]).unwrap()
    }

    fn name(seed: u8) -> String {
        key(seed).public_key().thumbprint()
    }

    /// Key `by` says of key `of` that it is of the node whose first key is 1.
    fn statement(of: u8, by: u8) -> KeyStatement {
        KeyStatement::sign(&name(1), key(of).public_key(), 1_700_000_000, &key(by)).unwrap()
    }

    #[test]
    fn any_change_is_noticed() {
        let good = statement(2, 1);
        let check = |change: fn(&mut KeyStatement)| {
            let mut changed = good.clone();
            change(&mut changed);
            assert_eq!(changed.verify(&key(1).public_key()), Err(BadSignature), "{changed:?}");
        };
        check(|statement| statement.node_id = name(3));
        check(|statement| statement.key_id = name(3));
        check(|statement| statement.public_key = key(3).public_key());
        check(|statement| (statement.public_key, statement.key_id) = (key(3).public_key(), name(3)));
        check(|statement| statement.signed_by = name(3));
        check(|statement| statement.issued_at += 1);
        assert_eq!(good.verify(&key(3).public_key()), Err(BadSignature));
        assert_eq!(good.verify(&key(1).public_key()), Ok(()));
        let read: KeyStatement = serde_json::from_str(&serde_json::to_string(&good).unwrap()).unwrap();
        assert_eq!(read, good);
    }

    #[test]
    fn trust_follows_statements_from_the_first_key() {
        let set = |seeds: &[u8]| JwkSet { keys: seeds.iter().map(|seed| key(*seed).public_key().to_jwk()).collect() };
        let check = |keys: &[u8], statements: &[(u8, u8)], expected: &[u8]| {
            let statements: Vec<_> = statements.iter().map(|(of, by)| statement(*of, *by)).collect();
            assert_eq!(trusted_keys(&name(1), &set(keys), &statements), set(expected), "{keys:?}");
        };
        check(&[], &[], &[]);
        check(&[2, 3], &[(3, 2)], &[]);
        check(&[1, 2], &[], &[1]);
        check(&[1, 2], &[(2, 3)], &[1]);
        check(&[1, 2, 9], &[(2, 1), (9, 9)], &[1, 2]);
        check(&[1, 2, 3], &[(3, 2), (2, 1)], &[1, 2, 3]);
        // The key in between must be in the set: it is what verifies.
        check(&[1, 3], &[(3, 2), (2, 1)], &[1]);

        // Under another's name, and under the node's name with another node's statement.
        let mut renamed = set(&[1, 2]);
        renamed.keys[1].kid = Some(name(3));
        assert_eq!(trusted_keys(&name(1), &renamed, &[statement(2, 1), statement(3, 1)]), set(&[1]));
        let foreign = KeyStatement::sign("other", key(2).public_key(), 0, &key(1)).unwrap();
        assert_eq!(trusted_keys(&name(1), &set(&[1, 2]), &[foreign]), set(&[1]));
    }
}
