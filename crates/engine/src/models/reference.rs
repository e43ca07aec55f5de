use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::ModelError;

/// Most shards of one model: the largest published ones have some dozens.
const SHARDS_MAX: u32 = 1000;

/// Where a model setting points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelReference {
    /// A file on this machine.
    Path(PathBuf),
    /// A file on the model hub.
    Hub(HubReference),
}

/// `hf:owner/repo[@revision]:file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    /// The account.
    pub owner: String,
    /// The repository.
    pub repo: String,
    /// Branch, tag or commit; `None` is the main branch.
    pub revision: Option<String>,
    /// Path of the file in the repository.
    pub file: String,
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        write!(f, ":{}", self.file)
    }
}

impl ModelReference {
    /// Parses a model setting.
    ///
    /// # Errors
    /// [`ModelError::Setting`].
    pub fn parse(setting: &str) -> Result<Self, ModelError> {
        let error = |reason| ModelError::Setting { setting: setting.to_owned(), reason };
        if setting.is_empty() {
            return Err(error("it is empty"));
        }
        let Some(hub) = setting.strip_prefix("hf:") else { return Ok(Self::Path(setting.into())) };
        let (repository, file) = hub.split_once(':').ok_or_else(|| error("the file is missing"))?;
        let (repository, revision) = match repository.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (repository, None),
        };
        let (owner, repo) = repository.split_once('/').ok_or_else(|| error("the repository is missing"))?;
        // Names become directories: no separators, nothing that climbs.
        let is_name = |name: &str| {
            !name.is_empty()
                && !name.starts_with('.')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !is_name(owner) || !is_name(repo) || !revision.is_none_or(is_name) {
            return Err(error("owner, repository and revision may have letters, digits, `.`, `_` and `-`"));
        }
        if !file.split('/').all(is_name) {
            return Err(error("the file may have letters, digits, `.`, `_`, `-` and `/`"));
        }
        Ok(Self::Hub(HubReference {
            owner: owner.into(),
            repo: repo.into(),
            revision: revision.map(Into::into),
            file: file.into(),
        }))
    }
}

/// All shards in order when the file's name is one of a set (`name-00002-of-00003.gguf`, as `llama-gguf-split` writes).
pub(super) fn shards(path: &Path) -> Option<Vec<PathBuf>> {
    let name = path.file_name()?.to_str()?;
    let (rest, total) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, index) = rest.rsplit_once('-')?;
    let number = |digits: &str| {
        (digits.len() == 5 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse::<u32>().ok())?
    };
    let (index, total) = (number(index)?, number(total)?);
    if !(1..=total).contains(&index) || total > SHARDS_MAX {
        return None;
    }
    Some((1..=total).map(|i| path.with_file_name(format!("{stem}-{i:05}-of-{total:05}.gguf"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_no_reference_say_why() {
        for (bad, why) in [
            ("", "empty"),
            ("hf:", "file is missing"),
            ("hf:owner/repo", "file is missing"),
            ("hf:repo:file.gguf", "repository is missing"),
            ("hf:../repo:file.gguf", "may have letters"),
            ("hf:owner/..:file.gguf", "may have letters"),
            ("hf:owner/re/po:file.gguf", "may have letters"),
            ("hf:owner/repo@../x:file.gguf", "may have letters"),
            ("hf:owner/repo:../../etc/passwd", "file may have"),
            ("hf:owner/repo:/etc/passwd", "file may have"),
            ("hf:owner/repo:a\\b", "file may have"),
            ("hf:owner/repo:", "file may have"),
        ] {
            let error = ModelReference::parse(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn paths_and_hub_references_are_told_apart() {
        assert_eq!(ModelReference::parse("/m/x.gguf").expect("a path"), ModelReference::Path("/m/x.gguf".into()));
        for text in ["hf:owner/repo:file.gguf", "hf:owner/repo@v1.0:dir/file.gguf"] {
            let ModelReference::Hub(reference) = ModelReference::parse(text).expect(text) else { panic!("{text}") };
            assert_eq!(reference.to_string(), text);
        }
    }

    #[test]
    fn any_shard_stands_for_all() {
        let check = |name: &str, expected: Option<usize>| {
            assert_eq!(shards(Path::new(name)).map(|shards| shards.len()), expected, "{name}");
        };
        check("x.gguf", None);
        check("x-00001-of-00000.gguf", None);
        check("x-00004-of-00003.gguf", None);
        check("x-00000-of-00003.gguf", None);
        check("x-1-of-3.gguf", None);
        check("x-00001-of-99999.gguf", None);
        check("x-00001-of-00003.bin", None);
        check("x-00002-of-00003.gguf", Some(3));
        let all = shards(Path::new("/m/a-b-00002-of-00002.gguf")).expect("shards");
        assert_eq!(all, [Path::new("/m/a-b-00001-of-00002.gguf"), Path::new("/m/a-b-00002-of-00002.gguf")]);
    }
}
