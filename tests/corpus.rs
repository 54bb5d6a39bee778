//! What fuzzing found worth keeping (`fuzz/README.md`): every input of the corpus is read or refused, without a panic.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;

fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&corpus).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "only {} inputs in {}", inputs.len(), corpus.display());
    for input in inputs {
        println!("{}", input.display());
        run(&fs::read(&input).expect("an input"));
    }
    fs::remove_dir_all(targets::folder(target)).expect("what was made");
}

#[test]
fn safetensors() {
    replay("safetensors", targets::safetensors);
}

#[test]
fn gguf() {
    replay("gguf", targets::gguf);
}

#[test]
fn config() {
    replay("config", targets::config);
}

#[test]
fn tokenizer() {
    replay("tokenizer", targets::tokenizer);
}

#[test]
fn template() {
    replay("template", targets::template);
}
