//! A GGUF file: whatever its bytes, its model is opened or refused, and so is its tokenizer.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outpour_engine::Inspection;
use outpour_store::checkpoint::Checkpoint;

static FILE: LazyLock<PathBuf> = LazyLock::new(|| outpour_fuzz::folder("gguf").join("model.gguf"));

fuzz_target!(|data: &[u8]| {
    fs::write(&*FILE, data).expect("a file");
    let Ok(checkpoint) = Checkpoint::open(&FILE) else { return };
    if let Some(metadata) = checkpoint.gguf() {
        for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"] {
            // What is no list of that kind is refused.
            let _ = (metadata.texts(key), metadata.numbers(key));
        }
    }
    let _ = Inspection::open(&FILE, false);
});
