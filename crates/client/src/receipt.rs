//! Receipts: what the node signs about an answer, and how to check it without asking the node.
//!
//! [`AnswerEnd::receipt`](crate::AnswerEnd::receipt) has the receipt of an answer, with the hashes of what this client
//! really sent and received. Only [`AnswerReceipt::verify`] gives a [`Receipt`] that can be believed. Keep
//! [`AnswerReceipt::json`]: with the node's JWKS, which may be fetched at any time, it proves the answer for ever.
//!
//! ```no_run
//! # fn example(end: client::AnswerEnd, jwks: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let keys: client::receipt::JwkSet = serde_json::from_slice(jwks)?; // from /.well-known/jwks.json
//! let receipt = end.receipt.ok_or("the node sent no receipt")?.verify(&keys)?;
//! assert_eq!(receipt.output_tokens, end.usage.completion_tokens);
//! # Ok(())
//! # }
//! ```

pub use protocol::receipt::{Digest, Receipt};
use serde_json::Value;
pub use signing::{
    JwkSet,
    receipt::{Chain, ChainError, OutputHash, ReceiptError, check_chains, check_output, check_request, digest, verify},
};

/// The receipt of an answer as the node sent it, beside what really went over the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerReceipt {
    document: Value,
    sent: Digest,
    received: Digest,
}

impl AnswerReceipt {
    pub(crate) fn new(document: Value, sent: Digest, received: Digest) -> Self {
        Self { document, sent, received }
    }

    /// Its JSON, to keep.
    #[must_use]
    pub fn json(&self) -> String {
        self.document.to_string()
    }

    /// Verifies the signature by the node's keys, and that it is about what was sent and received here.
    ///
    /// # Errors
    /// [`ReceiptError`]: what is wrong with it.
    pub fn verify(&self, keys: &JwkSet) -> Result<Receipt, ReceiptError> {
        let receipt = verify(self.json().as_bytes(), keys)?;
        let (expected, found, line_break) = (receipt.output_hash, self.received, false);
        if expected != found {
            return Err(ReceiptError::Output { expected, found, line_break });
        }
        let (expected, found) = (receipt.request_hash, self.sent);
        if expected != found {
            return Err(ReceiptError::Request { expected, found, line_break });
        }
        Ok(receipt)
    }
}
