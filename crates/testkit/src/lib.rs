//! The real binary as a test fixture.
