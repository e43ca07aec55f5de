//! `llm-node doctor`: checks this machine and the configuration, and says how to fix what is wrong.

mod certificates;
mod checks;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use crate::{
    cli::Common,
    config::{EngineKind, Inputs},
    data_dir::DataDir,
    output,
};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// How to fix it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

pub(crate) fn run(common: &Common, json: bool) -> Result<ExitCode> {
    let checks = all(common)?;
    if json {
        output::print_json(&checks)?;
    } else {
        let mut text = String::new();
        for check in &checks {
            let word = match check.verdict {
                Verdict::Ok => "OK  ",
                Verdict::Warn => "WARN",
                Verdict::Fail => "FAIL",
            };
            text += &format!("{word}  {:<16} {}\n", check.name, check.found);
            if let Some(fix) = &check.fix {
                text += &format!("      {:<16} -> {fix}\n", "");
            }
        }
        output::print(&text)?;
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn all(common: &Common) -> Result<Vec<Check>> {
    let path = DataDir::locate(common.data_dir.clone())?;
    let mut found = vec![checks::cpu_features(), checks::open_files(), checks::clock()];
    let config = match Inputs::new(common.config_file(), &path, Vec::new()).load() {
        Ok(loaded) => {
            found.push(Check::ok("configuration", "valid"));
            loaded.config
        }
        Err(problems) => {
            found.push(Check::fail(
                "configuration",
                problems.to_string(),
                "correct it; `llm-node config docs` explains every key",
            ));
            return Ok(found);
        }
    };
    let dir = match DataDir::open(&path).and_then(|dir| dir.probe().map(|()| dir)) {
        Ok(dir) => dir,
        Err(error) => {
            found.push(Check::fail("data directory", format!("{error:#}"), "see there"));
            return Ok(found);
        }
    };
    found.push(Check::ok("data directory", format!("{} can be written to", dir.path().display())));
    found.push(checks::private(dir.path()));
    found.push(checks::secret(&config, &dir));
    found.push(checks::disk(dir.path()));
    found.push(checks::threads(config.engine.threads));
    let running = dir.lock().is_err();
    found.push(checks::port("public port", config.server.listen, running));
    found.push(checks::port("admin port", config.admin.listen, running));
    found.extend(certificates::check(&config));
    if config.engine.kind == EngineKind::Embedded {
        found.extend(checks::model(&config.engine, &dir));
    }
    Ok(found)
}
