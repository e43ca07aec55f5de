/// Incremental, lossy UTF-8: whatever the cuts, the text is that of [`String::from_utf8_lossy`] over all the bytes.
#[derive(Debug, Default)]
pub(super) struct Utf8Decoder {
    /// An unfinished character: at most three bytes between calls.
    tail: Vec<u8>,
}

impl Utf8Decoder {
    /// The characters that are whole now; each invalid sequence is one U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.tail.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.tail.len());
        let mut rest = self.tail.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(std::str::from_utf8(valid).expect("valid_up_to ends a valid prefix"));
                    let Some(invalid) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        }
        self.tail = rest.to_vec();
        text
    }

    /// No more bytes: an unfinished character is one U+FFFD.
    pub(super) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.tail)).into_owned()
    }
}
