//! Length-prefixed postcard. Blocking readers and writers are here; async ones read the length and call [`decode`].

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Largest frame in bytes: a full-context prompt with its schema fits many times over.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other end is gone, or the socket failed.
    #[error("worker socket: {0}")]
    Io(#[from] io::Error),
    /// The frame announces more than [`FRAME_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit of {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// The bytes are not a frame.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
}

impl FrameError {
    /// Whether the other end closed the socket between frames.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof)
    }
}

/// Encodes one frame, its length included.
///
/// # Errors
/// [`FrameError::TooLarge`] when it does not fit, [`FrameError::Malformed`] when it cannot be encoded.
pub fn encode<T: Serialize>(frame: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(frame, vec![0; 4])?;
    let length = bytes.len() - 4;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let length = u32::try_from(length).expect("FRAME_BYTES_MAX fits in u32");
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Decodes a frame's body (what follows the length).
///
/// # Errors
/// [`FrameError::Malformed`] when the bytes are not a `T`.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(postcard::from_bytes(body)?)
}

/// Writes one frame in one call.
///
/// # Errors
/// As [`encode`], and when the socket fails.
pub fn write_frame<T: Serialize>(writer: &mut impl Write, frame: &T) -> Result<(), FrameError> {
    writer.write_all(&encode(frame)?)?;
    Ok(())
}

/// Reads one frame; blocks until it is whole.
///
/// # Errors
/// [`FrameError::Io`] with `UnexpectedEof` when the other end closed; others as they are named.
pub fn read_frame<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    reader.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge(length));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    decode(&body)
}

#[cfg(test)]
mod tests;
