//! Splits a model in one file into shards, as llama.cpp's `gguf-split` does (ggml's `docs/gguf.md`, `split.*` keys).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where tensors begin.
const ALIGNMENT: usize = 32;

/// Writes `model` as two shards, `<name>-00001-of-00002.gguf` and its sibling, to `folder`. The first has all metadata
/// and about half of the weights.
///
/// # Panics
/// When `model` is no whole GGUF (version 2 or 3, aligned to 32 bytes), or `folder` cannot be written.
#[must_use]
pub fn split_model(model: &Path, folder: &Path, name: &str) -> [PathBuf; 2] {
    let bytes = fs::read(model).expect("the model can be read");
    let whole = Whole::parse(&bytes);
    let total: usize = whole.tensors.iter().map(|tensor| tensor.data.len()).sum();
    let mut first_bytes = 0;
    let cut = whole.tensors.iter().position(|tensor| {
        first_bytes += tensor.data.len();
        first_bytes > total / 2
    });
    let (first, second) = whole.tensors.split_at(cut.expect("it has tensors"));
    let count = whole.tensors.len();
    let write = |number: u16, entries: &[&[u8]], tensors: &[Tensor<'_>]| {
        let path = folder.join(format!("{name}-{:05}-of-00002.gguf", number + 1));
        fs::write(&path, shard(number, count, entries, tensors)).expect("the folder is writable");
        path
    };
    [write(0, &whole.entries, first), write(1, &[], second)]
}

fn shard(number: u16, tensors_in_all: usize, entries: &[&[u8]], tensors: &[Tensor<'_>]) -> Vec<u8> {
    let (u16_type, i32_type) = (2_u32, 5_u32);
    let all = i32::try_from(tensors_in_all).expect("few tensors");
    let own = [
        entry("split.no", u16_type, &number.to_le_bytes()),
        entry("split.count", u16_type, &2_u16.to_le_bytes()),
        entry("split.tensors.count", i32_type, &all.to_le_bytes()),
    ];
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(((entries.len() + own.len()) as u64).to_le_bytes());
    entries.iter().for_each(|entry| file.extend(*entry));
    own.iter().for_each(|entry| file.extend(entry));
    let mut offset = 0_u64;
    for tensor in tensors {
        file.extend(tensor.info);
        file.extend(offset.to_le_bytes());
        offset += tensor.data.len().next_multiple_of(ALIGNMENT) as u64;
    }
    for tensor in tensors {
        file.resize(file.len().next_multiple_of(ALIGNMENT), 0);
        file.extend(tensor.data);
    }
    file
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [&(key.len() as u64).to_le_bytes(), key.as_bytes(), &kind.to_le_bytes(), value].concat()
}

/// A model in one file.
struct Whole<'a> {
    /// Each with its key.
    entries: Vec<&'a [u8]>,
    tensors: Vec<Tensor<'a>>,
}

struct Tensor<'a> {
    /// Name, dimensions and type.
    info: &'a [u8],
    data: &'a [u8],
}

impl<'a> Whole<'a> {
    fn parse(bytes: &'a [u8]) -> Self {
        assert_eq!(bytes.get(..4), Some(b"GGUF".as_slice()), "a GGUF");
        let mut at = Cursor { bytes, place: 8 };
        let (tensors, entries) = (at.u64(), at.u64());
        let entries = (0..entries).map(|_| {
            at.taken(|at| {
                at.string();
                let kind = at.u32();
                at.value(kind);
            })
        });
        let entries: Vec<&[u8]> = entries.collect();
        let infos: Vec<(&[u8], usize)> = (0..tensors)
            .map(|_| {
                let info = at.taken(|at| {
                    at.string();
                    let dimensions = at.u32() as usize;
                    at.place += dimensions * 8 + 4;
                });
                (info, usize::try_from(at.u64()).expect("an offset"))
            })
            .collect();
        let data = &bytes[at.place.next_multiple_of(ALIGNMENT)..];
        // Tensors lie in the order of their infos; each ends where the next begins.
        let ends = infos.iter().skip(1).map(|(_, offset)| *offset).chain([data.len()]);
        let tensors =
            infos.iter().zip(ends).map(|((info, offset), end)| Tensor { info, data: &data[*offset..end] }).collect();
        Self { entries, tensors }
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Cursor<'a> {
    /// What `read` passes over.
    fn taken(&mut self, read: impl FnOnce(&mut Self)) -> &'a [u8] {
        let from = self.place;
        read(self);
        &self.bytes[from..self.place]
    }

    fn u32(&mut self) -> u32 {
        let bytes = self.bytes[self.place..self.place + 4].try_into().expect("four bytes");
        self.place += 4;
        u32::from_le_bytes(bytes)
    }

    fn u64(&mut self) -> u64 {
        let bytes = self.bytes[self.place..self.place + 8].try_into().expect("eight bytes");
        self.place += 8;
        u64::from_le_bytes(bytes)
    }

    fn string(&mut self) {
        let length = self.u64();
        self.place += usize::try_from(length).expect("a length");
    }

    fn value(&mut self, kind: u32) {
        match kind {
            0 | 1 | 7 => self.place += 1,
            2 | 3 => self.place += 2,
            4..=6 => self.place += 4,
            10..=12 => self.place += 8,
            8 => self.string(),
            9 => {
                let kind = self.u32();
                let count = self.u64();
                (0..count).for_each(|_| self.value(kind));
            }
            _ => panic!("a value of the unknown type {kind}"),
        }
    }
}
