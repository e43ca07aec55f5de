//! What becomes of an answer's receipt: drafted when the request is admitted, filled in while the answer is delivered,
//! signed inside the transaction that settles it.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use jobs::{ChainLink, MakeReceipt};
use protocol::{
    JobId, ReceiptId, RequestId, SessionId, Subject,
    inference::{Delta, FinishReason, Usage},
    receipt::{Digest, Ending, Receipt, SignedReceipt, VERSION},
};
use signing::{Signer, receipt::OutputHash};
use uuid::Uuid;

/// Gives the key that signs now, and its name.
type ActiveKey = dyn Fn() -> (String, Arc<dyn Signer>) + Send + Sync;

/// Signs the node's receipts.
#[derive(Clone)]
pub struct ReceiptSigner {
    node_id: Arc<str>,
    active: Arc<ActiveKey>,
}

impl ReceiptSigner {
    /// Signs as the node `node_id`, by the key that `active` gives at that moment.
    #[must_use]
    pub fn new(node_id: &str, active: impl Fn() -> (String, Arc<dyn Signer>) + Send + Sync + 'static) -> Self {
        Self { node_id: node_id.into(), active: Arc::new(active) }
    }

    fn sign(&self, receipt: Receipt) -> Option<Arc<SignedReceipt>> {
        let (key_id, signer) = (self.active)();
        match signing::receipt::sign(receipt, key_id.clone(), &*signer) {
            Ok(signed) => Some(Arc::new(signed)),
            Err(error) => {
                // The key ring counts the failure.
                tracing::error!(%error, key_id, "an answer gets no receipt: the node's key cannot sign");
                None
            }
        }
    }
}

impl fmt::Debug for ReceiptSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiptSigner").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}

/// A fresh receipt id: time-ordered, so that the database adds at its end (RFC 9562 UUIDv7).
pub(super) fn fresh_id() -> ReceiptId {
    ReceiptId::new(format!("rcpt_{}", Uuid::now_v7().simple())).expect("a prefix and hex digits are a valid id")
}

/// A receipt of an answer that runs.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) signer: ReceiptSigner,
    pub(super) receipt_id: ReceiptId,
    pub(super) request_id: RequestId,
    pub(super) session: Option<SessionId>,
    pub(super) job: JobId,
    pub(super) subject: Subject,
    pub(super) model: String,
    pub(super) model_digest: Option<Digest>,
    pub(super) endpoint: &'static str,
    pub(super) request_hash: Digest,
    pub(super) started: SystemTime,
    pub(super) output: OutputHash,
    /// The model has begun: a failure before that is a refusal, which has no receipt.
    pub(super) begun: bool,
}

impl Draft {
    /// The hash of the output once `delta` is delivered too.
    pub(super) fn output_with(&self, delta: &Delta) -> OutputHash {
        let mut output = self.output.clone();
        output.push(&delta.reasoning);
        output.push(&delta.text);
        output
    }

    /// What makes the receipt of an answer that ended so; `None` where none is due.
    pub(super) fn finish(self, end: Result<FinishReason, ()>, usage: &Usage) -> Option<MakeReceipt> {
        let ending = match end {
            Ok(FinishReason::Stop) => Ending::Stop,
            Ok(FinishReason::Length) => Ending::Length,
            Ok(FinishReason::Cancelled) => Ending::Cancelled,
            Err(()) if self.begun => Ending::Error,
            Err(()) => return None,
        };
        let (started_at, input_tokens) = (unix_ms(self.started), usage.prompt_tokens);
        // A clock that was set back while it ran must not make an answer end before it began.
        let finished_at = unix_ms(SystemTime::now()).max(started_at);
        let signer = self.signer;
        let receipt = Receipt {
            version: VERSION,
            receipt_id: self.receipt_id,
            request_id: self.request_id,
            node_id: (*signer.node_id).to_owned(),
            session_id: self.session,
            job_id: self.job,
            subject: self.subject,
            model: self.model,
            model_digest: self.model_digest,
            endpoint: self.endpoint.to_owned(),
            request_hash: self.request_hash,
            output_hash: self.output.finish(),
            input_tokens,
            output_tokens: 0,
            finish_reason: ending,
            started_at,
            finished_at,
            sequence: 0,
            previous: None,
            key_id: String::new(),
            signature: String::new(),
        };
        Some(MakeReceipt::new(move |ChainLink { sequence, previous, charged_tokens }| {
            signer.sign(Receipt { sequence, previous, output_tokens: charged_tokens, ..receipt.clone() })
        }))
    }
}

/// Milliseconds since 1970; a clock before that reads as 1970.
fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use signing::{Jwk, JwkSet, SecretKey, SignError, Signature, receipt};

    use super::*;

    fn draft(signer: ReceiptSigner) -> Draft {
        Draft {
            signer,
            receipt_id: fresh_id(),
            request_id: RequestId::new("r").expect("an id"),
            session: None,
            job: JobId::new("7").expect("an id"),
            subject: Subject::new("alice").expect("an id"),
            model: "m".into(),
            model_digest: None,
            endpoint: "native_ws",
            request_hash: receipt::digest(b"question"),
            started: UNIX_EPOCH + std::time::Duration::from_millis(1_795_000_000_123),
            output: OutputHash::default(),
            begun: false,
        }
    }

    fn signer(secret: SecretKey) -> (ReceiptSigner, JwkSet) {
        let (public, secret) = (secret.public_key(), Arc::new(secret));
        let jwk = Jwk { kid: Some(public.thumbprint()), ..public.to_jwk() };
        let signer = ReceiptSigner::new("node", move || (public.thumbprint(), Arc::clone(&secret) as Arc<dyn Signer>));
        (signer, JwkSet { keys: vec![jwk] })
    }

    #[test]
    fn a_failure_before_the_model_began_has_no_receipt() {
        let (signer, _) = signer(SecretKey::from_seed(&[1; 32]).expect("a key"));
        assert!(draft(signer.clone()).finish(Err(()), &Usage::default()).is_none());
        let begun = Draft { begun: true, ..draft(signer.clone()) };
        assert!(begun.finish(Err(()), &Usage::default()).is_some());
        assert!(draft(signer).finish(Ok(FinishReason::Cancelled), &Usage::default()).is_some());
    }

    #[test]
    fn the_receipt_says_what_was_delivered_and_charged() {
        let (signer, keys) = signer(SecretKey::from_seed(&[1; 32]).expect("a key"));
        let mut draft = draft(signer);
        let first = Delta { reasoning: "hm ".into(), text: "yes".into(), ..Delta::default() };
        draft.output = draft.output_with(&first);
        let _not_delivered = draft.output_with(&Delta { text: "lost".into(), ..Delta::default() });
        let usage = Usage { prompt_tokens: 3, completion_tokens: 99, ..Usage::default() };
        let make = draft.finish(Ok(FinishReason::Length), &usage).expect("a receipt is due");
        let previous = Some(receipt::digest(b"the one before"));
        let signed = make.make(ChainLink { sequence: 5, previous, charged_tokens: 8 }).expect("it can sign");
        let receipt = receipt::verify(signed.json().as_bytes(), &keys).expect("it verifies");
        receipt::check_output(&receipt, b"hm yes").expect("the delivered text");
        receipt::check_request(&receipt, b"question").expect("the request");
        assert_eq!((receipt.input_tokens, receipt.output_tokens), (3, 8), "what the store charged");
        assert_eq!((receipt.sequence, receipt.previous, receipt.finish_reason), (5, previous, Ending::Length));
        assert!(receipt.started_at == 1_795_000_000_123 && receipt.finished_at >= receipt.started_at);
    }

    #[test]
    fn a_key_that_fails_makes_no_receipt() {
        struct Broken(SecretKey);
        impl Signer for Broken {
            fn public_key(&self) -> signing::PublicKey {
                self.0.public_key()
            }
            fn sign(&self, _: &[u8]) -> Result<Signature, SignError> {
                Err(SignError("the token was removed".into()))
            }
        }
        let broken: Arc<dyn Signer> = Arc::new(Broken(SecretKey::from_seed(&[1; 32]).expect("a key")));
        let signer = ReceiptSigner::new("node", move || ("k".into(), Arc::clone(&broken)));
        let make = draft(signer).finish(Ok(FinishReason::Stop), &Usage::default()).expect("a receipt is due");
        assert!(make.make(ChainLink { sequence: 1, previous: None, charged_tokens: 0 }).is_none());
    }
}
