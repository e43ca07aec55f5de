//! Converts weights to a format that llama.cpp has fast CPU kernels for (docs/adr/0004-repack.md has the measurements).

use std::{ffi::CString, fs, path::Path};

use llama_cpp_sys_2 as sys;

use crate::{QuantizeError, ffi, gguf, load};

/// `engine.repack`: how much change is allowed for speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepackMode {
    /// The file as it is.
    Off,
    /// Only a conversion whose error is far below that of the format itself.
    Lossless,
    /// The fastest format; answers change.
    Fast,
}

/// What to convert to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepackTarget {
    /// 8.5 bits a weight.
    Q8_0,
    /// 4.5 bits a weight.
    Q4_0,
}

impl RepackTarget {
    /// The name for file names and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
        }
    }
}

/// What `model` is to be converted to under `mode`; `None` where nothing is gained, or where the file is one of several
/// shards or cannot be read (loading then says why).
///
/// Which formats have repacked kernels is llama.cpp's `ggml-cpu/repack.cpp`: on AVX2 Q4_0, Q4_K, IQ4_NL and MXFP4; on
/// ARM also Q5_K, Q6_K and Q8_0. Float weights are left alone: who ships them wants them.
#[must_use]
pub fn repack_plan(model: &Path, mode: RepackMode) -> Option<RepackTarget> {
    if mode == RepackMode::Off {
        return None;
    }
    let header = gguf::read(model).ok()?;
    if header.shards > 1 {
        return None;
    }
    plan(mode, dominant(&header)?)
}

/// The type of most weights in matrices.
fn dominant(header: &gguf::Header) -> Option<u32> {
    let mut sums: Vec<(u32, u64)> = Vec::new();
    for tensor in header.tensors.iter().filter(|tensor| tensor.dimensions >= 2) {
        match sums.iter_mut().find(|(ggml_type, _)| *ggml_type == tensor.ggml_type) {
            Some((_, sum)) => *sum += tensor.elements,
            None => sums.push((tensor.ggml_type, tensor.elements)),
        }
    }
    sums.into_iter().max_by_key(|(_, sum)| *sum).map(|(ggml_type, _)| ggml_type)
}

fn plan(mode: RepackMode, ggml_type: u32) -> Option<RepackTarget> {
    const FLOATS: [u32; 3] = [0, 1, 30];
    const Q4_0: u32 = 2;
    // Kernels on x86-64 and ARM alike.
    const FAST: [u32; 4] = [Q4_0, 12, 20, 39];
    // Legacy formats with a minimum or a fifth bit: no repacked kernel anywhere, and Q8_0 holds them almost exactly.
    const SLOW_LEGACY: [u32; 3] = [3, 6, 7];
    match mode {
        RepackMode::Off => None,
        RepackMode::Lossless => SLOW_LEGACY.contains(&ggml_type).then_some(RepackTarget::Q8_0),
        RepackMode::Fast => (!FLOATS.contains(&ggml_type) && !FAST.contains(&ggml_type)).then_some(RepackTarget::Q4_0),
    }
}

/// Writes `input`, its weights converted to `target`, to `output`. `output` appears whole or not at all: the bytes go to
/// a temporary name beside it, are synced, and are renamed.
///
/// # Errors
/// [`QuantizeError`]; `output` is untouched then.
pub fn quantize(input: &Path, output: &Path, target: RepackTarget) -> Result<(), QuantizeError> {
    load::init_backend();
    gguf::read(input).map_err(|error| QuantizeError::Input(error.to_string()))?;
    // `.tmp`: what a killed conversion leaves is removed at a later start, like every other temporary file.
    let partial = output.with_added_extension(format!("{}.tmp", std::process::id()));
    let c_path = |path: &Path| {
        path.to_str().and_then(|path| CString::new(path).ok()).ok_or_else(|| QuantizeError::Path(path.to_owned()))
    };
    let (from, to) = (c_path(input)?, c_path(&partial)?);
    let (ftype, pure) = match target {
        RepackTarget::Q8_0 => (sys::LLAMA_FTYPE_MOSTLY_Q8_0, false),
        // Not pure: llama.cpp keeps the output matrix at six bits, where four cost the most.
        RepackTarget::Q4_0 => (sys::LLAMA_FTYPE_MOSTLY_Q4_0, false),
    };
    let io = |source| QuantizeError::Io { path: output.to_owned(), source };
    let result = ffi::model_quantize(&from, &to, ftype, pure)
        .map_err(QuantizeError::Llama)
        .and_then(|()| fs::File::open(&partial).and_then(|file| file.sync_all()).map_err(io))
        .and_then(|()| fs::rename(&partial, output).map_err(io));
    if result.is_err() {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&partial);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slow_formats_are_converted() {
        let (q4_1, q4_0, q4_k, q6_k, q8_0, f16) = (3, 2, 12, 14, 8, 1);
        let lossless = |ggml_type| plan(RepackMode::Lossless, ggml_type);
        let fast = |ggml_type| plan(RepackMode::Fast, ggml_type);
        assert_eq!(plan(RepackMode::Off, q4_1), None);
        for same in [q4_0, q4_k, q8_0, f16] {
            assert_eq!(lossless(same), None, "{same}");
        }
        assert_eq!(lossless(q4_1), Some(RepackTarget::Q8_0));
        for same in [q4_0, q4_k, f16] {
            assert_eq!(fast(same), None, "{same}");
        }
        for slow in [q4_1, q6_k, q8_0] {
            assert_eq!(fast(slow), Some(RepackTarget::Q4_0), "{slow}");
        }
    }

    #[test]
    fn a_broken_input_leaves_no_output() {
        let directory = tempfile::tempdir().expect("a directory");
        let (input, output) = (directory.path().join("in.gguf"), directory.path().join("out.gguf"));
        std::fs::write(&input, b"GGUF\x03\0\0\0 nothing").expect("a file");
        assert!(quantize(&input, &output, RepackTarget::Q8_0).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 1);
        assert_eq!(repack_plan(&input, RepackMode::Fast), None);
    }
}
