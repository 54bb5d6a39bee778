//! Which files make a model.

use std::path::{Path, PathBuf};

use crate::{Result, StoreError};

/// The files of the GGUF model at `path`, first part first: `path` is one of them, or a folder that holds one model's. `None`
/// where there is none.
///
/// # Errors
/// When a folder holds several models, or a part is missing.
pub fn find(path: &Path) -> Result<Option<Vec<PathBuf>>> {
    let file = if path.is_dir() { only_model(path)? } else { is_gguf(path).then(|| path.to_owned()) };
    file.filter(|file| file.exists()).map(|file| parts(&file)).transpose()
}

/// Whether a file's name is that of a GGUF file.
fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Whether a file's name is that of a GGUF file of a model's weights: of no projector of images, and no importance matrix.
pub fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    is_gguf(path) && !name.starts_with("mmproj") && !name.contains("imatrix")
}

/// The first file of the one model that a folder holds.
fn only_model(dir: &Path) -> Result<Option<PathBuf>> {
    let io = |source| StoreError::Io { path: dir.to_owned(), action: "list", source };
    let mut models = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let later_part = split(&name).is_some_and(|(_, number, _)| number > 1);
        if is_model(&path) && !later_part {
            models.push(path);
        }
    }
    models.sort();
    match &models[..] {
        [first, second, ..] => {
            let (count, first, second) = (models.len(), first.display(), second.display());
            let problem = format!("holds {count} models, such as {first} and {second}; give one of the files");
            Err(StoreError::Malformed { path: dir.to_owned(), problem })
        }
        _ => Ok(models.pop()),
    }
}

/// `NAME-00002-of-00003.gguf` as (NAME, 2, 3).
pub fn split(file: &str) -> Option<(&str, u32, u32)> {
    let stem = file.get(..file.len().checked_sub(5)?)?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (name, number) = rest.rsplit_once('-')?;
    let number_of = |digits: &str| (digits.len() == 5).then(|| digits.parse().ok()).flatten();
    Some((name, number_of(number)?, number_of(count)?))
}

fn parts(file: &Path) -> Result<Vec<PathBuf>> {
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((stem, _, count)) = split(&name).filter(|&(_, _, count)| count > 0) else {
        return Ok(vec![file.to_owned()]);
    };
    let parts: Vec<PathBuf> =
        (1..=count).map(|number| file.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"))).collect();
    let missing: Vec<&PathBuf> = parts.iter().filter(|part| !part.is_file()).collect();
    match missing.first() {
        Some(first) => {
            let problem = format!("is missing ({} of {count} parts are); download it again", missing.len());
            Err(StoreError::Malformed { path: (*first).clone(), problem })
        }
        None => Ok(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn names_of_parts_are_taken_apart() {
        assert_eq!(split("a-b-00002-of-00003.gguf"), Some(("a-b", 2, 3)));
        for whole in ["model.gguf", "a-2-of-3.gguf", "00001-of-00002.gguf", "é", "a-0000x-of-00003.gguf"] {
            assert_eq!(split(whole), None, "{whole}");
        }
    }
}
