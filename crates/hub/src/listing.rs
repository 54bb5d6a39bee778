//! What the hub has of a model.

use std::path::{Component, Path};
use std::sync::atomic::AtomicBool;

use outpour_store::verify::HubHash;
use serde::Deserialize;

use crate::client::{Ask, Failure, header, protocol};
use crate::{Hub, HubError, ModelName, Result};

/// The files of one version of a model.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Which version: 40 hexadecimal digits.
    pub commit: String,
    /// All files, in the hub's order.
    pub files: Vec<ListedFile>,
}

/// A file as the hub lists it; some servers tell less than the hub.
#[derive(Clone, Debug)]
pub struct ListedFile {
    /// Its name, with `/` between folders; never one that leads out of the model's folder.
    pub path: String,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// Its hash.
    pub hash: Option<HubHash>,
}

/// A file to be downloaded.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    /// Its name, as in `ListedFile::path`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// What its bytes must have.
    pub hash: HubHash,
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Listing {
    fn parse(answer: &[u8]) -> Result<Listing, String> {
        let Answer { sha, siblings } = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        if !matches!(HubHash::parse(&sha), Some(HubHash::Git(digits)) if digits == sha) {
            return Err(format!("the version {sha:?} is none"));
        }
        let file = |sibling: Sibling| {
            let Sibling { rfilename: path, size, blob_id, lfs } = sibling;
            if !stays_inside(&path) {
                return Err(format!("the file name {path:?} leads out of the model's folder"));
            }
            let bytes = lfs.as_ref().and_then(|lfs| lfs.size).or(size);
            // Of a file in large storage, the blob is a pointer to it.
            let hash = match lfs {
                Some(lfs) => lfs.sha256,
                None => blob_id,
            };
            Ok(ListedFile { path, bytes, hash: hash.and_then(|hash| HubHash::parse(&hash)) })
        };
        Ok(Listing { commit: sha, files: siblings.into_iter().map(file).collect::<Result<_, _>>()? })
    }

    /// A file by its name.
    pub fn file(&self, path: &str) -> Option<&ListedFile> {
        self.files.iter().find(|file| file.path == path)
    }
}

/// Whether a name is a path below the folder that it is put in, on every system.
fn stays_inside(path: &str) -> bool {
    let parts_are_names = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let plain = |c: char| !c.is_control() && !"\\:".contains(c);
    parts_are_names && path.chars().all(plain) && path.split('/').all(|part| !part.is_empty() && part != ".")
}

impl Hub {
    /// Asks the hub what it has of a model.
    ///
    /// # Errors
    /// When it has none, does not let this token see it, or does not answer.
    pub fn listing(&self, name: &ModelName, stop: &AtomicBool) -> Result<Listing> {
        self.online(name)?;
        let url = self.client.api_url(name);
        self.client.patiently(name, stop, || {
            let answer = self.client.read(&url, Ask::All).map_err(|failure| (failure, false))?;
            Listing::parse(&answer).map_err(|why| (protocol(&self.client.host(), &why), false))
        })
    }

    /// A listed file, with what the list does not tell asked for.
    pub(crate) fn remote_file(
        &self,
        name: &ModelName,
        commit: &str,
        file: &ListedFile,
        stop: &AtomicBool,
    ) -> Result<RemoteFile> {
        if let ListedFile { path, bytes: Some(bytes), hash: Some(hash) } = file {
            return Ok(RemoteFile { path: path.clone(), bytes: *bytes, hash: hash.clone() });
        }
        let url = self.client.file_url(name, commit, &file.path);
        let asked = || -> Result<RemoteFile, Failure> {
            let response = self.client.ask(&url, Ask::Head)?;
            let first = |names: [&str; 2]| names.into_iter().find_map(|name| header(&response, name));
            let hash = first(["x-linked-etag", "etag"]).and_then(|etag| HubHash::parse(etag.trim_start_matches("W/")));
            let bytes = first(["x-linked-size", "content-length"]).and_then(|bytes| bytes.parse().ok());
            let (Some(bytes), Some(hash)) = (bytes, hash) else {
                let why = format!("neither the list nor the file's headers tell hash and size of {}", file.path);
                return Err(protocol(&self.client.host(), &why));
            };
            Ok(RemoteFile { path: file.path.clone(), bytes, hash })
        };
        self.client.patiently(name, stop, || asked().map_err(|failure| (failure, false)))
    }

    /// The same of files by their names.
    pub(crate) fn remote_files(
        &self,
        name: &ModelName,
        listing: &Listing,
        paths: &[String],
        stop: &AtomicBool,
    ) -> Result<Vec<RemoteFile>> {
        let of = |path: &String| {
            let file = listing.file(path).ok_or_else(|| HubError::Choice {
                name: name.to_string(),
                problem: format!("lacks {path}, which its index names: its upload is not complete"),
            })?;
            self.remote_file(name, &listing.commit, file, stop)
        };
        paths.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_folder_are_refused() {
        for path in ["a.json", "UD-Q4_K_XL/model-00001-of-00002.gguf", "..a", "a..b/c"] {
            assert!(stays_inside(path), "{path}");
        }
        for path in
            ["", "/etc/passwd", "../a", "a/../b", "a/..", "./a", "a/./b", "a//b", "a/", "..\\a", "C:x", "a\0", "a\n"]
        {
            assert!(!stays_inside(path), "{path:?}");
            let answer = serde_json::json!({"sha": "0".repeat(40), "siblings": [{"rfilename": path}]}).to_string();
            assert!(Listing::parse(answer.as_bytes()).is_err(), "{path:?}");
        }
        for sha in ["", "main", "../../x", &"0".repeat(64), &"A".repeat(40)] {
            assert!(Listing::parse(serde_json::json!({"sha": sha, "siblings": []}).to_string().as_bytes()).is_err());
        }
    }
}
