//! Whether a model's bytes are still those that were written: a pack's against its checksums, a download's against the
//! hashes that the hub gave with it.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::checkpoint::SourceFile;
use crate::checksums::Mismatch;
use crate::pack::{Manifest, PackFile};
use crate::write::Aligned;
use crate::{Result, StoreError, parallel};

/// Bytes read at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// Bytes that are wrong, or cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// First byte of what is damaged; `None` for a file as a whole.
    pub offset: Option<u64>,
    /// The expert or tensor, and what is wrong.
    pub what: String,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// What is wrong, in order of files.
    pub damages: Vec<Damage>,
    /// Bytes that were compared.
    pub bytes: u64,
    /// Files of which nothing is known to compare with.
    pub unknown: Vec<PathBuf>,
    /// Whether it was broken off before the end.
    pub stopped: bool,
}

/// Reads every byte of a pack and compares. `progress` is told bytes read and bytes in all, and may break off.
///
/// # Errors
/// None today: what cannot be read is a [`Damage`].
pub fn pack(
    dir: &Path,
    manifest: &Manifest,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Verified> {
    let mut verified = Verified::default();
    let total: u64 = manifest.files.iter().map(|file| file.bytes).sum();
    for packed in &manifest.files {
        let path = dir.join(&packed.name);
        let damage = |offset, what| Damage { path: path.clone(), offset, what };
        let source = match SourceFile::open(&path) {
            Ok(source) if source.bytes() == packed.bytes => source,
            Ok(source) => {
                let what = format!("{} bytes long, and the manifest says {}", source.bytes(), packed.bytes);
                verified.damages.push(damage(None, what));
                continue;
            }
            Err(error) => {
                verified.damages.push(damage(None, opened_badly(&error)));
                continue;
            }
        };
        let (pieces, checksums) = (packed.pieces(), packed.checksums());
        let (read, found) = (AtomicU64::new(verified.bytes), Mutex::new(Vec::new()));
        let work = |number: usize, memory: &mut Aligned| {
            let piece = &pieces[number];
            let note = |offset: u64, what: &str| {
                let what = format!("{}: {what}", name_of(packed, offset));
                found.lock().unwrap_or_else(PoisonError::into_inner).push(damage(Some(offset), what));
            };
            match source.read(piece.offset, piece.bytes as usize, memory) {
                Ok(bytes) => checksums
                    .mismatches(piece.offset, bytes)
                    .for_each(|Mismatch { offset }| note(offset, "not what was written, as its checksum tells")),
                Err(error) => note(piece.offset, &format!("cannot be read: {error}")),
            }
            read.fetch_add(piece.bytes, Ordering::Relaxed);
            Ok(())
        };
        let mut tick = || progress(read.load(Ordering::Relaxed), total);
        let flow = parallel::each(pieces.len(), || Aligned::new(source.align()), work, &mut tick)?;
        verified.bytes = read.into_inner();
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort();
        verified.damages.append(&mut found);
        if flow.is_break() {
            verified.stopped = true;
            break;
        }
    }
    Ok(verified)
}

/// Why a file could not be opened, without its path.
fn opened_badly(error: &StoreError) -> String {
    match error {
        StoreError::Io { action, source, .. } => format!("cannot {action}: {source}"),
        other => other.to_string(),
    }
}

/// What a record of a pack's file holds, for people.
fn name_of(file: &PackFile, offset: u64) -> String {
    match file.record_bytes {
        Some(bytes) => format!("expert {}", offset / bytes),
        None => match file.tensors.iter().rev().find(|tensor| tensor.offset <= offset) {
            Some(tensor) => format!("tensor {}", tensor.name),
            None => "bytes".to_owned(),
        },
    }
}

/// A hash that the hub gives of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HubHash {
    /// Of files in large storage.
    Sha256(String),
    /// Of small files: git's name of a blob.
    Git(String),
}

/// A [`HubHash`] that is being computed.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256 of the bytes.
    Sha256(Sha256),
    /// SHA-1 of git's header of a blob, and the bytes.
    Git(Sha1),
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(digest) => digest.update(bytes),
            Hasher::Git(digest) => digest.update(bytes),
        }
    }

    /// The hash of everything taken.
    pub fn finish(self) -> HubHash {
        match self {
            Hasher::Sha256(digest) => HubHash::Sha256(hex(&digest.finalize())),
            Hasher::Git(digest) => HubHash::Git(hex(&digest.finalize())),
        }
    }
}

impl HubHash {
    /// 64 or 40 hexadecimal digits, in quotation marks or not.
    pub fn parse(text: &str) -> Option<HubHash> {
        let text = text.trim().trim_matches('"').to_ascii_lowercase();
        let hex = text.bytes().all(|digit| digit.is_ascii_hexdigit());
        match text.len() {
            64 if hex => Some(HubHash::Sha256(text)),
            40 if hex => Some(HubHash::Git(text)),
            _ => None,
        }
    }

    /// The digits: the hub's cache names a file's blob so.
    pub fn digits(&self) -> &str {
        match self {
            HubHash::Sha256(digits) | HubHash::Git(digits) => digits,
        }
    }

    /// Begins the same hash, of a file of so many bytes.
    pub fn begin(&self, bytes: u64) -> Hasher {
        match self {
            HubHash::Sha256(_) => Hasher::Sha256(Sha256::new()),
            HubHash::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {bytes}\0"))),
        }
    }

    /// What the hub said of this file: in the cache folder that `hf download --local-dir` leaves beside it, or, in the
    /// hub's own cache, in the name of the blob that the file is a link to.
    fn of(path: &Path) -> Option<HubHash> {
        let (dir, name) = (path.parent()?, path.file_name()?.to_str()?);
        let metadata = dir.join(".cache/huggingface/download").join(format!("{name}.metadata"));
        if let Ok(text) = fs::read_to_string(metadata) {
            return HubHash::parse(text.lines().nth(1)?);
        }
        let blob = fs::canonicalize(path).ok().filter(|_| path.is_symlink())?;
        let in_blobs = blob.parent()?.file_name()? == "blobs";
        HubHash::parse(blob.file_name()?.to_str().filter(|_| in_blobs)?)
    }

    /// Whether the file's bytes have this hash. `tick` is told bytes as they are read, and may break off: then the answer is
    /// an error.
    fn fits(&self, file: &SourceFile, tick: Tick) -> io::Result<bool> {
        let (mut hasher, mut memory, mut offset) = (self.begin(file.bytes()), Aligned::new(file.align()), 0);
        while offset < file.bytes() {
            let bytes = (file.bytes() - offset).min(BLOCK_BYTES as u64);
            hasher.update(file.read(offset, bytes as usize, &mut memory)?);
            offset += bytes;
            if tick(bytes).is_break() {
                return Err(io::ErrorKind::Interrupted.into());
            }
        }
        Ok(hasher.finish() == *self)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

type Tick<'a> = &'a dyn Fn(u64) -> ControlFlow<()>;

/// Compares every file in the folder `dir` with what the hub said of it, where it left that. `progress` as in [`pack`].
///
/// # Errors
/// When the folder cannot be listed.
pub fn download(dir: &Path, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<Verified> {
    let io = |source| StoreError::Io { path: dir.to_owned(), action: "list", source };
    let entries = fs::read_dir(dir).map_err(io)?.collect::<Result<Vec<_>, _>>().map_err(io)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    paths.sort();
    let (mut known, mut unknown, mut total) = (Vec::new(), Vec::new(), 0);
    for path in paths {
        match HubHash::of(&path) {
            Some(hash) => {
                total += fs::metadata(&path).map_or(0, |metadata| metadata.len());
                known.push((path, hash));
            }
            None => unknown.push(path),
        }
    }
    let (read, found, stop) = (AtomicU64::new(0), Mutex::new(Vec::new()), AtomicBool::new(false));
    let work = |number: usize, (): &mut ()| {
        let (path, hash) = &known[number];
        let count = |bytes| {
            read.fetch_add(bytes, Ordering::Relaxed);
            if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let what = match SourceFile::open(path).map(|file| hash.fits(&file, &count)) {
            Ok(Ok(true)) => return Ok(()),
            Ok(Err(_)) if stop.load(Ordering::Relaxed) => return Ok(()),
            Ok(Ok(false)) => "not what the hub has, as its hash tells; download it again".to_owned(),
            Ok(Err(error)) => format!("cannot be read: {error}"),
            Err(error) => opened_badly(&error),
        };
        let damage = Damage { path: path.clone(), offset: None, what };
        found.lock().unwrap_or_else(PoisonError::into_inner).push(damage);
        Ok(())
    };
    let mut tick = || {
        let flow = progress(read.load(Ordering::Relaxed), total);
        stop.store(flow.is_break(), Ordering::Relaxed);
        flow
    };
    let flow = parallel::each(known.len(), || (), work, &mut tick)?;
    let mut damages = found.into_inner().unwrap_or_else(PoisonError::into_inner);
    damages.sort();
    Ok(Verified { damages, bytes: read.into_inner(), unknown, stopped: flow.is_break() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_sixty_four_or_forty_digits() {
        let digits = "0123456789abcdef".repeat(4);
        assert_eq!(HubHash::parse(&format!("\"{digits}\"")), Some(HubHash::Sha256(digits.clone())));
        assert_eq!(HubHash::parse(&digits[..40]), Some(HubHash::Git(digits[..40].to_owned())));
        for other in ["", "xyz", &digits[..39], &format!("{}g", &digits[..39])] {
            assert_eq!(HubHash::parse(other), None);
        }
    }
}
