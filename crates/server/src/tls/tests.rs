use std::{fs, path::PathBuf};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).expect("writes");
        path
    }

    /// A self-signed certificate that ends in a year.
    fn pair(&self, name: &str, ends_in_year: i32) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned(), "127.0.0.1".to_owned()]).expect("names");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends_in_year, 1, 1);
        let certificate = params.self_signed(&key).expect("signs");
        TlsFiles {
            certificate: self.file(&format!("{name}.crt"), &certificate.pem()),
            key: self.file(&format!("{name}.key"), &key.serialize_pem()),
            client_ca: None,
            client_auth: ClientAuth::Required,
        }
    }
}

#[test]
fn files_that_are_no_pair_say_which_and_why() {
    let folder = Folder::new();
    let good = folder.pair("good", 2090);
    let other = folder.pair("other", 2090);
    let check = |files: TlsFiles, part: &str| {
        let error = files.check().expect_err(part).to_string();
        assert!(error.contains(part), "{part} in {error}");
    };
    let with_key = |key: PathBuf| TlsFiles { key, ..good.clone() };
    let with_certificate = |certificate: PathBuf| TlsFiles { certificate, ..good.clone() };
    check(with_key(folder.0.path().join("missing")), "missing cannot be read");
    check(with_key(good.certificate.clone()), "no whole `BEGIN PRIVATE KEY`");
    check(with_key(folder.file("empty", "")), "no whole `BEGIN PRIVATE KEY`");
    check(with_key(other.key.clone()), "does not belong to the certificate");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    check(with_key(folder.file("encrypted", encrypted)), "it is encrypted");
    let strange = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    check(with_key(folder.file("strange", strange)), "none of RSA");
    check(with_certificate(good.key.clone()), "no `BEGIN CERTIFICATE`");
    let text = fs::read_to_string(&good.certificate).expect("reads");
    check(with_certificate(folder.file("short", &text[..text.len() / 2])), "cut short");
    let strange = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(with_certificate(folder.file("strange.crt", strange)), "not X.509");
    check(with_certificate(folder.file("large", &"x".repeat(2 << 20))), "more than 1048576 bytes");
    check(TlsFiles { client_ca: Some(folder.file("none", "")), ..good.clone() }, "no `BEGIN CERTIFICATE`");
    assert!(good.check().is_ok());
}

#[test]
fn a_message_quotes_no_key() {
    let folder = Folder::new();
    let good = folder.pair("good", 2090);
    let text = fs::read_to_string(&good.key).expect("reads");
    let secret = text.lines().nth(1).expect("a line of the key");
    // Without its last line, and with its text where the head belongs.
    for broken in [&text[..text.len() - 20], &format!("-----BEGIN {secret}\n{text}")] {
        let files = TlsFiles { key: folder.file("broken", broken), ..good.clone() };
        if let Err(error) = files.check() {
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
    }
}

#[test]
fn names_and_dates_are_those_of_the_chain() {
    let folder = Folder::new();
    let (long, short) = (folder.pair("node.example", 2090), folder.pair("authority.example", 2030));
    let chain = [&long.certificate, &short.certificate].map(|path| fs::read_to_string(path).expect("reads")).concat();
    let files = TlsFiles { certificate: folder.file("chain", &chain), ..long };
    let certificate = files.check().expect("valid");
    assert_eq!(certificate.names, ["node.example", "127.0.0.1"]);
    let end = 1_893_456_000; // 2030-01-01
    assert_eq!(certificate.not_after, end, "the chain is as good as the first that ends");
    assert!(certificate.has_ended(end) && !certificate.has_ended(end - 1));
    assert!(certificate.is_early(1_500_000_000));
    assert_eq!((certificate.days_left(end - 86_400), certificate.days_left(end + 1)), (1, -1));
}

#[test]
fn an_invalid_successor_changes_nothing() {
    let folder = Folder::new();
    let files = folder.pair("node", 2090);
    let tls = Tls::load("public", files.clone(), &TlsMetrics::default()).expect("valid");
    let before = tls.certificate();
    let refuse = |part: &str| {
        let error = tls.reload().expect_err(part).to_string();
        assert!(error.contains(part), "{part} in {error}");
        assert_eq!(tls.certificate(), before);
    };
    fs::write(&files.certificate, "nonsense").expect("writes");
    refuse("no `BEGIN CERTIFICATE`");
    let ended = folder.pair("ended", 2021);
    fs::copy(&ended.certificate, &files.certificate).expect("copies");
    refuse("does not belong");
    fs::copy(&ended.key, &files.key).expect("copies");
    refuse("has ended");
    folder.pair("node", 2091);
    assert_ne!(tls.reload().expect("a good one"), before);
    // A node that starts with one that has ended does start.
    assert!(Tls::load("admin", ended, &TlsMetrics::default()).is_ok());
}
