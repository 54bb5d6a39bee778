//! A model of which only the config is there, for the verbs that need no weights.

use std::path::Path;

use anyhow::{Context, Result, bail};
use outpour_model::synth::{self, Format};
use outpour_store::checkpoint::parse_json;
use outpour_store::machine::cache_dir;
use outpour_store::pack::MANIFEST;
use outpour_store::read::whole::read_whole;
use outpour_store::temporary::Temporary;
use serde_json::Value;

/// Largest config.json that is read.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Files of the right sizes without data, removed at the end.
pub struct Outline {
    dir: Temporary,
}

impl Outline {
    /// Of a config.json, or of a folder that holds one and no weights; none where `path` holds weights, or nothing.
    /// `format` is how weights will be stored, if not as the config says.
    ///
    /// # Errors
    /// When the config is no model's, `format` is given beside weights, or no folder takes the outline.
    pub fn of(path: &Path, format: Option<Format>) -> Result<Option<Outline>> {
        let config = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
        let has_weights = |path: &Path| {
            path.extension().is_some_and(|end| ["safetensors", "gguf"].iter().any(|weights| end == *weights))
        };
        let weights = |entry: &std::fs::DirEntry| has_weights(&entry.path()) || entry.file_name() == MANIFEST;
        let no_weights = |dir: std::fs::ReadDir| !dir.flatten().any(|entry| weights(&entry));
        if has_weights(path) || path.is_dir() && !(config.is_file() && std::fs::read_dir(path).is_ok_and(no_weights)) {
            if format.is_some() {
                bail!("--format is for a config.json alone: {} holds weights, in their own format", path.display());
            }
            return Ok(None);
        }
        let bytes = read_whole(&config, CONFIG_BYTES_MAX)?;
        let parsed: Value = parse_json(&bytes)
            .with_context(|| format!("{}: is no JSON; give a config.json, or a model's folder", config.display()))?;
        let format = format.map_or_else(|| Format::of_config(&parsed), Ok)?;
        let outline = |folder: &Path| -> Result<Outline> {
            let dir = Temporary::make(folder, "outpour-outline-")
                .with_context(|| format!("{}: an outline cannot be made here", folder.display()))?;
            synth::outline(&parsed, format, dir.path())?;
            Ok(Outline { dir })
        };
        // The cache folder lies where models mostly do; any other does too, for there is no data.
        Ok(Some(outline(&cache_dir()).or_else(|_| outline(&std::env::temp_dir()))?))
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
