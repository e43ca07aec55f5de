//! `CKA_EC_POINT` of an Ed25519 key: PKCS#11 has it in a DER OCTET STRING or a BIT STRING, by version, and some tokens give
//! the bare point.

use signing::{PUBLIC_KEY_BYTES, PublicKey};

/// The key in `point`.
pub(super) fn ed25519(point: &[u8]) -> Option<PublicKey> {
    let bare = match point {
        [0x04, 0x20, key @ ..] | [0x03, 0x21, 0x00, key @ ..] if key.len() == PUBLIC_KEY_BYTES => key,
        key => key,
    };
    PublicKey::from_bytes(bare).ok()
}

#[cfg(test)]
mod tests {
    use signing::{SecretKey, Signer as _};

    use super::*;

    #[test]
    fn every_way_to_write_a_point_is_read() {
        let key = SecretKey::from_seed(&[7; 32]).unwrap().public_key();
        let check = |prefix: &[u8], expected: Option<PublicKey>| {
            assert_eq!(ed25519(&[prefix, key.as_bytes()].concat()), expected, "{prefix:02x?}");
        };
        check(&[0x04, 0x21], None);
        check(&[0x04], None);
        check(&[], Some(key));
        check(&[0x04, 0x20], Some(key));
        check(&[0x03, 0x21, 0x00], Some(key));
        assert_eq!(ed25519(&[]), None);
        assert_eq!(ed25519(&[0x04, 0x20]), None);
    }
}
