//! Signed envelopes: opened once their signature is verified.

use protocol::{
    ApiError, SessionId,
    native::{self, ClientMessage, Envelope, MessageId, Rejected, SignedMessage},
};

use super::Connection;
use crate::{
    pipeline::{Authenticated, Received},
    signatures::{Proof, Refusal, SignatureMode},
    ws::Gone,
};

/// The label `transport` in metrics.
const TRANSPORT: &str = "native_ws";

impl Connection {
    /// Verifies a signed message and does what it asks.
    pub(super) async fn receive_signed(&mut self, id: Option<MessageId>, signed: SignedMessage) -> Result<(), Gone> {
        // The payload is read before it is proven, only to name the request in a refusal, and for the token that may say
        // whose signature it is.
        let inner = native::parse(&signed.payload);
        let proof = match self.prove(&signed, &inner).await {
            Ok(proof) => proof,
            Err(error) => {
                let (inner_id, stream_promised) = match inner {
                    Ok(Envelope { id, message: ClientMessage::Prompt(prompt) }) => (id, prompt.stream),
                    Ok(Envelope { id, .. }) => (id, false),
                    Err(Rejected { id, stream_promised, .. }) => (id, stream_promised),
                };
                let session_id = Some(signed.session_id);
                return self.refuse(Rejected { id: id.or(inner_id), session_id, stream_promised, error }).await;
            }
        };
        match inner {
            Ok(Envelope { id, message }) => {
                let received = Received::new(signed.payload.as_bytes(), Some(proof));
                self.handle(Envelope { id, message: message.about(signed.session_id) }, received).await
            }
            Err(rejected) => self.refuse(Rejected { id: rejected.id.or(id), ..rejected }).await,
        }
    }

    async fn prove(&mut self, signed: &SignedMessage, inner: &Result<Envelope, Rejected>) -> Result<Proof, ApiError> {
        if !self.identity.is_proven()
            && let Some(token) = inner.as_ref().ok().and_then(|inner| inner.message.token())
        {
            // The token alone proves who it is; what the message asks still needs the signature.
            self.identity.take(&self.app, &token.0).await?;
        }
        let who = self.identity.known()?;
        let result = self.verify(&who, signed, inner).await;
        Ok(self.app.pipeline.signatures().counted(TRANSPORT, result)?)
    }

    async fn verify(
        &mut self,
        who: &Authenticated,
        signed: &SignedMessage,
        inner: &Result<Envelope, Rejected>,
    ) -> Result<Proof, Refusal> {
        if self.app.settings().signature_mode == SignatureMode::Off {
            return Err(Refusal::Off);
        }
        if let Ok(Envelope { message, .. }) = inner {
            check_inside(message, &signed.session_id)?;
        }
        self.signed.verify(self.app.pipeline.signatures(), who, signed).await
    }

    /// Refuses a message that had to be signed.
    pub(super) fn must_be_signed(&self, who: &Authenticated, received: &Received) -> Result<(), ApiError> {
        self.app.pipeline.require_signature(who, received.proof.as_ref(), TRANSPORT)
    }
}

/// The envelope's session is what is signed: a message in it may name no other, and no envelope of its own.
fn check_inside(message: &ClientMessage, session_id: &SessionId) -> Result<(), Refusal> {
    match message {
        ClientMessage::Signed(_) => Err(Refusal::Nested),
        message if message.session_id().is_some_and(|inner| inner != session_id) => Err(Refusal::OtherSession),
        _ => Ok(()),
    }
}
