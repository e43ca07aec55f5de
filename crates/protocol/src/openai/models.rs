//! `GET /v1/models` and `GET /v1/models/{id}`.

use serde::Serialize;

/// One model. `context_window` and `digest` are additions that OpenAI's clients ignore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    context_window: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
}

impl<'a> Model<'a> {
    /// A model by its name on the wire, with the tokens of its context and the digest of its weights where known.
    /// `created` is when the node began to serve it, in Unix seconds.
    #[must_use]
    pub const fn new(id: &'a str, created: u64, context_tokens: Option<u32>, digest: Option<&'a str>) -> Self {
        Self { id, object: "model", created, owned_by: "llm-node", context_window: context_tokens, digest }
    }
}

/// The list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List<'a> {
    object: &'static str,
    data: Vec<Model<'a>>,
}

impl<'a> FromIterator<Model<'a>> for List<'a> {
    fn from_iter<I: IntoIterator<Item = Model<'a>>>(models: I) -> Self {
        Self { object: "list", data: models.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_has_openai_s_shape_and_our_additions() {
        let list: List<'_> =
            [Model::new("smollm2", 7, Some(2048), Some("sha256:00")), Model::new("upstream/model", 7, None, None)]
                .into_iter()
                .collect();
        let expected = json!({"object": "list", "data": [
            {"id": "smollm2", "object": "model", "created": 7, "owned_by": "llm-node",
             "context_window": 2048, "digest": "sha256:00"},
            {"id": "upstream/model", "object": "model", "created": 7, "owned_by": "llm-node"},
        ]});
        assert_eq!(serde_json::to_value(list).expect("it serialises"), expected);
    }
}
