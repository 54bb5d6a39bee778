//! What the targets share: where their files lie.

use std::fs;
use std::path::PathBuf;

/// This process's folder, empty: in memory where the system has such a place, for every input is a file once.
///
/// # Panics
/// When it cannot be made.
pub fn folder(name: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = parent.join(format!("outpour-fuzz-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}
