//! Reading the small files next to the weights, with a limit on their size.

use crate::TextError;
use std::path::Path;

/// The largest `tokenizer.json` seen has 33 MB.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 256 << 20;
/// Configurations and templates.
pub(crate) const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// The file's bytes; an error past `bytes_max`.
pub(crate) fn read(path: &Path, bytes_max: u64) -> Result<Vec<u8>, TextError> {
    let fail = |source| TextError::Read { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(fail)?;
    // A pipe would be waited for, and a device may never end.
    if !metadata.is_file() {
        return Err(TextError::invalid(&path.display().to_string(), "is not a regular file"));
    }
    let bytes = metadata.len();
    if bytes > bytes_max {
        let what = format!("has {bytes} bytes, more than the {bytes_max} such a file may have");
        return Err(TextError::invalid(&path.display().to_string(), what));
    }
    std::fs::read(path).map_err(fail)
}

/// The file's bytes, `None` where there is no such file.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, TextError> {
    match read(path, CONFIG_BYTES_MAX) {
        Err(TextError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The JSON object in the file, `None` where there is no such file.
pub(crate) fn json_optional(path: &Path) -> Result<Option<serde_json::Value>, TextError> {
    let Some(bytes) = read_optional(path)? else { return Ok(None) };
    let file = path.display().to_string();
    let value: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|source| TextError::Json { file: file.clone(), source })?;
    if value.is_object() { Ok(Some(value)) } else { Err(TextError::invalid(&file, "is not a JSON object")) }
}

/// A special token as the configurations write it: the text itself or an object with `content`.
pub(crate) fn token_text(value: &serde_json::Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
