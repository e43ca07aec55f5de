//! Reads the header of a GGUF file: enough to say what its weights are, and to refuse a broken file with a reason before
//! llama.cpp sees it.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

/// Most metadata entries; real files have under 100.
const ENTRIES_MAX: u64 = 65_536;
/// Most tensors; the largest models have some thousands.
const TENSORS_MAX: u64 = 1 << 20;
/// Longest string in bytes; chat templates and vocabulary entries are the long ones.
const STRING_BYTES_MAX: u64 = 16 << 20;
/// Most elements of an array; vocabularies are the long ones.
const ARRAY_MAX: u64 = 1 << 24;
/// Most dimensions of a tensor (`GGML_MAX_DIMS`).
const DIMENSIONS_MAX: u32 = 4;
/// Deepest array of arrays.
const DEPTH_MAX: u32 = 4;

/// What a header says.
#[derive(Debug, Default)]
pub(crate) struct Header {
    /// For a file that is one of several shards, how many there are.
    pub(crate) shards: u64,
    /// `ggml_type` and number of elements of each tensor.
    pub(crate) tensors: Vec<Tensor>,
}

/// One tensor.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) ggml_type: u32,
    pub(crate) dimensions: u32,
    pub(crate) elements: u64,
    offset: u64,
}

/// Why a file is not a whole GGUF. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GgufError {
    #[error("cannot open the model file {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is not a GGUF file (it does not begin with \"GGUF\")")]
    NotGguf { path: PathBuf },
    #[error("{path} has GGUF version {version}; this node reads versions 2 and 3")]
    Version { path: PathBuf, version: u32 },
    #[error("{path} is truncated: it has {actual} bytes and needs at least {needed}; fetch it again")]
    Truncated { path: PathBuf, actual: u64, needed: u64 },
    #[error("{path} is damaged: {what}; fetch it again")]
    Damaged { path: PathBuf, what: &'static str },
}

/// Bytes and elements of one block of each quantized type (ggml's `type_traits`). Types that are not here are not sized.
fn block(ggml_type: u32) -> Option<(u64, u64)> {
    Some(match ggml_type {
        0 => (4, 1),
        1 | 30 => (2, 1),
        2 => (18, 32),
        3 => (20, 32),
        6 => (22, 32),
        7 => (24, 32),
        8 => (34, 32),
        10 => (84, 256),
        11 => (110, 256),
        12 => (144, 256),
        13 => (176, 256),
        14 => (210, 256),
        20 => (18, 32),
        _ => return None,
    })
}

struct Source<R> {
    reader: R,
    position: u64,
}

enum Broken {
    End,
    Damaged(&'static str),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::End
    }
}

impl<R: Read> Source<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, Broken> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Broken> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn skip(&mut self, count: u64) -> Result<(), Broken> {
        let copied = io::copy(&mut self.reader.by_ref().take(count), &mut io::sink())?;
        self.position += copied;
        if copied == count { Ok(()) } else { Err(Broken::End) }
    }

    fn string(&mut self) -> Result<Vec<u8>, Broken> {
        let length = self.u64()?;
        if length > STRING_BYTES_MAX {
            return Err(Broken::Damaged("a string in its header is absurdly long"));
        }
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Broken::End)?];
        self.reader.read_exact(&mut bytes)?;
        self.position += length;
        Ok(bytes)
    }

    /// Reads a value; an integer is returned, everything else skipped.
    fn value(&mut self, kind: u32, depth: u32) -> Result<Option<u64>, Broken> {
        Ok(match kind {
            0 | 1 | 7 => Some(u64::from(self.bytes::<1>()?[0])),
            2 | 3 => Some(u64::from(u16::from_le_bytes(self.bytes()?))),
            4 | 5 => Some(u64::from(self.u32()?)),
            6 => self.skip(4).map(|()| None)?,
            8 => self.string().map(|_| None)?,
            10 | 11 => Some(self.u64()?),
            12 => self.skip(8).map(|()| None)?,
            9 => {
                let (kind, length) = (self.u32()?, self.u64()?);
                if length > ARRAY_MAX || depth == DEPTH_MAX {
                    return Err(Broken::Damaged("an array in its header is absurdly large"));
                }
                for _ in 0..length {
                    self.value(kind, depth + 1)?;
                }
                None
            }
            _ => return Err(Broken::Damaged("its header has a value of an unknown type")),
        })
    }
}

/// Reads and checks the header of `path`: magic, version, bounds, and that every tensor lies within the file.
pub(crate) fn read(path: &Path) -> Result<Header, GgufError> {
    let at = || path.to_owned();
    let open = |source| GgufError::Open { path: at(), source };
    let file = File::open(path).map_err(open)?;
    let meta = file.metadata().map_err(open)?;
    if !meta.is_file() {
        return Err(open(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    let mut source = Source { reader: BufReader::with_capacity(1 << 16, file), position: 0 };
    if source.bytes::<4>().map_or(true, |magic| &magic != b"GGUF") {
        return Err(GgufError::NotGguf { path: at() });
    }
    let truncated = |needed| GgufError::Truncated { path: at(), actual: meta.len(), needed };
    let version = source.u32().map_err(|_| truncated(8))?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { path: at(), version });
    }
    let (header, end) = body(&mut source).map_err(|broken| match broken {
        Broken::End => truncated(source.position + 1),
        Broken::Damaged(what) => GgufError::Damaged { path: at(), what },
    })?;
    if end > meta.len() {
        return Err(truncated(end));
    }
    Ok(header)
}

/// Everything after the version; also where the last tensor ends in the file.
fn body<R: Read>(source: &mut Source<R>) -> Result<(Header, u64), Broken> {
    let (tensors, entries) = (source.u64()?, source.u64()?);
    if tensors > TENSORS_MAX || entries > ENTRIES_MAX {
        return Err(Broken::Damaged("its header announces absurdly many entries"));
    }
    let mut header = Header::default();
    let mut alignment = 32;
    for _ in 0..entries {
        let key = source.string()?;
        let kind = source.u32()?;
        match (key.as_slice(), source.value(kind, 0)?) {
            (b"general.alignment", Some(value)) => alignment = value,
            (b"split.count", Some(value)) => header.shards = value,
            _ => {}
        }
    }
    if alignment == 0 || !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(Broken::Damaged("its alignment is not a power of two"));
    }
    for _ in 0..tensors {
        source.string()?;
        let dimensions = source.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(Broken::Damaged("a tensor has too many dimensions"));
        }
        let mut elements = 1u64;
        for _ in 0..dimensions {
            let size = source.u64()?;
            elements = elements
                .checked_mul(size)
                .filter(|&e| e > 0 && e < 1 << 50)
                .ok_or(Broken::Damaged("a tensor has an absurd size"))?;
        }
        let ggml_type = source.u32()?;
        let offset = source.u64()?;
        header.tensors.push(Tensor { ggml_type, dimensions, elements, offset });
    }
    let data = source.position.next_multiple_of(alignment);
    let end = header.tensors.iter().map(|tensor| {
        let bytes = block(tensor.ggml_type).map_or(0, |(bytes, elements)| tensor.elements.div_ceil(elements) * bytes);
        data.saturating_add(tensor.offset).saturating_add(bytes)
    });
    let end = end.max().unwrap_or(data);
    Ok((header, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("model.gguf");
        std::fs::write(&path, bytes).expect("a file");
        (directory, path)
    }

    /// One F32 tensor of `elements` elements and `data` bytes behind the header.
    fn minimal(elements: u64, data: usize) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.push(b't');
        bytes.extend(1u32.to_le_bytes());
        bytes.extend(elements.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(0u64.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
        bytes
    }

    #[test]
    fn broken_files_are_refused_with_a_reason() {
        let check = |bytes: &[u8], reason: &str| {
            let (_directory, path) = file(bytes);
            let error = read(&path).expect_err(reason).to_string();
            assert!(error.contains(reason), "{error:?} must say {reason:?}");
        };
        check(b"", "not a GGUF");
        check(b"PK\x03\x04 a zip", "not a GGUF");
        check(b"GGUF\x09\0\0\0", "version 9");
        check(b"GGUF\x03\0\0\0\x01", "truncated");
        check(&minimal(8, 32)[..40], "truncated");
        check(&minimal(8, 31), "truncated");
        check(&minimal(1 << 60, 0), "absurd size");
        check(&minimal(0, 0), "absurd size");
        let mut many = minimal(8, 32);
        many[8..16].fill(0xff);
        check(&many, "absurdly many");
        assert!(read(Path::new("/nonexistent.gguf")).expect_err("missing").to_string().contains("cannot open"));
        assert!(read(Path::new("/")).expect_err("a directory").to_string().contains("not a regular file"));
    }

    #[test]
    fn a_whole_file_is_read() {
        let (_directory, path) = file(&minimal(8, 32));
        let header = read(&path).expect("whole");
        assert_eq!((header.tensors.len(), header.tensors[0].elements, header.shards), (1, 8, 0));
    }
}
