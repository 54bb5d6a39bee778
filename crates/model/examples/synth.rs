//! Writes a random-weight checkpoint: `cargo run --release -p outpour-model --example synth -- CONFIG.json FOLDER`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, folder] = &arguments[..] else { return Err("usage: synth CONFIG.json FOLDER".into()) };
    let config = serde_json::from_slice(&std::fs::read(config)?)?;
    Ok(outpour_model::synth::write(&config, Path::new(folder), 1)?)
}
