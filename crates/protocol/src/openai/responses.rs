//! The Responses API: the body of `POST /v1/responses`, the response object, its stream events, and the messages of
//! WebSocket mode. Field for field what the official `openai` SDKs (Python 3.54) declare, so that their strict types
//! parse it.

mod event;
mod object;
mod request;

pub use event::{ErrorFrame, ErrorObject, Event, ServerEvent};
pub use object::{
    Deleted, IncompleteDetails, InputTokensDetails, ItemStatus, Logprob, OutputItem, OutputTokensDetails, Part,
    Response, ResponseError, ResponseUsage, Status, TopLogprob,
};
pub use request::{ClientEvent, ContentPart, CreateResponse, InputItem, TextConfig, TextFormat, TextOr, Truncation};
