use protocol::receipt::{Digest, RECEIPT_BYTES_MAX, VERSION};

/// What is wrong with a receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Too large to be one.
    #[error("it has {bytes} bytes; a receipt has at most {RECEIPT_BYTES_MAX}")]
    TooLarge {
        /// How large.
        bytes: usize,
    },
    /// Not JSON, or a member is missing, unknown, there twice or of the wrong kind.
    #[error("it is not a receipt: {0}")]
    Malformed(String),
    /// A version that this program does not know.
    #[error("it is of version {found}, and only version {VERSION} is known here: use a newer llm-node")]
    Version {
        /// What it says.
        found: u32,
    },
    /// Not 128 lower-case hexadecimal digits.
    #[error("`signature` is not one: {0}")]
    Signature(String),
    /// Its key is not in the set.
    #[error(
        "it names the key {key_id}, which is not in the key set ({}): it is of another node, or the key set is older \
         than the key",
        listed(known)
    )]
    UnknownKey {
        /// `key_id`.
        key_id: String,
        /// The keys of the set.
        known: Vec<String>,
    },
    /// Its key in the set is none.
    #[error("the key {key_id} in the key set cannot be used: {reason}")]
    BadKey {
        /// `key_id`.
        key_id: String,
        /// Why.
        reason: String,
    },
    /// Signed by a key of the node that is not the one it names.
    #[error("it names the key {named} and was signed by the key {actual}")]
    WrongKey {
        /// `key_id`.
        named: String,
        /// Who signed.
        actual: String,
    },
    /// Everything else is as it was signed.
    #[error("`key_id` was altered: it says {named}, and what was signed said {actual}")]
    AlteredKeyId {
        /// `key_id`.
        named: String,
        /// What was signed.
        actual: String,
    },
    /// The signature is not by its key over what it says.
    #[error(
        "the signature does not fit: a member was altered after the key {key_id} signed it, or someone without that \
         key made it up"
    )]
    Altered {
        /// `key_id`.
        key_id: String,
    },
    /// Made, as it says, when its key signed no more.
    #[error(
        "it says that it was made at {finished_at} ms, and its key {key_id} was retired at {retired_at} s: whoever \
         made it has a key that the node gave up"
    )]
    AfterRetirement {
        /// `key_id`.
        key_id: String,
        /// Unix seconds.
        retired_at: u64,
        /// Unix milliseconds.
        finished_at: u64,
    },
    /// The text is not what was answered.
    #[error("the output is not the one that was answered: its hash is {found}, the receipt says {expected}{}", hint(*line_break))]
    Output {
        /// `output_hash`.
        expected: Digest,
        /// Of what was given.
        found: Digest,
        /// It would fit without the line break at its end.
        line_break: bool,
    },
    /// The bytes are not what was asked.
    #[error("the request is not the one that was answered: its hash is {found}, the receipt says {expected}{}", hint(*line_break))]
    Request {
        /// `request_hash`.
        expected: Digest,
        /// Of what was given.
        found: Digest,
        /// It would fit without the line break at its end.
        line_break: bool,
    },
}

impl ReceiptError {
    /// A stable name, for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::Malformed(_) => "malformed",
            Self::Version { .. } => "unknown_version",
            Self::Signature(_) => "malformed_signature",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadKey { .. } => "bad_key",
            Self::WrongKey { .. } => "wrong_key",
            Self::AlteredKeyId { .. } => "altered_key_id",
            Self::Altered { .. } => "altered",
            Self::AfterRetirement { .. } => "after_retirement",
            Self::Output { .. } => "output_mismatch",
            Self::Request { .. } => "request_mismatch",
        }
    }

    pub(super) fn malformed(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        let path = error.path().to_string();
        let reason = error.inner();
        // The path of an error at the root is `.`; a member that is unknown or missing is named by the error itself.
        let named = path != "." && !reason.to_string().contains(&format!("field `{path}`"));
        Self::Malformed(if named { format!("`{path}`: {reason}") } else { reason.to_string() })
    }
}

fn listed(known: &[String]) -> String {
    const SHOWN_MAX: usize = 4;
    match known {
        [] => "it is empty".to_owned(),
        _ if known.len() > SHOWN_MAX => {
            format!("{} and {} more", known[..SHOWN_MAX].join(", "), known.len() - SHOWN_MAX)
        }
        _ => known.join(", "),
    }
}

const fn hint(line_break: bool) -> &'static str {
    if line_break { ". Without the line break at its end it would fit" } else { "" }
}
