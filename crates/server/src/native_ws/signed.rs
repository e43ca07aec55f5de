//! Signed messages of one connection: its nonce and the order of its sequence numbers.

use protocol::native::SignedMessage;
use signing::{Signature, frame};

use crate::{
    pipeline::Authenticated,
    signatures::{Proof, Refusal, Signatures, Statement},
};

/// Sequence numbers below the highest of which it is known whether they were used.
const WINDOW: u64 = 64;

/// What makes a signature of this connection worthless on any other, and on this one a second time.
#[derive(Debug)]
pub(super) struct SignedFrames {
    nonce: [u8; frame::NONCE_BYTES],
    used: Used,
}

impl SignedFrames {
    /// A fresh nonce.
    pub(super) fn new() -> Self {
        Self { nonce: rand::random(), used: Used::default() }
    }

    /// The nonce as clients sign it.
    pub(super) fn nonce(&self) -> String {
        hex::encode(self.nonce)
    }

    /// Verifies a message. Its sequence number is used up only when the signature is good: a stranger who writes into
    /// the connection cannot use up the client's.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(super) async fn verify(
        &mut self,
        signatures: &Signatures,
        who: &Authenticated,
        message: &SignedMessage,
    ) -> Result<Proof, Refusal> {
        let statement = statement(&self.nonce, message)?;
        let key = signatures.key(who, message.key_id.as_deref()).await?;
        let proof = signatures.verify(who, key, statement).await?;
        self.used.take(message.seq)?;
        Ok(proof)
    }
}

/// What a message says that its signature covers.
fn statement(nonce: &[u8; frame::NONCE_BYTES], message: &SignedMessage) -> Result<Statement, Refusal> {
    let SignedMessage { session_id, seq, payload, signature, key_id: _ } = message;
    let signature = Signature::from_hex(signature).map_err(|_| Refusal::Hex)?;
    Ok(Statement::Message { bytes: frame::signed_bytes(nonce, session_id, *seq, payload), signature })
}

/// Which sequence numbers were used.
#[derive(Debug, Default, Clone, Copy)]
struct Used {
    highest: Option<u64>,
    /// Bit `n`: `highest - n` was used.
    recent: u64,
}

impl Used {
    /// Uses a number, which must be above all before it.
    fn take(&mut self, seq: u64) -> Result<(), Refusal> {
        match self.highest {
            Some(highest) if seq <= highest => {
                let age = highest - seq;
                // What is older than the window may be either; it is a replay as far as anybody can tell.
                let seen = age >= WINDOW || self.recent >> age & 1 == 1;
                Err(if seen { Refusal::Replayed } else { Refusal::OutOfOrder })
            }
            before => {
                let step = before.map_or(WINDOW, |highest| seq - highest);
                self.recent = if step >= WINDOW { 1 } else { self.recent << step | 1 };
                self.highest = Some(seq);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::{
        SessionId,
        native::{self, ClientMessage, Envelope},
    };
    use serde_json::json;
    use signing::{PublicKey, SecretKey, Signer as _};

    use super::*;

    #[test]
    fn numbers_rise_and_each_is_used_once() {
        let check = |numbers: &[u64], expected: Result<(), Refusal>| {
            let (last, before) = numbers.split_last().expect("one");
            let mut used = Used::default();
            before.iter().for_each(|number| used.take(*number).expect("rises"));
            assert_eq!(used.take(*last), expected, "{numbers:?}");
        };
        check(&[1, 1], Err(Refusal::Replayed));
        check(&[0, 0], Err(Refusal::Replayed));
        check(&[1, 2, 3, 1], Err(Refusal::Replayed));
        check(&[1, 3, 2], Err(Refusal::OutOfOrder));
        check(&[7, 6], Err(Refusal::OutOfOrder));
        check(&[1, 64, 2], Err(Refusal::OutOfOrder));
        check(&[1, 64, 1], Err(Refusal::Replayed));
        check(&[1, 65, 1], Err(Refusal::Replayed));
        check(&[1, 1000, 2], Err(Refusal::Replayed));
        check(&[u64::MAX, 0], Err(Refusal::Replayed));
        check(&[u64::MAX, u64::MAX], Err(Refusal::Replayed));
        check(&[0], Ok(()));
        check(&[u64::MAX], Ok(()));
        check(&[0, u64::MAX], Ok(()));
        check(&[1, 2, 100, 101], Ok(()));
    }

    /// docs/protocol.md's example, made by another implementation.
    #[test]
    fn the_documented_example_holds() {
        let (mut nonce, payload) = ([0; 32], r#"{"type":"session_end","session_id":"s"}"#);
        nonce[31] = 0xff;
        let signature = "56dc2b67774c5b4c5d12318196c800136205a23043dc43a2dadd209347aa72ca\
                         fa21ccb297c6fb2f10a84e56ab0da4e34050a525e7016771e0124435d15bdd0f";
        let text = json!({"type": "signed", "session_id": "s", "seq": 1, "payload": payload, "signature": signature});
        let hex = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";
        let key = PublicKey::from_hex(hex).expect("a key");
        assert_eq!(verify(&key, &nonce, &text.to_string()), Some(Ok(())));
        assert_eq!(key.thumbprint(), "UDDReOZl1ipXAfp9wYsm13sDBMK5og--QWdBjzuf6o4");
    }

    /// A frame as a client sends it, signed for this nonce.
    fn sealed(secret: &SecretKey, nonce: &[u8; 32], session: &str, seq: u64, payload: &str) -> String {
        let bytes = frame::signed_bytes(nonce, &SessionId::new(session).expect("an id"), seq, payload);
        let signature = secret.sign(&bytes).expect("signs").to_string();
        json!({"type": "signed", "session_id": session, "seq": seq, "payload": payload, "signature": signature})
            .to_string()
    }

    fn verify(key: &PublicKey, nonce: &[u8; 32], text: &str) -> Option<Result<(), Refusal>> {
        let Ok(Envelope { message: ClientMessage::Signed(signed), .. }) = native::parse(text) else { return None };
        Some(statement(nonce, &signed).and_then(|statement| statement.verify(key)))
    }

    proptest! {
        /// A changed byte makes another frame, which is refused, or is none at all, or says the same (a digit of the
        /// signature in the other case, a member that nobody reads).
        #[test]
        fn an_altered_frame_is_refused(
            seed: [u8; 32], nonce: [u8; 32], session in "[a-z0-9]{1,8}", seq: u64, payload in ".{0,60}",
            place: prop::sample::Index, change in 1_u8..=255,
        ) {
            let secret = SecretKey::from_seed(&seed).expect("a key");
            let key = secret.public_key();
            let text = sealed(&secret, &nonce, &session, seq, &payload);
            prop_assert_eq!(verify(&key, &nonce, &text), Some(Ok(())));
            let mut altered = text.clone().into_bytes();
            altered[place.index(text.len())] ^= change;
            let Ok(altered) = String::from_utf8(altered) else { return Ok(()) };
            if verify(&key, &nonce, &altered) == Some(Ok(())) {
                let read = |text: &str| {
                    let parsed = native::parse(text).expect("it was read before").message;
                    let ClientMessage::Signed(signed) = parsed else { panic!("it was signed before") };
                    (signed.session_id, signed.seq, signed.payload, signed.signature.to_ascii_lowercase())
                };
                prop_assert_eq!(read(&altered), read(&text));
            }
        }

        /// Another connection, another key.
        #[test]
        fn a_frame_is_good_for_one_nonce_and_one_key(seed: [u8; 32], nonce: [u8; 32], bit in 0_usize..256) {
            let secret = SecretKey::from_seed(&seed).expect("a key");
            let text = sealed(&secret, &nonce, "s", 1, "{}");
            let (mut other_nonce, mut other_seed) = (nonce, seed);
            other_nonce[bit / 8] ^= 1 << (bit % 8);
            other_seed[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(verify(&secret.public_key(), &other_nonce, &text), Some(Err(Refusal::Invalid)));
            let other = SecretKey::from_seed(&other_seed).expect("a key").public_key();
            prop_assert_eq!(verify(&other, &nonce, &text), Some(Err(Refusal::Invalid)));
        }

        /// Against the plain definition: above all before it.
        #[test]
        fn any_numbers(numbers in prop::collection::vec(0_u64..200, 0..60)) {
            let (mut used, mut taken) = (Used::default(), Vec::new());
            for number in numbers {
                let rises = taken.last().is_none_or(|last| *last < number);
                let result = used.take(number);
                prop_assert_eq!(result.is_ok(), rises);
                if result == Err(Refusal::OutOfOrder) {
                    prop_assert!(!taken.contains(&number));
                }
                if rises {
                    taken.push(number);
                }
            }
        }
    }
}
