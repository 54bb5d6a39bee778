//! Small files and headers, read whole and without leaving them in the page cache.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{Result, StoreError};

/// A small file, open to be read in a few pieces; leaves nothing in the page cache when dropped.
pub struct WholeFile<'a> {
    path: &'a Path,
    file: File,
    bytes: u64,
}

impl<'a> WholeFile<'a> {
    /// Opens a regular file.
    ///
    /// # Errors
    /// When it is missing, unreadable, or no regular file.
    pub fn open(path: &'a Path) -> Result<Self> {
        let io = |source| StoreError::Io { path: path.to_owned(), action: "open", source };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(StoreError::Malformed {
                path: path.to_owned(),
                problem: "is not a regular file; download it again".into(),
            });
        }
        let file = File::open(path).map_err(io)?;
        advise(&file, Advice::Random);
        Ok(WholeFile { path, file, bytes: metadata.len() })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads `bytes` bytes from `offset` on; the caller has checked that the file has them.
    pub fn read_at(&self, offset: u64, bytes: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; bytes];
        self.file.read_exact_at(&mut data, offset).map_err(|source| StoreError::Io {
            path: self.path.to_owned(),
            action: "read",
            source,
        })?;
        Ok(data)
    }
}

impl Drop for WholeFile<'_> {
    fn drop(&mut self) {
        advise(&self.file, Advice::DontNeed);
    }
}

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// When it is missing, unreadable, no regular file, or larger than that.
pub fn read_whole(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let file = WholeFile::open(path)?;
    if file.bytes > bytes_max {
        let problem = format!("is {} bytes long; a file of this kind has at most {bytes_max}", file.bytes);
        return Err(StoreError::Malformed { path: path.to_owned(), problem });
    }
    let mut data = Vec::with_capacity(file.bytes as usize);
    (&file.file).take(bytes_max).read_to_end(&mut data).map_err(|source| StoreError::Io {
        path: path.to_owned(),
        action: "read",
        source,
    })?;
    Ok(data)
}

/// Brings what was written to `file` onto the drive, and takes it out of the page cache.
///
/// # Errors
/// When the drive is full, or failed.
pub fn settle(file: &File) -> std::io::Result<()> {
    file.sync_data()?;
    advise(file, Advice::DontNeed);
    Ok(())
}

enum Advice {
    Random,
    DontNeed,
}

#[cfg(target_os = "linux")]
fn advise(file: &File, advice: Advice) {
    let advice = match advice {
        Advice::Random => rustix::fs::Advice::Random,
        Advice::DontNeed => rustix::fs::Advice::DontNeed,
    };
    // Only advice: a file system that does not take it costs page cache, not correctness.
    let _ = rustix::fs::fadvise(file, 0, None, advice);
}

#[cfg(not(target_os = "linux"))]
fn advise(_file: &File, _advice: Advice) {}
