//! The signed envelope: one message of a client with the signature that covers it.

use std::fmt;

use super::{
    fields::{Field, Fields},
    parse::required,
    scalar::Scalar,
};
use crate::{ApiError, SessionId};

/// A message in its signed envelope, as it came: nothing about it is proven.
///
/// The signature covers the connection's nonce, [`Self::session_id`], [`Self::seq`] and the bytes of
/// [`Self::payload`] (docs/protocol.md).
#[derive(Clone, PartialEq)]
pub struct SignedMessage {
    /// The session that the payload is about.
    pub session_id: SessionId,
    /// Rises with every signed message of a connection.
    pub seq: u64,
    /// The JSON text of the message itself.
    pub payload: String,
    /// The signature as the client wrote it.
    pub signature: String,
    /// Which key signed: its 64 hexadecimal digits or its RFC 7638 thumbprint. `None`: the speaker's only key.
    pub key_id: Option<String>,
}

impl fmt::Debug for SignedMessage {
    /// Never prints the payload: prompts do not reach logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedMessage")
            .field("session_id", &self.session_id)
            .field("seq", &self.seq)
            .field("payload_bytes", &self.payload.len())
            .finish_non_exhaustive()
    }
}

/// Reads the envelope's own members; `request`, which other messages may have, means nothing here.
pub(super) fn read(fields: &Fields) -> Result<SignedMessage, ApiError> {
    let text = |field: Field| Ok::<_, ApiError>(required(fields.own(field), field)?.text(field.name())?.to_owned());
    let session_id = match required(fields.own(Field::SessionId), Field::SessionId)? {
        Scalar::Number(number) => number.to_string(),
        scalar => scalar.text("session_id")?.to_owned(),
    };
    Ok(SignedMessage {
        session_id: SessionId::new(session_id)
            .map_err(|reason| ApiError::invalid("session_id", format!("session_id {reason}.")))?,
        seq: required(fields.own(Field::Seq), Field::Seq)?.unsigned("seq")?,
        payload: text(Field::Payload)?,
        signature: text(Field::Signature)?,
        key_id: fields.own(Field::KeyId).map(|key| key.text("key_id").map(str::to_owned)).transpose()?,
    })
}
