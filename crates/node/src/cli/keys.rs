//! `llm-node keys`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

/// A year, as the longest life of a token.
const OVERLAP_SECS_MAX: u64 = 366 * 24 * 3600;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the node's own keys
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Generate the next key and publish it ahead; the first key of a node is active at once
    Generate {
        /// Where its secret is made; without it, in the hardware token if there is one, else in a file
        #[arg(long = "in", value_name = "PLACE")]
        place: Option<KeyPlace>,
        #[command(flatten)]
        new: NewKey,
    },
    /// Bring in a key that was made elsewhere, as the next one
    #[command(group = ArgGroup::new("from").required(true).args(["file", "token_label", "token_id"]))]
    Import {
        /// Key file (PKCS#8 PEM of Ed25519, mode 0600; `openssl genpkey -algorithm ed25519`)
        file: Option<PathBuf>,
        /// File with the passphrase of FILE; without it, signature.private_key_passphrase
        #[arg(long, value_name = "FILE", requires = "file")]
        passphrase_file: Option<PathBuf>,
        /// A key that is in the hardware token, by its label
        #[arg(long, value_name = "LABEL")]
        token_label: Option<String>,
        /// A key that is in the hardware token, by its id (hexadecimal)
        #[arg(long, value_name = "HEX")]
        token_id: Option<String>,
        #[command(flatten)]
        new: NewKey,
    },
    /// Make the next key the active one and retire the one that was; a running node changes within a second
    Rotate {
        /// At once, even if others may not have seen the next key yet; makes one where there is none
        #[arg(long)]
        now: bool,
        /// Seconds that tokens signed by the old key stay valid; without it, auth.token_expiry
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(0..=OVERLAP_SECS_MAX))]
        overlap: Option<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Drop a next key, or end the overlap of a retired one; deletes its secret file. What it signed stays verifiable
    Retire {
        /// The key, by its name in `keys list`
        #[arg(allow_hyphen_values = true)]
        kid: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the public half of a key
    ExportPublic {
        /// The key, by its name in `keys list`; without it, the active one
        #[arg(allow_hyphen_values = true)]
        kid: Option<String>,
        /// How it is written; `jwks` are all keys
        #[arg(long, default_value = "pem")]
        format: KeyFormat,
    },
    /// Write all keys, encrypted by age, to a new file
    #[command(group = ArgGroup::new("for").required(true).args(["passphrase_file", "recipient"]))]
    Backup {
        /// The file; it must not exist
        file: PathBuf,
        /// File with the passphrase that opens the backup
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// Who can open it: a recipient of age (age1…)
        #[arg(long, value_name = "AGE1")]
        recipient: Option<String>,
    },
    /// Put back the keys of a backup
    #[command(group = ArgGroup::new("by").required(true).args(["passphrase_file", "identity"]))]
    Restore {
        /// The backup
        file: PathBuf,
        /// File with the passphrase that opens it
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
        /// File with the identity of age that opens it (AGE-SECRET-KEY-1…)
        #[arg(long, value_name = "FILE")]
        identity: Option<PathBuf>,
        /// In place of the keys that are here; those of the same node are kept, retired
        #[arg(long)]
        replace: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewKey {
    /// Do without the active key's signature that the new one is trusted (it was lost)
    #[arg(long)]
    pub(crate) without_statement: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where a secret is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyPlace {
    /// A file in the data directory
    File,
    /// The hardware token
    Token,
}

/// How a public key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KeyFormat {
    /// SubjectPublicKeyInfo, as OpenSSL reads it
    Pem,
    /// 64 hexadecimal digits
    Hex,
    /// JSON (RFC 7517)
    Jwk,
    /// All keys as JSON
    Jwks,
}
