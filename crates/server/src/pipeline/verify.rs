//! Stage 2: the message is well-formed, allowed to this speaker, and for a model that is served.

use auth::Permission;
use engine::{ServedModel, ServedModels};
use protocol::{ApiError, ErrorCode};

use super::{Authenticated, Request};

/// Proof that the request is one that this speaker may make, whatever it costs.
#[derive(Debug)]
pub struct Verified {
    pub(super) who: Authenticated,
    pub(super) request: Request,
    pub(super) model: ServedModel,
}

pub(super) fn verify(who: &Authenticated, mut request: Request, models: &ServedModels) -> Result<Verified, ApiError> {
    who.still_valid()?;
    if !who.can(Permission::Execute) {
        return Err(ApiError::new(
            ErrorCode::PermissionDenied,
            "The token does not allow generation. Ask for one with the permission `execute`.",
        ));
    }
    request.inference.validate()?;
    let model = models.require(&request.inference.model)?;
    request.inference.model = model.name.clone();
    Ok(Verified { who: who.clone(), request, model: model.clone() })
}
