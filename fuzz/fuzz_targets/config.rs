//! A config.json alone: whatever it says, its model is laid out, opened and planned, or refused.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use outpour_engine::{Inspection, Options};
use outpour_model::synth::{self, Format};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| outpour_fuzz::folder("config"));

fuzz_target!(|data: &[u8]| {
    let Ok(config) = serde_json::from_slice(data) else { return };
    let Ok(format) = Format::of_config(&config) else { return };
    let made = FOLDER.join("model");
    if synth::outline(&config, format, &made).is_ok()
        && let Ok(inspection) = Inspection::open(&made, false)
    {
        let _ = inspection.plan(&Options { ram: 8 << 30, ctx: None, threads: Some(1), ..Options::default() });
    }
    if made.exists() {
        std::fs::remove_dir_all(&made).expect("what was made");
    }
});
