//! Stage 4: limits passed, budget reserved.

use jobs::Reservation;
use protocol::{ApiError, ReceiptId};

use super::{Authenticated, Parts, Request, entitle::Entitled, receipt};

/// Proof that the tokens are reserved. Dropping it gives them back.
#[derive(Debug)]
pub struct Admitted {
    pub(super) who: Authenticated,
    pub(super) request: Request,
    pub(super) model: engine::ServedModel,
    pub(super) job: protocol::JobId,
    pub(super) reservation: Reservation,
    /// Chosen now, so that the head of a streamed answer can name it.
    pub(super) receipt_id: ReceiptId,
}

pub(super) async fn admit(parts: &Parts, entitled: Entitled) -> Result<Admitted, ApiError> {
    let Entitled { who, request, model, job } = entitled;
    let wish = wish(&parts.settings.load(), &model, request.inference.max_tokens);
    let reservation = parts.jobs.reserve(&job, who.subject(), &request.id, wish).await?;
    Ok(Admitted { who, request, model, job, reservation, receipt_id: receipt::fresh_id() })
}

/// What is worth reserving: the client's wish (or the default), the node's limit, and what the context can hold.
fn wish(settings: &crate::Settings, model: &engine::ServedModel, asked: Option<u32>) -> u32 {
    let wish = asked.unwrap_or(settings.max_tokens_default).min(settings.max_tokens_per_request);
    model.context_tokens.map_or(wish, |context| wish.min(context)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_clamped_by_the_node_and_the_context() {
        let settings = crate::Settings { max_tokens_default: 100, max_tokens_per_request: 1000, ..Default::default() };
        let model = |context_tokens| engine::ServedModel { name: "m".into(), context_tokens, digest: None };
        assert_eq!(wish(&settings, &model(None), None), 100);
        assert_eq!(wish(&settings, &model(None), Some(5000)), 1000);
        assert_eq!(wish(&settings, &model(Some(512)), Some(5000)), 512);
        assert_eq!(wish(&settings, &model(Some(64)), None), 64);
    }
}
