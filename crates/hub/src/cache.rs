//! The hub's cache on this machine, as `huggingface_hub` lays it out, which it shares with every program that uses that:
//!
//! ```text
//! CACHEDIR.TAG                               tells backups that all of it can be had again
//! .locks/models--ORG--REPO/HASH.lock         locked (flock) while HASH is downloaded
//! models--ORG--REPO/refs/main                the newest version known: its 40 digits, without a line's end
//!                   blobs/HASH               a file's bytes; HASH is SHA-256 of large ones, else git's
//!                   blobs/HASH.incomplete    as much of it as has arrived
//!                   snapshots/VERSION/PATH   a relative link to its blob
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use outpour_store::checkpoint;
use outpour_store::verify::HubHash;

use crate::choose::{Choice, GgufModel, choose_gguf, gguf_models};
use crate::error::REMOVE;
use crate::pull::is_weights;
use crate::{HubError, ModelName, Result};

const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
# This folder is a cache of the Hugging Face hub: what is in it can be downloaded again (https://bford.info/cachedir/).\n";

/// A cache.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Its folder; not there before the first download.
    pub dir: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// What it is called; with a quant if it is one of GGUF files.
    pub name: ModelName,
    /// Where it lies, if it is whole: a folder, or the first GGUF file.
    pub path: Option<PathBuf>,
    /// Bytes that it takes, those of broken off downloads included.
    pub bytes: u64,
}

/// What is removed.
#[derive(Debug, Default)]
pub struct Removal {
    /// Files and links.
    paths: BTreeSet<PathBuf>,
    /// Folders that are removed with all that is in them.
    folders: Vec<PathBuf>,
    /// Bytes that become free.
    pub bytes: u64,
}

pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_owned();
    move |source| HubError::Io { path, action, source }
}

impl Cache {
    pub(crate) fn repo(&self, name: &ModelName) -> PathBuf {
        self.dir.join(name.folder())
    }

    pub(crate) fn blob(&self, name: &ModelName, hash: &HubHash) -> PathBuf {
        self.repo(name).join("blobs").join(hash.digits())
    }

    pub(crate) fn lock(&self, name: &ModelName, hash: &HubHash) -> PathBuf {
        self.dir.join(".locks").join(name.folder()).join(format!("{}.lock", hash.digits()))
    }

    pub(crate) fn snapshot(&self, name: &ModelName, commit: &str) -> PathBuf {
        self.repo(name).join("snapshots").join(commit)
    }

    /// The folders of the versions that are there, the newest known first.
    fn snapshots(&self, name: &ModelName) -> Vec<PathBuf> {
        let repo = self.repo(name);
        let main = fs::read_to_string(repo.join("refs/main")).unwrap_or_default();
        let mut found: Vec<PathBuf> =
            children(&repo.join("snapshots")).into_iter().filter(|path| path.is_dir()).collect();
        let written = |path: &PathBuf| fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        found.sort_by_key(|path| {
            let newest = path.file_name().is_some_and(|commit| commit == main.trim());
            (std::cmp::Reverse((newest, written(path))), path.clone())
        });
        found
    }

    /// As [`crate::Hub::find`].
    pub(crate) fn find(&self, name: &ModelName) -> Result<Option<PathBuf>> {
        for snapshot in self.snapshots(name) {
            if name.quant.is_none() && checkpoint::is_whole(&snapshot) {
                return Ok(Some(snapshot));
            }
            let models = whole_ggufs(&snapshot);
            let size = |path: &str| fs::metadata(snapshot.join(path)).map_or(0, |metadata| metadata.len());
            match choose_gguf(models.clone(), name.quant.as_deref(), &size) {
                Ok(model) => return Ok(model.parts.first().map(|first| snapshot.join(first))),
                // Which of several is meant, the hub does not know either.
                Err(problem) if name.quant.is_none() && models.len() > 1 => {
                    return Err(HubError::Choice { name: name.to_string(), problem });
                }
                Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Every model in the cache, by name.
    pub fn list(&self) -> Vec<Cached> {
        let folders = children(&self.dir).into_iter().filter(|path| path.is_dir());
        let names = folders.filter_map(|path| ModelName::of_folder(path.file_name()?.to_str()?));
        let mut models: Vec<Cached> = names.flat_map(|name| self.list_one(&name)).collect();
        models.sort_by(|a, b| a.name.cmp(&b.name));
        models
    }

    /// A repository's models: each quant whose parts are all there; and the rest, if it is a model or was to become one.
    fn list_one(&self, name: &ModelName) -> Vec<Cached> {
        let mut quants = BTreeMap::<String, (PathBuf, BTreeSet<PathBuf>)>::new();
        for snapshot in self.snapshots(name) {
            for model in whole_ggufs(&snapshot) {
                let blobs = model.parts.iter().filter_map(|part| fs::canonicalize(snapshot.join(part)).ok()).collect();
                let quant =
                    model.quant().unwrap_or_else(|| model.stem.rsplit('/').next().unwrap_or_default().to_owned());
                quants.entry(quant).or_insert_with(|| (snapshot.join(&model.parts[0]), blobs));
            }
        }
        let of_quants: BTreeSet<&PathBuf> = quants.values().flat_map(|(_, blobs)| blobs).collect();
        let blobs = children(&self.repo(name).join("blobs"));
        let rest = blobs.iter().filter_map(|blob| fs::canonicalize(blob).ok().filter(|blob| !of_quants.contains(blob)));
        let rest: u64 = rest.map(|blob| bytes_of(&blob)).sum();
        let broken_off = blobs.iter().any(|blob| blob.extension().is_some_and(|end| end == "incomplete"));
        let whole = self.snapshots(name).into_iter().find(|snapshot| checkpoint::is_whole(snapshot));
        let mut listed = Vec::new();
        let begun = || {
            let has_weights = |snapshot: PathBuf| files_below(&snapshot).iter().any(|path| is_weights(path));
            quants.is_empty() && self.snapshots(name).into_iter().any(has_weights)
        };
        if whole.is_some() || broken_off || begun() {
            listed.push(Cached { name: name.clone(), path: whole, bytes: rest });
        }
        listed.extend(quants.into_iter().map(|(quant, (path, blobs))| Cached {
            name: ModelName { quant: Some(quant), ..name.clone() },
            path: Some(path),
            bytes: blobs.iter().map(|blob| bytes_of(blob)).sum(),
        }));
        listed
    }

    /// What [`Self::remove`] of this name would remove: all of the model, or with a quant only its files. Blobs that other
    /// files are links to stay.
    ///
    /// # Errors
    /// When it is not there.
    pub fn removal(&self, name: &ModelName) -> Result<Removal> {
        let absent = || HubError::Choice {
            name: name.to_string(),
            problem: format!("is not in {}: `outpour ls` shows what is", self.dir.display()),
        };
        let repo = self.repo(name);
        if !repo.is_dir() {
            return Err(absent());
        }
        let Some(quant) = &name.quant else {
            let bytes = children(&repo.join("blobs")).iter().map(|blob| bytes_of(blob)).sum();
            let locks = self.dir.join(".locks").join(name.folder());
            return Ok(Removal { paths: BTreeSet::new(), folders: vec![repo, locks], bytes });
        };
        let (mut doomed, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for snapshot in self.snapshots(name) {
            let models = whole_ggufs(&snapshot);
            let parts = choose_gguf(models, Some(quant), &|_| 0).map_or_else(|_| Vec::new(), |model| model.parts);
            for path in files_below(&snapshot) {
                let file = snapshot.join(&path);
                if parts.contains(&path) {
                    doomed.insert(file);
                } else {
                    kept.extend(fs::read_link(&file).ok().and_then(|link| Some(link.file_name()?.to_owned())));
                }
            }
        }
        if doomed.is_empty() {
            return Err(absent());
        }
        let links = doomed.iter().filter_map(|file| Some(fs::read_link(file).ok()?.file_name()?.to_owned()));
        let blobs: BTreeSet<PathBuf> =
            links.filter(|blob| !kept.contains(blob)).map(|blob| repo.join("blobs").join(blob)).collect();
        let loose = doomed.iter().filter(|file| !file.is_symlink()).map(|file| bytes_of(file)).sum::<u64>();
        let bytes = loose + blobs.iter().map(|blob| bytes_of(blob)).sum::<u64>();
        doomed.extend(blobs);
        Ok(Removal { paths: doomed, folders: Vec::new(), bytes })
    }

    /// Removes it.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn remove(&self, removal: &Removal) -> Result<()> {
        for path in &removal.paths {
            fs::remove_file(path).map_err(io(path, REMOVE))?;
        }
        for folder in removal.folders.iter().filter(|folder| folder.exists()) {
            fs::remove_dir_all(folder).map_err(io(folder, REMOVE))?;
        }
        Ok(())
    }

    /// Makes the folders of a model.
    pub(crate) fn prepare(&self, name: &ModelName) -> Result<()> {
        let folders = [self.repo(name).join("blobs"), self.dir.join(".locks").join(name.folder())];
        for folder in &folders {
            fs::create_dir_all(folder).map_err(io(folder, "make the folder"))?;
        }
        let tag = self.dir.join("CACHEDIR.TAG");
        if tag.exists() { Ok(()) } else { fs::write(&tag, CACHEDIR_TAG).map_err(io(&tag, "write")) }
    }

    /// Makes a file of a version a link to its blob.
    pub(crate) fn link(&self, name: &ModelName, commit: &str, path: &str, hash: &HubHash) -> Result<()> {
        let file = self.snapshot(name, commit).join(path);
        let up = "../".repeat(path.split('/').count() + 1);
        let target = PathBuf::from(format!("{up}blobs/{}", hash.digits()));
        if fs::read_link(&file).is_ok_and(|link| link == target) {
            return Ok(());
        }
        let folder = file.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(io(folder, "make the folder"))?;
        replace(&file, |new| symlink(&target, new)).map_err(io(&file, "make the link"))
    }

    /// Says which version is the newest.
    pub(crate) fn set_main(&self, name: &ModelName, commit: &str) -> Result<()> {
        let file = self.repo(name).join("refs/main");
        if fs::read_to_string(&file).is_ok_and(|main| main == commit) {
            return Ok(());
        }
        let folder = file.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(io(folder, "make the folder"))?;
        replace(&file, |new| fs::write(new, commit)).map_err(io(&file, "write"))
    }
}

impl Choice {
    /// What of a version's folder is opened.
    pub fn opened(&self, snapshot: &Path) -> PathBuf {
        match self {
            Choice::Safetensors(_) => snapshot.to_owned(),
            Choice::Gguf(model) => {
                model.parts.first().map_or_else(|| snapshot.to_owned(), |first| snapshot.join(first))
            }
        }
    }
}

/// Makes a file under another name first, so that nobody sees half of it.
fn replace(file: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    // Several threads may make the same file.
    static MADE: AtomicU64 = AtomicU64::new(0);
    let mut new = file.as_os_str().to_owned();
    new.push(format!(".{}-{}.tmp", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed)));
    let new = PathBuf::from(new);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make(&new)?;
    fs::rename(&new, file)
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Bytes of a file itself; of a link, none of its target.
fn bytes_of(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |metadata| if metadata.is_file() { metadata.len() } else { 0 })
}

/// The files and links below a folder, by their names from there.
fn files_below(dir: &Path) -> Vec<String> {
    let (mut folders, mut found) = (vec![dir.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for path in children(&folder) {
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else if let Some(name) = path.strip_prefix(dir).ok().and_then(Path::to_str) {
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    found
}

/// The GGUF models of a version of which every part is there.
fn whole_ggufs(snapshot: &Path) -> Vec<GgufModel> {
    let files = files_below(snapshot);
    gguf_models(files.iter().map(String::as_str).filter(|file| snapshot.join(file).exists()))
}
