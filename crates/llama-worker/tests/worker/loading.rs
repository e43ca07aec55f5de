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

#[test]
fn a_context_that_memory_cannot_hold_is_refused_and_an_automatic_one_is_made_to_fit() {
    // 23,040 bytes a token, 4 sequences: 512 tokens need 45 MiB.
    let with = |memory_mib: u64, context_tokens| {
        let weights = fs::metadata(model()).unwrap().len();
        WorkerConfig { memory_bytes: Some(weights + (memory_mib << 20)), context_tokens, ..config() }
    };
    let Err(reason) = Worker::try_start(with(20, 512)) else { panic!("it must not load") };
    for part in ["512 tokens", "4 sequences", "needs 45 MiB", "set engine.context_tokens to at most 2"] {
        assert!(reason.contains(part), "{reason:?} must say {part:?}");
    }
    Worker::start(with(50, 512)).stop();
    let automatic = Worker::start(with(200, 0));
    assert_eq!(automatic.info.context_tokens, 1024, "90 MiB, the most that a half holds");
    automatic.stop();
}

#[test]
fn a_hostile_chat_template_is_refused_with_a_reason() {
    for template in ["(".repeat(100_000), format!("{}x{}", "{%if a%}".repeat(9000), "{%endif%}".repeat(9000))] {
        let template = if template.starts_with('(') { format!("{{{{ {template} }}}}") } else { template };
        let Err(reason) = Worker::try_start(WorkerConfig { chat_template: Some(template), ..config() }) else {
            panic!("it must not load")
        };
        assert!(reason.contains("chat_template_file"), "{reason}");
    }
}
