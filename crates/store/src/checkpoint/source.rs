//! A weight file, open for reading.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::read::direct;
use crate::{Result, StoreError};

/// An open weight file: for direct I/O where the file system allows it, else buffered.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    align: usize,
    direct: bool,
    stamp: Stamp,
}

/// What must not change while the file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<std::time::SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Stamp> {
        let metadata = file.metadata()?;
        Ok(Stamp { bytes: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl SourceFile {
    /// Opens `path`, for direct I/O where that works.
    ///
    /// # Errors
    /// When the file is missing or unreadable.
    pub fn open(path: &Path) -> Result<Arc<SourceFile>> {
        SourceFile::opened(path, direct::open(path))
    }

    /// Opens `path` to be read through the page cache, to compare.
    ///
    /// # Errors
    /// When the file is missing or unreadable.
    pub fn open_buffered(path: &Path) -> Result<Arc<SourceFile>> {
        SourceFile::opened(path, direct::open_buffered(path))
    }

    fn opened(path: &Path, opened: std::io::Result<direct::Opened>) -> Result<Arc<SourceFile>> {
        let io = |source| StoreError::Io { path: path.to_owned(), action: "open", source };
        let direct::Opened { file, align, direct } = opened.map_err(io)?;
        let stamp = Stamp::of(&file).map_err(io)?;
        Ok(Arc::new(SourceFile { path: path.to_owned(), file, align, direct, stamp }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// What offsets, lengths and addresses of reads must be multiples of; a power of two, 4096 at least.
    pub fn align(&self) -> usize {
        self.align
    }

    /// Whether reads bypass the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// For the readers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Checks that the file is still the one that was opened.
    ///
    /// # Errors
    /// When its size or time of modification is another.
    pub fn check_unchanged(&self) -> Result<()> {
        let now = Stamp::of(&self.file).map_err(|source| StoreError::Io {
            path: self.path.clone(),
            action: "examine",
            source,
        })?;
        if now == self.stamp {
            return Ok(());
        }
        let change = if now.bytes == self.stamp.bytes {
            "it was written to".to_owned()
        } else {
            format!("{} bytes became {}", self.stamp.bytes, now.bytes)
        };
        Err(StoreError::Changed { path: self.path.clone(), change })
    }
}
