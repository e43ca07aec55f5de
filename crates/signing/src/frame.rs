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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_specification() {
        let session = SessionId::new("s-1").unwrap();
        let bytes = signed_bytes(&[0xab; 32], &session, 7, "{\"type\":\"prompt\"}");
        let expected = format!("llm-node/v1/message\0{}\0s-1\x007\0{{\"type\":\"prompt\"}}", "ab".repeat(32));
        assert_eq!(bytes, expected.as_bytes());
    }

    fn frames() -> impl Strategy<Value = ([u8; 32], String, u64, String)> {
        // NULs and digits where they could be taken for another part.
        ("[0-9]{0,3}", any::<u64>(), "[0-9\0a]{0,4}")
            .prop_map(|(id, seq, payload)| ([0; 32], format!("s{id}"), seq, payload))
    }

    proptest! {
        #[test]
        fn two_frames_never_have_the_same_bytes(one in frames(), other in frames()) {
            let bytes = |(nonce, session, seq, payload): &([u8; 32], String, u64, String)| {
                signed_bytes(nonce, &SessionId::new(session.as_str()).unwrap(), *seq, payload)
            };
            prop_assert_eq!(one == other, bytes(&one) == bytes(&other));
        }
    }
}
