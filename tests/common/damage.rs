//! Copies of the fixture checkpoints, and how they are damaged.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::fixture;

/// A copy of a fixture's model, without the expected results.
pub fn copy(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    copy_files(&fixture(name), dir.path(), |file| file.contains(".safetensors") || file.ends_with("config.json"));
    dir
}

/// A copy of a fixture's model with the tokenizer and template of the text fixtures.
pub fn copy_with_text(name: &str) -> TempDir {
    let dir = copy(name);
    add_text(dir.path());
    dir
}

/// Puts the text fixtures' tokenizer and template into a folder.
pub fn add_text(dir: &Path) {
    copy_files(&fixture("text"), dir, |file| file.starts_with("tokenizer") || file == "chat_template.jinja");
}

/// Copies the files that are wanted by their names.
pub fn copy_files(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if wanted(name) {
            fs::copy(&path, to.join(name)).expect("a copy");
        }
    }
}

/// Changes a JSON file.
pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(path).expect("the file")).expect("JSON");
    edit(&mut value);
    fs::write(path, value.to_string()).expect("written");
}

/// Sets a key of a JSON object, in place or new.
pub fn set(path: &Path, key: &str, value: Value) {
    edit_json(path, |object| object[key] = value);
}

/// A safetensors file's header and its data.
pub fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let (length, rest) = file.split_at(8);
    rest.split_at(u64::from_le_bytes(length.try_into().expect("8 bytes")) as usize)
}

/// Gives a safetensors file another header before the same data.
pub fn replace_header(path: &Path, header: &[u8]) {
    let file = fs::read(path).expect("the file");
    let (_, data) = split(&file);
    fs::write(path, [&(header.len() as u64).to_le_bytes(), header, data].concat()).expect("written");
}

/// Changes the header of a safetensors file.
pub fn edit_header(path: &Path, edit: impl FnOnce(&mut Map<String, Value>)) {
    let file = fs::read(path).expect("the file");
    let mut header = serde_json::from_slice(split(&file).0).expect("a header");
    edit(&mut header);
    replace_header(path, Value::Object(header).to_string().as_bytes());
}

/// A name for a pipe in this folder, with the pipe.
pub fn make_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    let made = std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo");
    assert!(made.success());
}
