//! The child process that alone links llama.cpp.

pub mod template;
