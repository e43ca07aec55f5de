//! The configuration of a node under test: the binary's defaults, and what a test changes.

use std::{collections::BTreeMap, path::Path};

/// A configuration file in the making.
#[derive(Debug, Clone)]
pub struct Config {
    /// Section, then key, then value as TOML.
    sections: BTreeMap<String, BTreeMap<String, String>>,
}

impl Config {
    /// A node that says `w0 w1 w2 …`, one word every 5 ms.
    #[must_use]
    pub fn scripted() -> Self {
        Self { sections: BTreeMap::new() }
            .set("engine.kind", "\"scripted\"")
            .set("engine.scripted_tokens_per_second", 200)
    }

    /// A node with the real engine on the model of [`crate::model`].
    ///
    /// # Panics
    /// When there is no such file.
    #[must_use]
    pub fn embedded() -> Self {
        Self::model(&crate::model())
    }

    /// A node with the real engine on this file.
    #[must_use]
    pub fn model(path: &Path) -> Self {
        let path = format!("{:?}", path.display().to_string());
        Self { sections: BTreeMap::new() }.set("engine.kind", "\"embedded\"").set("engine.model", &path)
    }

    /// Sets `section.key` to a value written as TOML.
    ///
    /// # Panics
    /// When `key` has no section.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl ToString) -> Self {
        let (section, key) = key.rsplit_once('.').expect("keys are written section.key");
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_string());
        self
    }

    /// The file's text.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for (section, keys) in &self.sections {
            text += &format!("[{section}]\n");
            for (key, value) in keys {
                text += &format!("{key} = {value}\n");
            }
        }
        text
    }
}
