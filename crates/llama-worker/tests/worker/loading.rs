use std::{fs, path::PathBuf};

use engine_ipc::WorkerConfig;

use crate::harness::{Worker, config, model};

fn refusal(path: PathBuf) -> String {
    match Worker::try_start(WorkerConfig { model: path, ..config() }) {
        Ok(_) => panic!("it must not load"),
        Err(reason) => reason,
    }
}

#[test]
fn broken_models_are_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let whole = fs::read(model()).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let check = |path: PathBuf, expected: &str| {
        let reason = refusal(path);
        assert!(reason.contains(expected), "{reason:?} must say {expected:?}");
    };
    check(directory.path().join("absent.gguf"), "does not exist");
    check(directory.path().to_owned(), "does not exist");
    check(file("empty.gguf", b""), "not a GGUF");
    check(file("page.gguf", b"<html>not found</html>"), "not a GGUF");
    check(file("half.gguf", &whole[..whole.len() / 2]), "truncated");
    check(file("header.gguf", &whole[..1000]), "truncated");
    check(file("last.gguf", &whole[..whole.len() - 1]), "truncated");
    // A header that is whole but makes no sense: llama.cpp's own words.
    let mut renamed = whole.clone();
    let at = renamed.windows(5).position(|bytes| bytes == b"llama").unwrap();
    renamed[at..at + 5].copy_from_slice(b"lamas");
    check(file("architecture.gguf", &renamed), "lamas");
}

#[test]
fn the_worker_ends_when_the_engine_does() {
    Worker::start(config()).stop();
    let mut busy = Worker::start(config());
    busy.submit("a", crate::harness::ask("Count to a thousand."), |s| s.max_tokens = 400);
    // The answer that nobody reads any more may fail the write; what counts is that the worker is gone.
    let _ = busy.abandon();
}

#[test]
fn converted_weights_load_and_answer() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("converted.gguf");
    let target = llama_worker::repack_plan(&model(), llama_worker::RepackMode::Fast).unwrap();
    llama_worker::quantize(&model(), &output, target).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing partial is left");
    assert_eq!(llama_worker::repack_plan(&output, llama_worker::RepackMode::Fast), None, "once is enough");
    let mut worker = Worker::start(WorkerConfig { model: output, ..config() });
    assert!(!worker.answer("a", crate::harness::ask("Hello!"), |_| {}).tokens.is_empty());
    worker.stop();
}
