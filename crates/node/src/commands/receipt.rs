//! `llm-node receipt`.

mod input;
mod keys;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Result, bail};
use protocol::receipt::Receipt;
use serde::Serialize;
use signing::{
    JwkSet,
    receipt::{Chain, ChainError, ReceiptError, check_chains, check_output, check_request, verify},
};

use crate::{
    cli::{Common, Receipt as Command, VerifyReceipts},
    output,
};

pub(super) fn run(common: &Common, command: Command) -> Result<ExitCode> {
    match command {
        Command::Verify(arguments) => check(common, &arguments),
    }
}

/// What is wrong, for programs and people.
#[derive(Debug, Serialize)]
struct Problem {
    code: &'static str,
    message: String,
}

/// One receipt of the file.
#[derive(Debug, Serialize)]
struct Checked {
    valid: bool,
    /// Only what is valid may be read.
    receipt: Option<Receipt>,
    problem: Option<Problem>,
}

/// A job's receipts.
#[derive(Debug, Serialize)]
struct Row {
    node_id: String,
    job_id: String,
    first: u64,
    last: u64,
    output_tokens: u64,
}

#[derive(Debug, Serialize)]
struct Report {
    valid: bool,
    receipts: Vec<Checked>,
    chains: Vec<Row>,
    chain_problems: Vec<Problem>,
}

fn check(common: &Common, arguments: &VerifyReceipts) -> Result<ExitCode> {
    let documents = input::documents(&input::read(&arguments.file, input::RECEIPTS_BYTES_MAX)?)?;
    if documents.len() != 1 && (arguments.output.is_some() || arguments.request.is_some()) {
        bail!("--output and --request are about one receipt, and the file has {}", documents.len());
    }
    let text =
        |path: &Option<PathBuf>| path.as_ref().map(|path| input::read(path, input::CONTENT_BYTES_MAX)).transpose();
    let (answer, request) = (text(&arguments.output)?, text(&arguments.request)?);
    let keys = keys::load(common, arguments.jwks.as_deref())?;
    let report = report(&documents, &keys, answer.as_deref(), request.as_deref());
    if arguments.json {
        output::print_json(&report)?;
    } else {
        output::print(&describe(&report))?;
    }
    Ok(if report.valid { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(documents: &[Vec<u8>], keys: &JwkSet, answer: Option<&[u8]>, request: Option<&[u8]>) -> Report {
    let check = |document: &Vec<u8>| -> Result<Receipt, ReceiptError> {
        let receipt = verify(document, keys)?;
        answer.map_or(Ok(()), |text| check_output(&receipt, text))?;
        request.map_or(Ok(()), |bytes| check_request(&receipt, bytes))?;
        Ok(receipt)
    };
    let receipts: Vec<Checked> = documents.iter().map(|document| Checked::of(check(document))).collect();
    let valid: Vec<Receipt> = receipts.iter().filter_map(|checked| checked.receipt.clone()).collect();
    let (chains, errors) = check_chains(&valid);
    Report {
        valid: errors.is_empty() && receipts.iter().all(|checked| checked.valid),
        receipts,
        chains: chains.into_iter().map(Row::of).collect(),
        chain_problems: errors.iter().map(Problem::of_chain).collect(),
    }
}

impl Checked {
    fn of(result: Result<Receipt, ReceiptError>) -> Self {
        match result {
            Ok(receipt) => Self { valid: true, receipt: Some(receipt), problem: None },
            Err(error) => {
                let problem = Problem { code: error.code(), message: error.to_string() };
                Self { valid: false, receipt: None, problem: Some(problem) }
            }
        }
    }
}

impl Problem {
    fn of_chain(error: &ChainError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

impl Row {
    fn of(chain: Chain) -> Self {
        let Chain { node_id, job_id, first, last, output_tokens } = chain;
        Self { node_id, job_id: job_id.to_string(), first, last, output_tokens }
    }
}

fn describe(report: &Report) -> String {
    let mut lines = Vec::new();
    for (index, checked) in report.receipts.iter().enumerate() {
        let place = if report.receipts.len() == 1 { String::new() } else { format!("{}. ", index + 1) };
        lines.push(match (&checked.receipt, &checked.problem) {
            (Some(receipt), _) => format!(
                "{place}valid: {} is number {} of job {}, by key {}\n   {} asked {}: {} tokens in, {} out, {}",
                receipt.receipt_id,
                receipt.sequence,
                receipt.job_id,
                receipt.key_id,
                receipt.subject,
                receipt.model,
                receipt.input_tokens,
                receipt.output_tokens,
                receipt.finish_reason,
            ),
            (None, problem) => {
                format!("{place}NOT VALID: {}", problem.as_ref().map_or("", |problem| problem.message.as_str()))
            }
        });
    }
    if report.receipts.len() > 1 {
        for Row { job_id, first, last, output_tokens, .. } in &report.chains {
            let earlier = if *first > 1 { "; earlier ones were not given" } else { "" };
            lines.push(format!("job {job_id}: receipts {first} to {last}, {output_tokens} tokens{earlier}"));
        }
    }
    lines.extend(report.chain_problems.iter().map(|problem| format!("BROKEN CHAIN: {}", problem.message)));
    lines.join("\n")
}
