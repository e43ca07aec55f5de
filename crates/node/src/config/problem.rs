//! What is wrong with a configuration, for a human and as JSON.

use std::{fmt, path::PathBuf};

use serde::Serialize;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// Where in it, from 1; 0 where it is the whole file.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag of the command line.
    CommandLine(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => write!(f, "file {}", path.display()),
            Self::File { path, line } => write!(f, "file {}, line {line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::CommandLine(flag) => write!(f, "command line {flag}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// `section.key`; empty where the file as a whole is meant.
    pub(crate) key: String,
    /// Where it came from; none for a rule between several keys.
    #[serde(rename = "source", skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<Origin>,
    /// What was found, where there is a value and it may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) found: Option<String>,
    /// What would be right.
    pub(crate) expected: String,
}

impl Problem {
    /// A value that is not what its key takes.
    pub(crate) fn value(key: &str, origin: &Origin, found: String, expected: String) -> Self {
        Self {
            key: key.to_owned(),
            origin: Some(origin.clone()),
            found: Some(found),
            expected: format!("expected {expected}"),
        }
    }

    /// Something else about a key.
    pub(crate) fn other(key: &str, origin: Option<Origin>, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), origin, found: None, expected: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        if let Some(found) = &self.found {
            write!(f, "found {found}, ")?;
        }
        f.write_str(&self.expected)?;
        match &self.origin {
            Some(origin) => write!(f, " [{origin}]"),
            None => Ok(()),
        }
    }
}

/// Every error of a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "the configuration has {count} error{}", if count == 1 { ":" } else { "s:" })?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
