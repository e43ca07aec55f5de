//! The configuration: command line over environment over file over default, every error at once.

pub(crate) mod docs;
mod problem;
mod rules;
mod schema;
mod sections;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
pub(crate) mod value;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub(crate) use self::{
    problem::{Origin, Problem, Problems},
    schema::{Change, Field, Reload},
    sections::{
        Engine, EngineKind, Log, LogFormat, Repack, Right, ScriptedText, Server, SessionPolicy, TlsClientAuth,
        TokenAlgorithm,
    },
    source::Override,
    value::Secret,
};
use self::{
    schema::{Reader, Section},
    sections::{Admin, Auth, Jobs, Metrics, Signature},
    source::Layers,
};

/// Variables that begin with this are keys: `LLM_NODE__SECTION__KEY`.
pub(crate) const ENV_PREFIX: &str = "LLM_NODE__";
/// The configuration file in a data directory, read when no other is named.
pub(crate) const FILE_NAME: &str = "llm-node.toml";

macro_rules! config {
    ($($section:ident: $type:ident),+ $(,)?) => {
        /// A valid configuration.
        #[derive(Debug, Clone, PartialEq, Default)]
        pub(crate) struct Config {
            $(
                #[doc = concat!("Section `", stringify!($section), "`.")]
                pub(crate) $section: $type,
            )+
        }

        /// A section's name and what it is about.
        pub(crate) const SECTIONS: &[(&str, &str)] = &[$((<$type as Section>::KEY, <$type as Section>::DOC)),+];

        impl Config {
            /// Every key of every section.
            pub(crate) fn fields() -> Vec<Field> {
                [$(<$type as Section>::fields()),+].concat()
            }

            fn read(reader: &mut Reader) -> Self {
                Self { $($section: <$type as Section>::read(reader)),+ }
            }

            /// `section.key` and value, as TOML.
            pub(crate) fn shown(&self) -> Vec<(String, String)> {
                let mut all = Vec::new();
                $(all.extend(
                    self.$section.shown().into_iter().map(|(name, value)| (format!("{}.{name}", $type::KEY), value)),
                );)+
                all
            }

            /// Keys whose values differ in `new`.
            pub(crate) fn changes(&self, new: &Self) -> Vec<Change> {
                [$(self.$section.changes(&new.$section)),+].concat()
            }

            /// This configuration, with `new`'s values where they take effect live.
            pub(crate) fn with_live(&self, new: &Self) -> Self {
                Self { $($section: self.$section.with_live(&new.$section)),+ }
            }
        }
    };
}

config! {
    server: Server,
    admin: Admin,
    engine: Engine,
    auth: Auth,
    signature: Signature,
    jobs: Jobs,
    metrics: Metrics,
    log: Log,
}

/// Where a configuration is to be read from. Kept for reloads.
#[derive(Debug, Clone)]
pub(crate) struct Inputs {
    /// `--config`, or the data directory's.
    pub(crate) file: Option<PathBuf>,
    /// Flags that stand for keys.
    pub(crate) overrides: Vec<Override>,
}

impl Inputs {
    /// What `--config` names, which must exist; else `llm-node.toml` in the data directory, if it exists.
    pub(crate) fn new(config: Option<PathBuf>, data_dir: &Path, overrides: Vec<Override>) -> Self {
        let file = config.or_else(|| Some(data_dir.join(FILE_NAME)).filter(|path| path.exists()));
        Self { file, overrides }
    }

    /// Reads and checks everything, with the environment as it is now.
    ///
    /// # Errors
    /// [`Problems`]: all of them.
    pub(crate) fn load(&self) -> Result<Loaded, Problems> {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        self.load_with(std::env::vars_os().map(|(variable, value)| (lossy(variable), lossy(value))))
    }

    fn load_with(&self, environment: impl IntoIterator<Item = (String, String)>) -> Result<Loaded, Problems> {
        let fields = Config::fields();
        let mut layers = Layers::new(&fields);
        if let Some(path) = &self.file {
            layers.file(path);
        }
        layers.environment(environment);
        layers.command_line(self.overrides.clone());
        finish(layers)
    }
}

/// A valid configuration and where its values came from.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// The values.
    pub(crate) config: Config,
    /// The source of each key that is not a default.
    pub(crate) origins: BTreeMap<String, Origin>,
}

fn finish(layers: Layers<'_>) -> Result<Loaded, Problems> {
    let mut reader = Reader::new(layers.values, layers.problems);
    let config = Config::read(&mut reader);
    let Reader { origins, mut problems, .. } = reader;
    // A rule that looks at a value which was replaced by its default would report an error that is none.
    let faulty: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
    problems.extend(rules::check(&config, &origins, &faulty));
    if problems.is_empty() { Ok(Loaded { config, origins }) } else { Err(Problems(problems)) }
}
