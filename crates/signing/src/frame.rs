//! What a client signs of a frame on the native socket (`{"type":"signed", …}`, docs/protocol.md).

use protocol::SessionId;

/// The purpose, first in the signed bytes.
const DOMAIN: &str = "llm-node/v1/message";
/// Bytes of the nonce in the node's `connected` frame.
pub const NONCE_BYTES: usize = 32;

/// The bytes under the signature: the purpose, the connection's nonce (64 lowercase hexadecimal digits), the session,
/// `seq` in decimal and the payload exactly as sent, with NUL between them.
///
/// The nonce ties them to one connection and `seq` to one place in it. No part but the last can hold a NUL, so two
/// different frames never have the same bytes.
#[must_use]
pub fn signed_bytes(nonce: &[u8; NONCE_BYTES], session_id: &SessionId, seq: u64, payload: &str) -> Vec<u8> {
    let (nonce, seq) = (hex::encode(nonce), seq.to_string());
    [DOMAIN, &nonce, session_id.as_str(), &seq, payload].join("\0").into_bytes()
}
