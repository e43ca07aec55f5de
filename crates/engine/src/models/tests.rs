mod hub;

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::*;

/// Counts the bytes that were shown.
#[derive(Default)]
struct Shown(AtomicU64);

impl Progress for Shown {
    fn start(&self, _stage: Stage, _label: &str, _total_bytes: u64) {}
    fn inc(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
    fn finish(&self) {}
}

impl Shown {
    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

fn put_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A GGUF with metadata of several types and one Q4_1 tensor of 64 elements (2 blocks, 40 bytes).
fn gguf() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(3_u64.to_le_bytes());
    put_string(&mut bytes, "general.name");
    bytes.extend(8_u32.to_le_bytes());
    put_string(&mut bytes, "test");
    put_string(&mut bytes, "general.alignment");
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend(32_u32.to_le_bytes());
    put_string(&mut bytes, "tokenizer.ggml.tokens");
    bytes.extend(9_u32.to_le_bytes());
    bytes.extend(8_u32.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    put_string(&mut bytes, "a");
    put_string(&mut bytes, &"long".repeat(40));
    put_string(&mut bytes, "token_embd.weight");
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend(32_u64.to_le_bytes());
    bytes.extend(2_u64.to_le_bytes());
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 40, 7);
    bytes
}

fn write(directory: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, bytes).expect("writes");
    path
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn what_is_no_gguf_is_said_to_be_what_it_is() {
    let dir = directory();
    let check = |bytes: &[u8], why: &str| {
        let path = write(dir.path(), "x.gguf", bytes);
        let error = check_gguf(&path).expect_err(why).to_string();
        assert!(error.contains(why) && error.contains("x.gguf"), "{why}: {error}");
    };
    check(b"", "almost empty");
    check(b"<!DOCTYPE html>", "web page");
    check(b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer");
    check(b"PK\x03\x04....", "ZIP archive");
    check(b"some text", "does not begin with GGUF");
    check(b"GGUF\x09\0\0\0................", "version 9");
    let mut huge = gguf();
    huge[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    check(&huge, "announces");
    let mut endless = gguf();
    endless[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    check(&endless, "announces");
    assert!(matches!(check_gguf(dir.path().join("none").as_path()), Err(ModelError::Io { .. })));
}

#[test]
fn a_file_that_is_cut_short_anywhere_is_noticed() {
    let dir = directory();
    let whole = gguf();
    check_gguf(&write(dir.path(), "x.gguf", &whole)).expect("whole");
    for length in 4..whole.len() {
        let path = write(dir.path(), "x.gguf", &whole[..length]);
        match check_gguf(&path) {
            Err(ModelError::Truncated { actual_bytes, expected_bytes, .. }) => {
                assert_eq!(actual_bytes, length as u64);
                assert!(expected_bytes > actual_bytes);
            }
            other => panic!("cut at {length}: {other:?}"),
        }
    }
}

#[test]
fn the_real_model_passes() {
    let path = std::env::var("LLM_NODE_TEST_MODEL").expect("LLM_NODE_TEST_MODEL names the test model: see `make test`");
    check_gguf(Path::new(&path)).expect("a whole GGUF");
}

#[test]
fn missing_files_and_shards_are_listed() {
    let dir = directory();
    let find = |name: &str| resolve(&dir.path().join(name).to_string_lossy(), dir.path(), &());
    assert!(matches!(find("none.gguf"), Err(ModelError::Missing(_))));
    write(dir.path(), "m-00002-of-00003.gguf", &gguf());
    let error = find("m-00002-of-00003.gguf").expect_err("two are missing").to_string();
    assert!(error.contains("m-00001-of-00003.gguf") && error.contains("m-00003-of-00003.gguf"), "{error}");
    assert!(!error.contains("m-00002"), "{error}");
    write(dir.path(), "m-00001-of-00003.gguf", &gguf());
    let third = write(dir.path(), "m-00003-of-00003.gguf", &gguf()[..40]);
    assert!(matches!(find("m-00003-of-00003.gguf"), Err(ModelError::Truncated { path, .. }) if path == third));
    write(dir.path(), "m-00003-of-00003.gguf", &gguf());
    let files = find("m-00003-of-00003.gguf").expect("whole");
    assert_eq!((files.first(), files.shards.len()), (dir.path().join("m-00001-of-00003.gguf").as_path(), 3));
}

#[test]
fn the_digest_is_over_the_shards_in_order_and_remembered_while_nothing_changed() {
    let dir = directory();
    let shards = vec![write(dir.path(), "a", b"hello "), write(dir.path(), "b", b"world")];
    let files = ModelFiles { shards: shards.clone() };
    let shown = Shown::default();
    let hello_world = "sha256:b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
    assert_eq!(digest(&files, dir.path(), &shown).expect("reads"), hello_world);
    assert_eq!(shown.take(), 11);
    assert_eq!(digest(&files, dir.path(), &shown).expect("remembers"), hello_world);
    assert_eq!(shown.take(), 0, "the weights were read again");

    // The same size, another content and time.
    fs::write(&shards[1], b"WORLD").expect("writes");
    let file = fs::File::options().write(true).open(&shards[1]).expect("opens");
    file.set_modified(SystemTime::now() - Duration::from_secs(5)).expect("sets the time");
    assert_ne!(digest(&files, dir.path(), &shown).expect("reads"), hello_world);
    assert_eq!(shown.take(), 11);

    let remembered = fs::read_dir(dir.path().join("models/digests")).expect("is there").next().expect("one");
    fs::write(remembered.expect("an entry").path(), "garbage").expect("writes");
    digest(&files, dir.path(), &shown).expect("reads");
    assert_eq!(shown.take(), 11, "garbage is no memory");
}

#[test]
fn a_data_directory_that_cannot_be_written_costs_only_time() {
    let dir = directory();
    let files = ModelFiles { shards: vec![write(dir.path(), "a", b"hello")] };
    let no_directory = write(dir.path(), "file", b"");
    assert!(digest(&files, &no_directory, &()).is_ok());
}

#[test]
fn digests_are_compared() {
    let digest = format!("sha256:{}", "a".repeat(64));
    verify_digest(&digest, &digest).expect("equal");
    verify_digest(&digest, &digest.to_uppercase().replace("SHA256", "sha256")).expect("case does not matter");
    let other = format!("sha256:{}", "b".repeat(64));
    let error = verify_digest(&digest, &other).expect_err("differ").to_string();
    assert!(error.contains(&digest) && error.contains(&other), "{error}");
    for bad in ["", "sha256:", "aaaa", &"a".repeat(64), &format!("sha256:{}", "g".repeat(64))] {
        assert!(matches!(verify_digest(&digest, bad), Err(ModelError::InvalidDigest(_))), "{bad}");
    }
}

#[test]
fn repacked_weights_have_their_place_and_stale_temporaries_go() {
    let dir = directory();
    let path = repack_cache_path(dir.path(), "sha256:abc", "q8_0");
    assert_eq!(path, dir.path().join("models/repacked/abc.q8_0.gguf"));
    let hostile = repack_cache_path(dir.path(), "sha256:../../x", "../y");
    assert_eq!(hostile, dir.path().join("models/repacked/x.y.gguf"));

    assert_eq!(remove_stale_temporaries(dir.path()).expect("nothing there"), 0);
    let repacked = path.parent().expect("has a parent");
    fs::create_dir_all(repacked).expect("creates");
    let old = SystemTime::now() - Duration::from_secs(3600);
    for (name, is_old) in [("a.1.tmp", true), ("b.2.tmp", false), ("c.gguf", true), ("d.part", true)] {
        let file = fs::File::create(repacked.join(name)).expect("creates");
        if is_old {
            file.set_modified(old).expect("sets the time");
        }
    }
    assert_eq!(remove_stale_temporaries(dir.path()).expect("removes"), 1);
    assert!(!repacked.join("a.1.tmp").exists());
    assert!(["b.2.tmp", "c.gguf", "d.part"].iter().all(|name| repacked.join(name).exists()));
}
