//! Passphrases and PINs: cleared from memory when dropped, and never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// A passphrase or a PIN.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Passphrase(String);

impl Passphrase {
    /// Takes it without the line break that an editor leaves at the end of a file.
    #[must_use]
    pub fn new(mut text: String) -> Self {
        let passphrase = Self(text.trim_end_matches(['\r', '\n']).to_owned());
        text.zeroize();
        passphrase
    }

    /// Whether it is no passphrase at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}
