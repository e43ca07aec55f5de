use protocol::inference::{Prompt, ResponseFormat};
use serde_json::{Map, Value, json};

use crate::backend::{BackendError, GenerateRequest};

/// The path and the body for a request. Fields that OpenAI does not know (`top_k`, `min_p`, `repeat_penalty` and vLLM's
/// name for it) are sent only when they differ from "off".
pub(super) fn build(request: &GenerateRequest, model: &str) -> Result<(&'static str, Vec<u8>), BackendError> {
    let inference = &request.inference;
    let sampling = &inference.sampling;
    let mut body = Map::new();
    body.insert("model".into(), model.into());
    let is_chat = matches!(inference.prompt, Prompt::Chat { .. });
    match &inference.prompt {
        Prompt::Chat { messages, .. } => body.insert("messages".into(), json!(messages)),
        Prompt::Text(text) => body.insert("prompt".into(), text.as_str().into()),
    };
    body.insert("stream".into(), true.into());
    body.insert("stream_options".into(), json!({"include_usage": true}));
    body.insert("max_tokens".into(), request.max_tokens.into());
    let mut number = |name: &str, value: f32, off: Option<f32>| {
        if off != Some(value) {
            body.insert(name.into(), decimal(value));
        }
    };
    number("temperature", sampling.temperature, None);
    number("top_p", sampling.top_p, None);
    number("min_p", sampling.min_p, Some(0.0));
    number("repeat_penalty", sampling.repeat_penalty, Some(1.0));
    number("repetition_penalty", sampling.repeat_penalty, Some(1.0));
    number("frequency_penalty", sampling.frequency_penalty, Some(0.0));
    number("presence_penalty", sampling.presence_penalty, Some(0.0));
    if sampling.top_k != 0 {
        body.insert("top_k".into(), sampling.top_k.into());
    }
    if let Some(seed) = sampling.seed {
        // Some servers read the seed as a signed number.
        body.insert("seed".into(), (seed & i64::MAX as u64).into());
    }
    if !sampling.logit_bias.is_empty() {
        let bias: Map<String, Value> =
            sampling.logit_bias.iter().map(|(token, bias)| (token.to_string(), decimal(*bias))).collect();
        body.insert("logit_bias".into(), bias.into());
    }
    if !inference.stop.is_empty() {
        body.insert("stop".into(), json!(inference.stop));
    }
    match &inference.response_format {
        ResponseFormat::Text => {}
        ResponseFormat::JsonObject => {
            body.insert("response_format".into(), json!({"type": "json_object"}));
        }
        ResponseFormat::JsonSchema(schema) => {
            let schema: Value = serde_json::from_str(schema).map_err(|_| BackendError::Invalid {
                param: "response_format".into(),
                message: "The JSON schema is not valid JSON.".into(),
            })?;
            let json_schema = json!({"name": "response", "strict": true, "schema": schema});
            body.insert("response_format".into(), json!({"type": "json_schema", "json_schema": json_schema}));
        }
    }
    if let Some(top) = inference.logprobs {
        if is_chat {
            body.insert("logprobs".into(), true.into());
            body.insert("top_logprobs".into(), top.into());
        } else {
            body.insert("logprobs".into(), top.into());
        }
    }
    let path = if is_chat { "/v1/chat/completions" } else { "/v1/completions" };
    let body = serde_json::to_vec(&body).map_err(|error| BackendError::Internal(format!("request body: {error}")))?;
    Ok((path, body))
}

/// A float as it was written: 0.1, not 0.10000000149011612.
fn decimal(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

#[cfg(test)]
mod tests {
    use protocol::{
        RequestId, TenantId,
        inference::{InferenceRequest, Message, Role},
    };
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn request(prompt: Prompt) -> GenerateRequest {
        GenerateRequest {
            request_id: RequestId::new("r").expect("valid"),
            tenant: TenantId::new("t").expect("valid"),
            inference: InferenceRequest::new("default", prompt),
            max_tokens: 7,
            deadline: None,
            cancel: CancellationToken::new(),
        }
    }

    fn built(request: &GenerateRequest) -> (&'static str, Value) {
        let (path, body) = build(request, "m").expect("builds");
        (path, serde_json::from_slice(&body).expect("JSON"))
    }

    #[test]
    fn a_schema_that_is_no_json_is_the_clients_fault() {
        let mut bad = request(Prompt::Text("a".into()));
        bad.inference.response_format = ResponseFormat::JsonSchema("{".into());
        assert!(matches!(build(&bad, "m"), Err(BackendError::Invalid { param, .. }) if param == "response_format"));
    }

    #[test]
    fn plain_requests_have_only_what_every_server_knows() {
        let (path, body) = built(&request(Prompt::Text("Once".into())));
        assert_eq!(path, "/v1/completions");
        assert_eq!(
            body,
            json!({"model": "m", "prompt": "Once", "stream": true, "stream_options": {"include_usage": true},
                   "max_tokens": 7, "temperature": 1.0, "top_p": 1.0})
        );
    }

    #[test]
    fn everything_that_was_asked_for_is_passed_on() {
        let messages = vec![Message { role: Role::System, content: "be brief".into() }];
        let mut full = request(Prompt::Chat { messages, trim_oldest: true });
        full.inference.stop = vec!["END".into()];
        full.inference.logprobs = Some(2);
        full.inference.response_format = ResponseFormat::JsonSchema("{\"type\":\"object\"}".into());
        let sampling = &mut full.inference.sampling;
        (sampling.temperature, sampling.top_k, sampling.min_p) = (0.1, 40, 0.05);
        (sampling.seed, sampling.repeat_penalty) = (Some(u64::MAX), 1.1);
        (sampling.frequency_penalty, sampling.presence_penalty) = (0.5, -0.5);
        sampling.logit_bias = vec![(5, -100.0)];
        let (path, body) = built(&full);
        assert_eq!(path, "/v1/chat/completions");
        assert_eq!(
            body,
            json!({"model": "m", "messages": [{"role": "system", "content": "be brief"}], "stream": true,
                   "stream_options": {"include_usage": true}, "max_tokens": 7, "temperature": 0.1, "top_p": 1.0,
                   "min_p": 0.05, "repeat_penalty": 1.1, "repetition_penalty": 1.1, "frequency_penalty": 0.5,
                   "presence_penalty": -0.5, "top_k": 40, "seed": i64::MAX, "logit_bias": {"5": -100.0},
                   "stop": ["END"], "logprobs": true, "top_logprobs": 2,
                   "response_format": {"type": "json_schema", "json_schema":
                       {"name": "response", "strict": true, "schema": {"type": "object"}}}})
        );
    }
}
