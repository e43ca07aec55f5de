//! The command line.

use std::path::PathBuf;

use auth::Permissions;
use clap::{Args, Parser, Subcommand};
use protocol::{JobId, Subject};

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
    /// Issue and inspect tokens; works beside a running node
    #[command(subcommand)]
    Token(Token),
    /// Create, list, show and close jobs; works beside a running node
    #[command(subcommand)]
    Job(Job),
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
    Issue {
        /// Who it is for; must be the job's owner
        #[arg(long, value_name = "SUBJECT")]
        subject: Subject,
        /// The job that is charged
        #[arg(long, value_name = "ID", value_parser = job_id)]
        job: JobId,
        /// Rights, separated by commas: read, write, execute, admin
        #[arg(long, default_value = "execute,read")]
        permissions: Permissions,
        /// Seconds that it is valid; without it, auth.token_expiry
        #[arg(long, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=TTL_SECS_MAX))]
        ttl: Option<u64>,
    },
    /// Check a token and print what it says
    Inspect {
        /// The token; without it, standard input is read, so that it is in no process list
        token: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Longest life of a token: as `auth.token_expiry`.
const TTL_SECS_MAX: u64 = 366 * 24 * 3600;

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Create a job and print its id
    Create {
        /// Who may use it
        #[arg(long, value_name = "SUBJECT")]
        owner: Subject,
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
        check("llm-node job create --owner a --max-tokens 0");
        check("llm-node job create --owner a --max-tokens -1");
        check("llm-node job create --owner a --max-tokens 1 --id 0");
        check("llm-node job show");
        check("llm-node token issue --subject a");
        check("llm-node token issue --subject a --job 1 --ttl 0");
        check("llm-node token issue --subject a --job 1 --permissions fly");
        check("llm-node chat --temperature 3");
        check("llm-node chat --max-tokens 0");
    }

    #[test]
    fn common_flags_go_before_and_after_the_command() {
        for line in ["llm-node --data-dir d job list", "llm-node job list --data-dir d"] {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            assert_eq!(cli.common.data_dir, Some(PathBuf::from("d")));
        }
    }
}
