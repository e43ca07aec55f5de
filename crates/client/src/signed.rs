//! Signed messages: what a client with a key sends in place of plain ones.

use std::sync::Arc;

use futures_util::StreamExt as _;
use protocol::SessionId;
use serde::{Deserialize, Serialize};
use signing::{Signer, frame};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::{connect::Socket, driver::REPLY_TIMEOUT, error::ClientError};

/// Signs the messages of one connection.
pub(crate) struct Signing {
    signer: Arc<dyn Signer>,
    key_id: String,
    nonce: [u8; frame::NONCE_BYTES],
    seq: u64,
}

/// The node's first frame, as far as signatures are concerned.
#[derive(Deserialize)]
struct Connected {
    r#type: String,
    #[serde(default)]
    nonce: String,
}

#[derive(Serialize)]
struct Signed<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    session_id: &'a str,
    seq: u64,
    payload: &'a str,
    signature: String,
    key_id: &'a str,
}

impl Signing {
    /// Waits for the nonce that the node gives to this connection.
    ///
    /// # Errors
    /// [`ClientError::Protocol`] from a node that gives none.
    pub(crate) async fn begin(socket: &mut Socket, signer: Arc<dyn Signer>) -> Result<Self, ClientError> {
        let no_nonce = || ClientError::Protocol("it gave no nonce to sign: it takes no signed messages".into());
        let first = async {
            loop {
                match socket.next().await {
                    Some(Ok(Frame::Text(text))) => return Ok(text),
                    Some(Ok(Frame::Ping(_) | Frame::Pong(_))) => {}
                    _ => return Err(ClientError::Closed { code: None, reason: String::new() }),
                }
            }
        };
        let first = tokio::time::timeout(REPLY_TIMEOUT, first)
            .await
            .map_err(|_| ClientError::Timeout { what: "the connection", after: REPLY_TIMEOUT })??;
        let connected: Connected = serde_json::from_str(&first).map_err(|_| no_nonce())?;
        let mut nonce = [0; frame::NONCE_BYTES];
        if connected.r#type != "connected" || hex::decode_to_slice(&connected.nonce, &mut nonce).is_err() {
            return Err(no_nonce());
        }
        Ok(Self { key_id: signer.public_key().to_hex(), signer, nonce, seq: 0 })
    }

    /// A message about `session` in its signed envelope.
    ///
    /// # Errors
    /// [`ClientError::Sign`].
    pub(crate) fn seal(&mut self, id: Option<&str>, session: &str, payload: &str) -> Result<String, ClientError> {
        let session_id = SessionId::new(session).map_err(|error| ClientError::Sign(format!("a session id {error}")))?;
        self.seq += 1;
        let bytes = frame::signed_bytes(&self.nonce, &session_id, self.seq, payload);
        let signature = self.signer.sign(&bytes).map_err(|error| ClientError::Sign(error.to_string()))?;
        let signed = Signed {
            r#type: "signed",
            id,
            session_id: session,
            seq: self.seq,
            payload,
            signature: signature.to_string(),
            key_id: &self.key_id,
        };
        Ok(serde_json::to_string(&signed).expect("strings and numbers are always JSON"))
    }
}

#[cfg(test)]
mod tests;
