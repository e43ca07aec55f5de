//! Results go to standard output; everything else to standard error.

use std::io::{self, Write as _};

use serde::Serialize;

/// Prints a result, with a line break at its end.
///
/// # Errors
/// When it cannot be written; a reader that has gone away (`| head`) is no error.
pub(crate) fn print(text: &str) -> io::Result<()> {
    write_out(text, if text.ends_with('\n') { "" } else { "\n" })
}

/// Prints part of a line, at once.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_part(text: &str) -> io::Result<()> {
    write_out(text, "")
}

/// Prints a result as JSON.
///
/// # Errors
/// As [`print()`].
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

fn write_out(text: &str, end: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Tells the user of a failure or a hint.
pub(crate) fn complain(text: &str) {
    tell(&format!("llm-node: {text}"));
}

/// Says something beside the results.
pub(crate) fn tell(text: &str) {
    tell_part(&format!("{text}\n"));
}

/// Says part of a line beside the results.
pub(crate) fn tell_part(text: &str) {
    // Nobody can be told that standard error is gone.
    let _ = io::stderr().write_all(text.as_bytes());
}
