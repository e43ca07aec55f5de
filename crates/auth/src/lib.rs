//! Tokens and secrets: who speaks.
