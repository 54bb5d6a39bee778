//! `org/repo[:quant]`.

use std::fmt;

/// Longest part of a name, as the hub has it.
const PART_BYTES_MAX: usize = 96;
/// What ends like this is a file.
const FILE_ENDINGS: [&str; 3] = [".gguf", ".safetensors", ".json"];

/// A model's name on the hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelName {
    /// Who published it.
    pub org: String,
    /// What it is called.
    pub repo: String,
    /// Of GGUF files, which: as in `Q4_K_M`.
    pub quant: Option<String>,
}

impl ModelName {
    /// A text as a name; `None` if it can be none, as a path.
    pub fn parse(text: &str) -> Option<ModelName> {
        let (repo_id, quant) = match text.split_once(':') {
            Some((repo_id, quant)) => (repo_id, Some(quant)),
            None => (text, None),
        };
        let (org, repo) = repo_id.split_once('/')?;
        let file = FILE_ENDINGS.iter().any(|ending| repo.to_ascii_lowercase().ends_with(ending));
        let valid = is_part(org) && is_part(repo) && quant.is_none_or(is_part) && !file;
        valid.then(|| ModelName { org: org.to_owned(), repo: repo.to_owned(), quant: quant.map(str::to_owned) })
    }

    /// The name without quant.
    pub fn repo_id(&self) -> String {
        format!("{}/{}", self.org, self.repo)
    }

    /// What the cache calls the model's folder.
    pub fn folder(&self) -> String {
        format!("models--{}--{}", self.org, self.repo)
    }

    /// The model of a folder of the cache.
    pub fn of_folder(folder: &str) -> Option<ModelName> {
        let (org, repo) = folder.strip_prefix("models--")?.split_once("--")?;
        ModelName::parse(&format!("{org}/{repo}"))
    }
}

/// Letters, digits, `-`, `_` and `.`, of which the last two do not begin or end it nor come twice.
fn is_part(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (1..=PART_BYTES_MAX).contains(&part.len())
        && part.chars().all(inner)
        && part.starts_with(outer)
        && part.ends_with(outer)
        && !part.contains("--")
        && !part.contains("..")
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.org, self.repo)?;
        self.quant.as_ref().map_or(Ok(()), |quant| write!(f, ":{quant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let name = ModelName::parse("unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL").expect("a name");
        assert_eq!(name.to_string(), "unsloth/Qwen3-30B-A3B-GGUF:UD-Q4_K_XL");
        assert_eq!(name.folder(), "models--unsloth--Qwen3-30B-A3B-GGUF");
        assert_eq!(ModelName::of_folder(&name.folder()).expect("a name").repo_id(), name.repo_id());
        for path in [
            "a",
            "/a/b",
            "./a/b",
            "../a",
            "a/../b",
            "a/b/c",
            "~/a",
            "a/",
            "/a",
            "a/b:",
            "a/b:c/d",
            "a--b/c",
            "a/b..c",
            "models/x.gguf",
            "a/model.safetensors",
            "configs/x.json",
            "a/.b",
            "a b/c",
            "a/b\n",
            "-a/b",
            "",
        ] {
            assert_eq!(ModelName::parse(path), None, "{path:?}");
        }
    }
}
