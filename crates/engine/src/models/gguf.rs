use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use super::ModelError;

/// Most metadata entries, tensors and array elements, and the longest string, that a header may announce: far beyond
/// any model, and small enough that a forged header ends the check quickly.
const ENTRIES_MAX: u64 = 1 << 20;
const ELEMENTS_MAX: u64 = 1 << 26;
const STRING_BYTES_MAX: u64 = 1 << 26;
/// GGUF's own limit.
const DIMENSIONS_MAX: u32 = 4;
/// GGUF's default for `general.alignment`.
const ALIGNMENT_DEFAULT: u64 = 32;

/// Checks that a file is GGUF (version 2 or 3) and as long as its header promises. Reads the header only.
///
/// # Errors
/// [`ModelError::NotGguf`], [`ModelError::Truncated`] or [`ModelError::Io`].
pub fn check_gguf(path: &Path) -> Result<(), ModelError> {
    let not_gguf = |reason: &str| ModelError::NotGguf { path: path.to_owned(), reason: reason.to_owned() };
    let file = File::open(path).map_err(ModelError::io(path))?;
    let actual_bytes = file.metadata().map_err(ModelError::io(path))?.len();
    let mut header = Header { reader: BufReader::new(file), position: 0, file_bytes: actual_bytes };
    let mut magic = [0; 4];
    match header.reader.read_exact(&mut magic) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(not_gguf("it is almost empty")),
        Err(error) => return Err(ModelError::Io { path: path.to_owned(), source: error }),
        Ok(()) if &magic == b"GGUF" => header.position = 4,
        Ok(()) if magic == *b"FUGG" => return Err(not_gguf("it is big-endian, which this engine does not read")),
        Ok(()) => return Err(not_gguf(describe(magic))),
    }
    match header.expected_bytes() {
        Ok(expected_bytes) if actual_bytes < expected_bytes => {
            Err(ModelError::Truncated { path: path.to_owned(), actual_bytes, expected_bytes })
        }
        Ok(_) => Ok(()),
        Err(Bad::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(ModelError::Truncated {
            path: path.to_owned(),
            actual_bytes,
            expected_bytes: header.position.max(actual_bytes + 1),
        }),
        Err(Bad::Io(source)) => Err(ModelError::Io { path: path.to_owned(), source }),
        Err(Bad::Header(reason)) => Err(not_gguf(&reason)),
    }
}

fn describe(magic: [u8; 4]) -> &'static str {
    match &magic {
        b"ggml" | b"lmgg" | b"tjgg" => "it is in a format that came before GGUF; convert it or take a newer file",
        b"PK\x03\x04" => "it is a ZIP archive (a PyTorch checkpoint?); convert it to GGUF",
        b"vers" => "it is a Git LFS pointer: fetch the file itself with `git lfs pull`",
        [b'<', ..] => "it is a web page: the download answered with an error page",
        _ => "it does not begin with GGUF",
    }
}

enum Bad {
    Io(io::Error),
    Header(String),
}

impl From<io::Error> for Bad {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Header {
    reader: BufReader<File>,
    position: u64,
    file_bytes: u64,
}

impl Header {
    /// Reads the header after the magic, and computes where the last tensor ends.
    /// Layout: the GGUF specification in ggml's `docs/gguf.md`.
    fn expected_bytes(&mut self) -> Result<u64, Bad> {
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(Bad::Header(format!("version {version} is unknown")));
        }
        let tensors = self.bounded("tensors", ENTRIES_MAX)?;
        let entries = self.bounded("metadata entries", ENTRIES_MAX)?;
        let mut alignment = ALIGNMENT_DEFAULT;
        for _ in 0..entries {
            let key = self.string()?;
            let kind = self.u32()?;
            if key == b"general.alignment" && kind == 4 {
                alignment = self.u32()?.into();
            } else {
                self.skip_value(kind, 0)?;
            }
        }
        if !alignment.is_power_of_two() {
            return Err(Bad::Header(format!("alignment {alignment} is not a power of two")));
        }
        let mut data_bytes = 0;
        for _ in 0..tensors {
            data_bytes = data_bytes.max(self.tensor_end()?);
        }
        if tensors == 0 {
            return Ok(self.position);
        }
        Ok(self.position.next_multiple_of(alignment).saturating_add(data_bytes))
    }

    fn tensor_end(&mut self) -> Result<u64, Bad> {
        self.string()?;
        let dimensions = self.u32()?;
        if dimensions > DIMENSIONS_MAX {
            return Err(Bad::Header(format!("a tensor has {dimensions} dimensions")));
        }
        let mut elements: u64 = 1;
        for _ in 0..dimensions {
            elements = elements.saturating_mul(self.u64()?);
        }
        let kind = self.u32()?;
        let offset = self.u64()?;
        // A type that is newer than this table: that the tensor begins within the file is all that can be said.
        let bytes = block(kind).map_or(1, |(block, bytes)| elements.div_ceil(block).saturating_mul(bytes));
        Ok(offset.saturating_add(bytes))
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), Bad> {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => self.string().map(drop),
            9 if depth < 4 => {
                let kind = self.u32()?;
                let count = self.bounded("array elements", ELEMENTS_MAX)?;
                match kind {
                    0 | 1 | 7 => self.skip(count),
                    2 | 3 => self.skip(count * 2),
                    4..=6 => self.skip(count * 4),
                    10..=12 => self.skip(count * 8),
                    _ => (0..count).try_for_each(|_| self.skip_value(kind, depth + 1)),
                }
            }
            _ => Err(Bad::Header(format!("a metadata entry has the unknown type {kind}"))),
        }
    }

    fn string(&mut self) -> Result<Vec<u8>, Bad> {
        let length = self.bounded("bytes of a string", STRING_BYTES_MAX)?;
        let keep = length.min(64);
        let mut text = vec![0; usize::try_from(keep).expect("at most 64")];
        self.reader.read_exact(&mut text)?;
        self.position += keep;
        self.skip(length - keep)?;
        Ok(text)
    }

    fn bounded(&mut self, what: &str, max: u64) -> Result<u64, Bad> {
        let count = self.u64()?;
        if count > max { Err(Bad::Header(format!("its header announces {count} {what}"))) } else { Ok(count) }
    }

    fn u32(&mut self) -> Result<u32, Bad> {
        let mut bytes = [0; 4];
        self.reader.read_exact(&mut bytes)?;
        self.position += 4;
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, Bad> {
        let mut bytes = [0; 8];
        self.reader.read_exact(&mut bytes)?;
        self.position += 8;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Seeking beyond the end succeeds on files, so the end is checked here.
    fn skip(&mut self, bytes: u64) -> Result<(), Bad> {
        self.position = self.position.saturating_add(bytes);
        if self.position > self.file_bytes {
            return Err(Bad::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        match i64::try_from(bytes) {
            Ok(bytes) => self.reader.seek_relative(bytes)?,
            Err(_) => drop(self.reader.seek(SeekFrom::Start(self.position))?),
        }
        Ok(())
    }
}

/// Elements and bytes of a block of each tensor type (`ggml_type` and its traits in ggml.h and ggml-common.h).
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        0 | 26 => (1, 4),      // F32, I32
        1 | 25 | 30 => (1, 2), // F16, I16, BF16
        2 => (32, 18),         // Q4_0
        3 => (32, 20),         // Q4_1
        6 => (32, 22),         // Q5_0
        7 => (32, 24),         // Q5_1
        8 => (32, 34),         // Q8_0
        10 => (256, 84),       // Q2_K
        11 => (256, 110),      // Q3_K
        12 => (256, 144),      // Q4_K
        13 => (256, 176),      // Q5_K
        14 => (256, 210),      // Q6_K
        16 => (256, 66),       // IQ2_XXS
        17 => (256, 74),       // IQ2_XS
        18 => (256, 98),       // IQ3_XXS
        19 => (256, 50),       // IQ1_S
        20 => (32, 18),        // IQ4_NL
        21 => (256, 110),      // IQ3_S
        22 => (256, 82),       // IQ2_S
        23 => (256, 136),      // IQ4_XS
        24 => (1, 1),          // I8
        27 | 28 => (1, 8),     // I64, F64
        29 => (256, 56),       // IQ1_M
        34 => (256, 54),       // TQ1_0
        35 => (256, 66),       // TQ2_0
        39 => (32, 17),        // MXFP4
        _ => return None,
    })
}
