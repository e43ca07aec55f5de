//! Logs on standard error: text on a terminal, one JSON object a line otherwise. The level can be changed while the
//! node runs.

use std::io::{self, IsTerminal as _, Write};

use anyhow::{Context as _, Result};
use tracing_subscriber::{
    EnvFilter, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use crate::{
    config::{Log, LogFormat, value::LogFilter},
    progress,
};

/// Dependencies that log headers and bodies below `info`, and with them tokens and prompts. No level lets them.
const CAPPED_TARGETS: [&str; 8] =
    ["h2", "hyper", "hyper_util", "minijinja", "reqwest", "rustls", "tokio_tungstenite", "tungstenite"];

/// Changes the level.
#[derive(Debug, Clone)]
pub(crate) struct LogHandle(reload::Handle<EnvFilter, Registry>);

impl LogHandle {
    /// Logs at this level from now on.
    ///
    /// # Errors
    /// When the subscriber is gone.
    pub(crate) fn set_level(&self, level: &LogFilter) -> Result<()> {
        self.0.reload(filter(level)?).context("the log level cannot be changed")
    }
}

/// Starts logging for the process.
///
/// # Errors
/// When it was started before.
pub(crate) fn init(log: &Log) -> Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);
    let terminal = io::stderr().is_terminal();
    let json = match log.format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        let layer = fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(BesideBars);
        registry.with(layer).try_init()
    } else {
        registry.with(fmt::layer().with_ansi(terminal).with_writer(BesideBars)).try_init()
    };
    started.context("logging cannot be started")?;
    Ok(LogHandle(handle))
}

fn filter(level: &LogFilter) -> Result<EnvFilter> {
    let filter = EnvFilter::try_new(level.as_str()).with_context(|| format!("{} is no log level", level.as_str()))?;
    CAPPED_TARGETS.iter().try_fold(filter, |filter, target| {
        Ok(filter.add_directive(format!("{target}=info").parse().context("a valid directive")?))
    })
}

/// Standard error, with progress bars out of the way while a line is written.
struct BesideBars;

impl<'a> MakeWriter<'a> for BesideBars {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

impl Write for BesideBars {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        progress::suspended(|| io::stderr().write(line))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
