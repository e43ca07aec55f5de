//! The layers of a configuration: file, environment, command line. Each becomes values by key with their origin; a
//! later layer replaces an earlier one key by key.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use crate::config::{
    ENV_PREFIX,
    problem::{Origin, Problem},
    schema::Field,
    suggest::closest,
    value::{Raw, Secret},
};

/// Largest configuration file in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Largest file of a secret in bytes.
const SECRET_FILE_BYTES_MAX: u64 = 64 * 1024;
/// A secret's key with this at its end names a file that holds it.
const FILE_SUFFIX: &str = "_file";

/// A flag that stands for a key.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    /// `section.name`.
    pub(crate) key: &'static str,
    /// The flag as the user wrote it.
    pub(crate) flag: &'static str,
    /// Its value.
    pub(crate) value: String,
}

/// Values by key, and what was wrong on the way.
pub(crate) struct Layers<'a> {
    fields: &'a [Field],
    pub(crate) values: BTreeMap<String, (Raw, Origin)>,
    pub(crate) problems: Vec<Problem>,
}

impl<'a> Layers<'a> {
    /// Nothing but defaults.
    pub(crate) fn new(fields: &'a [Field]) -> Self {
        Self { fields, values: BTreeMap::new(), problems: Vec::new() }
    }

    /// Adds a file. Paths in it are as written: relative to the working directory.
    pub(crate) fn file(&mut self, path: &Path) {
        match read_bounded(path, FILE_BYTES_MAX) {
            Ok(text) => self.document(path, &text),
            Err(reason) => {
                let origin = Origin::File { path: path.to_owned(), line: 0 };
                self.problems.push(Problem::other("", Some(origin), format!("the file cannot be read: {reason}")));
            }
        }
    }

    /// Adds the text of a file.
    pub(crate) fn document(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| Origin::File {
            path: path.to_owned(),
            line: text.as_bytes()[..offset.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1,
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                let origin = at(error.span().map_or(0, |span| span.start));
                self.problems.push(Problem::other("", Some(origin), format!("this is not TOML: {}", error.message())));
            }
            // What a parser recovers from broken text is a guess.
            return;
        }
        let mut layer = BTreeMap::new();
        for (section, body) in table.get_ref() {
            let section_origin = at(section.span().start);
            let Some(keys) = body.get_ref().as_table() else {
                let problem = match self.unknown_section(section.get_ref(), &section_origin) {
                    Some(problem) => problem,
                    None => Problem::value(
                        section.get_ref(),
                        &section_origin,
                        raw(body.get_ref()).show(),
                        format!("a section: [{}]", section.get_ref()),
                    ),
                };
                self.problems.push(problem);
                continue;
            };
            if let Some(problem) = self.unknown_section(section.get_ref(), &section_origin) {
                self.problems.push(problem);
                continue;
            }
            for (name, value) in keys {
                let key = format!("{}.{}", section.get_ref(), name.get_ref());
                layer.insert(key, (raw(value.get_ref()), at(name.span().start)));
            }
        }
        self.merge(layer);
    }

    /// Adds every `LLM_NODE__SECTION__KEY`.
    pub(crate) fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let mut layer = BTreeMap::new();
        for (variable, value) in variables {
            let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { continue };
            let lower = rest.to_ascii_lowercase();
            let origin = Origin::Environment(variable.clone());
            match lower.split_once("__") {
                Some((section, name)) if !section.is_empty() && !name.is_empty() => {
                    match self.unknown_section(section, &origin) {
                        Some(problem) => self.problems.push(problem),
                        None => {
                            layer.insert(format!("{section}.{name}"), (Raw::Text(value), origin));
                        }
                    }
                }
                _ => self.problems.push(Problem::other(
                    &lower,
                    Some(origin),
                    format!("a variable that begins with {ENV_PREFIX} is named {ENV_PREFIX}SECTION__KEY"),
                )),
            }
        }
        self.merge(layer);
    }

    /// Adds flags.
    pub(crate) fn command_line(&mut self, overrides: Vec<Override>) {
        let layer = overrides
            .into_iter()
            .map(|flag| (flag.key.to_owned(), (Raw::Text(flag.value), Origin::CommandLine(flag.flag.to_owned()))));
        self.merge(layer.collect());
    }

    /// Puts a layer over those before it: unknown keys are noted, a secret's file is read.
    fn merge(&mut self, layer: BTreeMap<String, (Raw, Origin)>) {
        for (key, (raw, origin)) in &layer {
            if self.fields.iter().any(|field| field.key() == *key) {
                self.values.insert(key.clone(), (raw.clone(), origin.clone()));
                continue;
            }
            let secret = key
                .strip_suffix(FILE_SUFFIX)
                .filter(|base| self.fields.iter().any(|field| field.secret && field.key() == **base));
            match secret {
                Some(base) if layer.contains_key(base) => {
                    let message = format!("{base} is given as well; give one of the two");
                    self.problems.push(Problem::other(key, Some(origin.clone()), message));
                }
                Some(base) => self.secret_file(key, base, raw, origin),
                None => {
                    let problem = self.unknown_key(key, origin);
                    self.problems.push(problem);
                }
            }
        }
    }

    fn secret_file(&mut self, key: &str, base: &str, raw: &Raw, origin: &Origin) {
        use crate::config::value::Value as _;
        let Some(path) = Option::<PathBuf>::read(raw) else {
            self.problems.push(Problem::value(key, origin, raw.show(), "a path".into()));
            return;
        };
        let Some(path) = path else { return };
        match read_bounded(&path, SECRET_FILE_BYTES_MAX) {
            Ok(text) => {
                let secret = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
                self.values.insert(base.to_owned(), (secret.into(), origin.clone()));
            }
            Err(reason) => {
                let message = format!("{} cannot be read: {reason}", path.display());
                self.problems.push(Problem::other(key, Some(origin.clone()), message));
            }
        }
    }

    fn unknown_section(&self, section: &str, origin: &Origin) -> Option<Problem> {
        let mut sections: Vec<&str> = self.fields.iter().map(|field| field.section).collect();
        sections.dedup();
        if sections.contains(&section) {
            return None;
        }
        let message = match closest(section, sections.iter().copied()) {
            Some(close) => format!("there is no such section; did you mean `{close}`?"),
            None => format!("there is no such section; there are {}", sections.join(", ")),
        };
        Some(Problem::other(section, Some(origin.clone()), message))
    }

    fn unknown_key(&self, key: &str, origin: &Origin) -> Problem {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        let here = self.fields.iter().filter(|field| field.section == section).map(|field| field.name);
        let elsewhere = self.fields.iter().find(|field| field.name == name);
        let message = match (closest(name, here), elsewhere) {
            (Some(close), _) => format!("there is no such key; did you mean `{section}.{close}`?"),
            (None, Some(field)) => format!("there is no such key; did you mean `{}`?", field.key()),
            (None, None) => "there is no such key; `llm-node config example` shows all of them".to_owned(),
        };
        Problem::other(key, Some(origin.clone()), message)
    }
}

fn raw(value: &DeValue<'_>) -> Raw {
    match value {
        DeValue::String(text) => Raw::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Raw::Integer(number),
            Err(_) => Raw::Other("number beyond 64 bits"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Raw::Other("number"), Raw::Float),
        DeValue::Boolean(value) => Raw::Bool(*value),
        DeValue::Array(items) => Raw::List(items.iter().map(|item| raw(item.get_ref())).collect()),
        DeValue::Datetime(_) => Raw::Other("date"),
        DeValue::Table(_) => Raw::Other("table"),
    }
}

fn read_bounded(path: &Path, bytes_max: u64) -> Result<String, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut text = String::new();
    file.take(bytes_max + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > bytes_max {
        return Err(format!("it has more than {bytes_max} bytes"));
    }
    Ok(text)
}
