//! The command line.

mod keys;

use std::path::PathBuf;

use auth::{Permissions, TokenAlgorithm};
use clap::{Args, Parser, Subcommand};
pub(crate) use keys::{KeyFormat, KeyPlace, Keys, NewKey};
use protocol::{JobId, Subject};
use signing::PublicKey;

/// Serves a language model on the open internet to clients who are not trusted.
#[derive(Debug, Parser)]
#[command(name = "llm-node", disable_version_flag = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Configuration file; without it, llm-node.toml in the data directory, if there is one [env: LLM_NODE_CONFIG]
    #[arg(long, global = true, value_name = "FILE", display_order = 100)]
    pub(crate) config: Option<PathBuf>,
    /// Directory of everything that survives a restart; by default llm-node in the user's data directory
    /// [env: LLM_NODE_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR", display_order = 101)]
    pub(crate) data_dir: Option<PathBuf>,
}

impl Common {
    /// `--config`, else `LLM_NODE_CONFIG`.
    pub(crate) fn config_file(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("LLM_NODE_CONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        self.config.clone().or_else(variable)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model
    Serve(Serve),
    /// Issue, inspect and revoke tokens; works beside a running node
    #[command(subcommand)]
    Token(Token),
    /// Create, list, show and close jobs; works beside a running node
    #[command(subcommand)]
    Job(Job),
    /// The node's own keys: list, generate, import, rotate, retire, back up, restore; works beside a running node
    #[command(subcommand)]
    Keys(Keys),
    /// Enrol, list and withdraw the public keys that sign for subjects; works beside a running node
    #[command(subcommand)]
    ClientKeys(ClientKeys),
    /// Verify receipts, offline
    #[command(subcommand)]
    Receipt(Receipt),
    /// Check, show or document the configuration
    #[command(subcommand)]
    Config(Config),
    /// Talk to a node in the terminal
    Chat(Chat),
    /// Check this machine and the configuration, and say how to fix what is wrong
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the version
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// The child process that computes; started by `serve` with a socket as standard input
    #[command(hide = true)]
    Worker(Worker),
}

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Address of the public listener (server.listen)
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Address of the operators' listener (admin.listen)
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin_listen: Option<String>,
    /// The model: a .gguf file, or hf:owner/repo:file.gguf (engine.model)
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Make a job for a first try and print a token, a curl line and the chat command
    #[arg(long)]
    pub(crate) quickstart: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Issue a token and print it, and nothing else
    Issue(IssueToken),
    /// Check a token and print what it says
    Inspect {
        /// The token; without it, standard input is read, so that it is in no process list
        token: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token, or all tokens of a subject; a running node refuses them within a second
    Revoke(RevokeToken),
    /// Generate a new secret for the node's tokens; a running node takes it within a second
    RotateSecret {
        /// Seconds that tokens of the old secret stay valid; without it, auth.token_expiry. 0 ends them at once
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(0..=TTL_SECS_MAX))]
        overlap: Option<u64>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct IssueToken {
    /// Who it is for; must be the job's owner
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) subject: Subject,
    /// The job that is charged
    #[arg(long, value_name = "ID", value_parser = job_id)]
    pub(crate) job: JobId,
    /// Rights, separated by commas: read, write, execute, admin
    #[arg(long, default_value = "execute,read,write")]
    pub(crate) permissions: Permissions,
    /// Seconds that it is valid; without it, auth.token_expiry
    #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=TTL_SECS_MAX))]
    pub(crate) ttl: Option<u64>,
    /// Ed25519 public key (64 hexadecimal digits) that must sign every message which comes with the token
    #[arg(long, value_name = "HEX", value_parser = PublicKey::from_hex)]
    pub(crate) bind_key: Option<PublicKey>,
    /// What signs it: hs256 (the node's secret) or ed25519 (the node's key); without it, auth.token_algorithm
    #[arg(long, value_name = "ALG", value_parser = token_algorithm)]
    pub(crate) alg: Option<TokenAlgorithm>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct RevokeWhat {
    /// The token; without it and the other two, standard input is read, so that it is in no process list
    pub(crate) token: Option<String>,
    /// The token's id, as `token inspect` and logs have it
    #[arg(long, value_name = "ID")]
    pub(crate) jti: Option<String>,
    /// All tokens of this subject that were issued until now
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) subject: Option<Subject>,
}

#[derive(Debug, Args)]
pub(crate) struct RevokeToken {
    #[command(flatten)]
    pub(crate) what: RevokeWhat,
    /// Only those issued at this time or before, in seconds since 1970
    #[arg(long, value_name = "UNIX", requires = "subject", conflicts_with_all = ["jti", "token"])]
    pub(crate) issued_until: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Longest life of a token: as `auth.token_expiry`.
const TTL_SECS_MAX: u64 = 366 * 24 * 3600;

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct JobOwner {
    /// Who may use it
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) owner: Option<Subject>,
    /// The Ed25519 public key (64 hexadecimal digits) whose holder may use it: the key itself is the owner, and gets its
    /// tokens by POST /v1/sessions
    #[arg(long, value_name = "HEX", value_parser = PublicKey::from_hex)]
    pub(crate) owner_key: Option<PublicKey>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClientKeys {
    /// List keys, withdrawn ones too
    List {
        /// Of this subject only
        #[arg(long, value_name = "SUBJECT")]
        subject: Option<Subject>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let a key sign for a subject, and print its id
    Enrol {
        /// For whom it signs
        #[arg(long, value_name = "SUBJECT")]
        subject: Subject,
        /// The Ed25519 public key, 64 hexadecimal digits
        #[arg(value_name = "HEX", value_parser = PublicKey::from_hex)]
        key: PublicKey,
        /// What it is called in lists
        #[arg(long, value_name = "TEXT")]
        label: Option<String>,
        /// Take it even if it was withdrawn before
        #[arg(long)]
        again: bool,
    },
    /// Take a key's right to sign for a subject; a running node obeys within a second
    Withdraw {
        /// For whom it signed
        #[arg(long, value_name = "SUBJECT")]
        subject: Subject,
        /// Its id (RFC 7638 thumbprint) or its 64 hexadecimal digits
        #[arg(value_name = "KEY")]
        key: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Create a job and print its id
    Create {
        #[command(flatten)]
        owner: JobOwner,
        /// Tokens that may be generated for it
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_TOKENS_MAX))]
        max_tokens: u64,
        /// Its id; without it, the next free number
        #[arg(long, value_name = "ID", value_parser = job_id)]
        id: Option<JobId>,
        /// The only model that it may be used for
        #[arg(long, value_name = "MODEL")]
        model: Option<String>,
        /// Seconds until it expires; without it, it does not
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=EXPIRES_SECS_MAX))]
        expires_in: Option<u64>,
        /// Every message that it pays for must be signed by a key of its owner
        #[arg(long)]
        signature_required: bool,
        /// Print the job as JSON
        #[arg(long)]
        json: bool,
    },
    /// List all jobs
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show a job
    Show {
        /// Its id
        #[arg(value_parser = job_id)]
        id: JobId,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Close a job: it takes no new work, what runs is settled
    Close {
        /// Its id
        #[arg(value_parser = job_id)]
        id: JobId,
        /// Print the job as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Largest budget: every JSON reader holds it exactly (2^53 - 1).
const MAX_TOKENS_MAX: u64 = (1 << 53) - 1;
/// A hundred years.
const EXPIRES_SECS_MAX: u64 = 100 * 366 * 24 * 3600;

#[derive(Debug, Subcommand)]
pub(crate) enum Receipt {
    /// Verify receipts, and the chain of several; exits with 1 where something is wrong, and says what
    Verify(VerifyReceipts),
}

#[derive(Debug, Args)]
pub(crate) struct VerifyReceipts {
    /// File with a receipt, several, or an array of them; - is standard input
    pub(crate) file: PathBuf,
    /// The node's public keys: a file, or the URL of its /.well-known/jwks.json; without it, those of this data
    /// directory
    #[arg(long, value_name = "FILE|URL")]
    pub(crate) jwks: Option<String>,
    /// Also check that this is the answer: its exact text, reasoning first
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Also check that this is the request: the exact bytes that were sent
    #[arg(long, value_name = "FILE")]
    pub(crate) request: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Check the configuration, list every error, and show what differs from the defaults
    Check {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a complete, commented file
    Example,
    /// Print the reference of all keys in Markdown
    Docs,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// Address of the node; without it, the one that runs on this data directory
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File of an Ed25519 private key (PKCS#8 PEM) that signs every message. Without a token, the key gets one of the job
    /// whose owner it is
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The job to charge; needed where the key has several
    #[arg(long, value_name = "ID", value_parser = job_id)]
    pub(crate) job: Option<JobId>,
    /// The token; without it, one of this data directory's node. A token given here is in the process list: better
    /// LLM_NODE_TOKEN
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Model to ask for
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(crate) model: String,
    /// Most tokens of one answer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the most likely word, 2 is wild
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub(crate) temperature: Option<f32>,
    /// Instructions that the conversation begins with
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Believe certificates of these authorities (PEM) in place of the public ones
    #[arg(long, value_name = "FILE")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Certificate to show to a node that asks for one (PEM)
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub(crate) client_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    pub(crate) client_key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    /// Convert this file's weights in place of serving
    #[arg(long, value_name = "FILE", requires = "repack_to")]
    pub(crate) repack: Option<PathBuf>,
    /// Where to
    #[arg(long, value_name = "FILE", requires = "repack")]
    pub(crate) repack_to: Option<PathBuf>,
    /// lossless or fast
    #[arg(long, value_name = "MODE", requires = "repack")]
    pub(crate) repack_mode: Option<String>,
}

fn job_id(text: &str) -> Result<JobId, String> {
    if text == JobId::NONE {
        return Err("0 means \"no job\" on the wire and cannot be a job's id".into());
    }
    JobId::new(text).map_err(|error| error.to_string())
}

fn token_algorithm(text: &str) -> Result<TokenAlgorithm, String> {
    match text.to_ascii_lowercase().as_str() {
        "hs256" => Ok(TokenAlgorithm::Hs256),
        "ed25519" | "eddsa" => Ok(TokenAlgorithm::Ed25519),
        _ => Err("it is hs256 or ed25519".to_owned()),
    }
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|value| (0.0..=2.0).contains(value)).ok_or_else(|| "a number from 0 to 2".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_declarations_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        let check = |line: &str| {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        };
        check("llm-node dance");
        check("llm-node serve --lisen x");
        check("llm-node job create --owner a");
        check("llm-node job create --max-tokens 1");
        check("llm-node job create --owner a --owner-key 00 --max-tokens 1");
        check("llm-node job create --owner-key zz --max-tokens 1");
        let weak = format!("01{}", "0".repeat(62));
        check(&format!("llm-node job create --owner-key {weak} --max-tokens 1"));
        check(&format!("llm-node client-keys enrol --subject a {weak}"));
        check("llm-node job create --owner a --max-tokens 0");
        check("llm-node job create --owner a --max-tokens -1");
        check("llm-node job create --owner a --max-tokens 1 --id 0");
        check("llm-node job show");
        check("llm-node token issue --subject a");
        check("llm-node token issue --subject a --job 1 --ttl 0");
        check("llm-node token issue --subject a --job 1 --permissions fly");
        check("llm-node token issue --subject a --job 1 --alg none");
        check("llm-node token issue --subject a --job 1 --bind-key 00");
        check("llm-node token revoke --jti a --subject b");
        check("llm-node token revoke --jti a --issued-until 5");
        check("llm-node token rotate-secret --overlap -1");
        check("llm-node receipt verify");
        check("llm-node chat --temperature 3");
        check("llm-node chat --max-tokens 0");
        check("llm-node chat --client-cert x");
    }

    #[test]
    fn common_flags_go_before_and_after_the_command() {
        for line in ["llm-node --data-dir d job list", "llm-node job list --data-dir d"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.common.data_dir, Some(PathBuf::from("d")));
        }
    }
}
