//! Stage 2: the message is the speaker's own where it must be signed, well-formed, allowed to this speaker, and for a
//! model that is served.

use auth::Permission;
use engine::{ServedModel, ServedModels};
use protocol::ApiError;

use super::{Authenticated, Request, permissions::Access};
use crate::signatures::{Proof, Refusal, SignatureMode, Why};

/// Proof that the request is one that this speaker may make, whatever it costs.
#[derive(Debug)]
pub struct Verified {
    pub(super) who: Authenticated,
    pub(super) request: Request,
    pub(super) model: ServedModel,
}

pub(super) fn verify(
    who: &Authenticated,
    mut request: Request,
    models: &ServedModels,
    mode: SignatureMode,
) -> Result<Verified, ApiError> {
    who.still_valid()?;
    // Whatever a transport's row in the table says: nothing generates without it.
    who.require(Access::Right(Permission::Execute))?;
    if signed_by(who, request.received.proof.as_ref(), mode)?.is_none() {
        request.received.proof = None;
    }
    request.inference.validate()?;
    let model = models.require(&request.inference.model)?;
    request.inference.model = model.name.clone();
    Ok(Verified { who: who.clone(), request, model: model.clone() })
}

/// Whether a message of `who` may do without a signature, or has the right one. The proof that it gives back is one of
/// this speaker, by the key that the token is bound to if it is.
pub(super) fn signed_by<'a>(
    who: &Authenticated,
    proof: Option<&'a Proof>,
    mode: SignatureMode,
) -> Result<Option<&'a Proof>, Refusal> {
    let required = match (who.bound_key(), mode) {
        (Some(_), _) => Some(Why::Bound),
        (None, SignatureMode::Required) => Some(Why::Node),
        (None, SignatureMode::Off | SignatureMode::Optional) => None,
    };
    match (proof, required) {
        // Whoever verifies asks for keys of the same speaker; what is another's counts as nothing.
        (Some(proof), _)
            if proof.subject() == who.subject() && who.bound_key().is_none_or(|bound| bound == proof.thumbprint()) =>
        {
            Ok(Some(proof))
        }
        (_, Some(why)) => Err(Refusal::Missing(why)),
        (_, None) => Ok(None),
    }
}
