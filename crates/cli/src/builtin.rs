//! The trained model that is part of this program, under the name `demo`, and its held-out tasks.
//!
//! Models are read from files, so it is laid out in the cache folder when it is first named. Later runs compare the hash
//! of each file, and write again what is missing or damaged.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use outpour_store::machine::cache_dir;
use outpour_store::slab::drop_program_pages;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// What the model is called, wherever a model is named. A folder of this name is `./demo`.
pub const NAME: &str = "demo";
const HELDOUT: &str = "heldout.jsonl";
/// `sha256sum` of the parts, as it writes it.
const SUMS: &str = include_str!("../../../demo/SHA256SUMS");
const PARTS: [(&str, &[u8]); 7] = [
    ("config.json", include_bytes!("../../../demo/model/config.json")),
    ("generation_config.json", include_bytes!("../../../demo/model/generation_config.json")),
    ("tokenizer.json", include_bytes!("../../../demo/model/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../demo/model/tokenizer_config.json")),
    ("chat_template.jinja", include_bytes!("../../../demo/model/chat_template.jinja")),
    ("model.safetensors", include_bytes!("../../../demo/model/model.safetensors")),
    (HELDOUT, include_bytes!("../../../demo/heldout.jsonl")),
];

/// The model's folder, laid out and verified.
///
/// # Errors
/// When a file cannot be written: names it, and how to choose another folder.
pub fn folder() -> Result<PathBuf> {
    let dir = cache_dir().join(format!("builtin-{:.12}", hex(&Sha256::digest(SUMS)))).join(NAME);
    lay_out(&dir)?;
    Ok(dir)
}

/// The held-out tasks of the model.
///
/// # Errors
/// As [`folder`].
pub fn heldout() -> Result<PathBuf> {
    Ok(folder()?.join(HELDOUT))
}

fn lay_out(dir: &Path) -> Result<()> {
    for (name, bytes) in PARTS {
        let path = dir.join(name);
        if sum_of_file(&path).is_ok_and(|sum| Some(sum.as_str()) == sum_of(name)) {
            continue;
        }
        write(&path, bytes).with_context(|| {
            format!(
                "{}: the built-in model is laid out there and cannot be written; set XDG_CACHE_HOME to a folder that can",
                path.display()
            )
        })?;
        // The copy inside the program is not needed again, and would count as memory in use.
        drop_program_pages(bytes);
    }
    Ok(())
}

/// Writes a file whole or not at all, whoever else writes it at the same time.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// What [`SUMS`] says of a part.
fn sum_of(name: &str) -> Option<&'static str> {
    SUMS.lines().find_map(|line| {
        let (sum, path) = line.split_once("  ")?;
        (path.rsplit('/').next() == Some(name)).then_some(sum)
    })
}

fn sum_of_file(path: &Path) -> io::Result<String> {
    let (mut file, mut hash, mut piece) = (File::open(path)?, Sha256::new(), [0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hex(&hash.finalize())),
            read => hash.update(&piece[..read]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_the_parts() {
        for (name, bytes) in PARTS {
            assert_eq!(
                sum_of(name),
                Some(hex(&Sha256::digest(bytes)).as_str()),
                "{name}: run sha256sum again, see demo/train"
            );
        }
        assert_eq!(SUMS.lines().count(), PARTS.len());
        let bytes: usize = PARTS.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 10 << 20, "{bytes} bytes are in every binary");
    }

    #[test]
    fn what_is_damaged_or_missing_is_written_again() {
        let cache = tempfile::tempdir().expect("a folder");
        let dir = cache.path().join("a").join(NAME);
        lay_out(&dir).expect("it is laid out");
        let at = |name: &str| dir.join(name);
        let kept = std::fs::metadata(at("tokenizer.json")).expect("it is there").modified().expect("a time");
        let mut weights = std::fs::read(at("model.safetensors")).expect("it is there");
        weights[5_000_000] ^= 1;
        std::fs::write(at("model.safetensors"), &weights).expect("it is damaged");
        std::fs::write(at("config.json"), "").expect("it is cut");
        std::fs::remove_file(at(HELDOUT)).expect("it is gone");
        lay_out(&dir).expect("it is laid out again");
        for (name, bytes) in PARTS {
            assert!(std::fs::read(at(name)).expect("it is there") == bytes, "{name}");
        }
        assert_eq!(std::fs::metadata(at("tokenizer.json")).expect("it is there").modified().expect("a time"), kept);
        assert_eq!(std::fs::read_dir(&dir).expect("a folder").count(), PARTS.len(), "nothing else is left there");
    }
}
