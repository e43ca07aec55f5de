//! Frames between the engine and its worker process, over one socketpair.
//!
//! A frame is a little-endian `u32` byte count and that many bytes of [postcard]. The engine sends [`ToWorker`], the
//! worker [`FromWorker`]. Both ends are the same binary, so the format carries no version.
//!
//! The division of labour is what makes a crash invisible: **the worker knows tokens, the engine knows text.** Each
//! step's frame holds token ids and the bytes they stand for; UTF-8 assembly, stop strings and `<think>` parts are the
//! engine's. When a worker dies the engine still has every token that was sent and resubmits
//! `prompt + tokens so far` ([`Submit::generated`]) to the next one.

mod codec;
mod frames;

pub use codec::{FRAME_BYTES_MAX, FrameError, decode, encode, read_frame, write_frame};
pub use frames::{
    Event, FromWorker, GpuConfig, ModelInfo, Refusal, SequenceEvent, StepStats, Submit, ToWorker, Token, WorkerConfig,
    WorkerId,
};
