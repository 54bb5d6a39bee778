//! A weight file of a known config: whatever its bytes, it is opened or refused.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outpour_engine::Inspection;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = outpour_fuzz::folder("safetensors");
    let config = include_bytes!("../../tests/fixtures/qwen3_moe_odd/config.json");
    fs::write(folder.join("config.json"), config).expect("a file");
    folder
});

fuzz_target!(|data: &[u8]| {
    fs::write(FOLDER.join("model.safetensors"), data).expect("a file");
    if let Err(error) = Inspection::open(&FOLDER, false) {
        assert!(!error.to_string().is_empty());
    }
});
