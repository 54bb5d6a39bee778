//! A file of noise to read, where there is no model.

use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::splitmix;
use crate::checkpoint::SourceFile;
use crate::layout::{ExpertLayout, Extent};
use crate::{Result, StoreError};

/// Bytes written at a time.
const BLOCK_BYTES: usize = 4 << 20;

/// A file of noise, which no drive or file system can compress. Its name is gone once it is written, and its bytes with the
/// last handle: nothing is left behind, however the process ends.
pub struct Scratch {
    /// For direct reads, where the file system allows them.
    pub file: Arc<SourceFile>,
    /// The same file, read through the page cache.
    pub buffered: Arc<SourceFile>,
}

impl Scratch {
    /// Writes `bytes` bytes to a file in `folder`, which is made if it is not there. `progress` is told bytes written,
    /// and may break off: then there is `None`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(
        folder: &Path,
        bytes: u64,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Scratch>> {
        let path = folder.join(format!("doctor-{}.tmp", std::process::id()));
        let io = |action| {
            let path = path.clone();
            move |source| StoreError::Io { path, action, source }
        };
        std::fs::create_dir_all(folder).map_err(io("make the folder of"))?;
        let mut file = File::options().write(true).create_new(true).open(&path).map_err(io("make"))?;
        let _removed = RemovedAtEnd(path.clone());
        let mut state = u64::from(std::process::id());
        let mut block = vec![0; BLOCK_BYTES];
        let mut written = 0;
        while written < bytes {
            block.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&splitmix(&mut state).to_le_bytes()));
            let part = block.len().min((bytes - written) as usize);
            file.write_all(&block[..part]).map_err(io("write"))?;
            written += part as u64;
            if progress(written).is_break() {
                return Ok(None);
            }
        }
        file.sync_all().map_err(io("write"))?;
        forget_cached(&file);
        Ok(Some(Scratch { file: SourceFile::open(&path)?, buffered: SourceFile::open_buffered(&path)? }))
    }

    /// Experts of `record_bytes` bytes, one behind the other, as many as the file holds.
    pub fn records(&self, record_bytes: u32) -> ExpertLayout {
        records(&self.file, record_bytes)
    }
}

/// A file seen as experts of `record_bytes` bytes, one behind the other.
pub fn records(file: &Arc<SourceFile>, record_bytes: u32) -> ExpertLayout {
    let count = file.bytes() / u64::from(record_bytes.max(1));
    let extents = (0..count).map(|i| Extent { offset: i * u64::from(record_bytes), bytes: record_bytes, file: 0 });
    ExpertLayout::new(vec![(1, extents.collect())], std::slice::from_ref(file))
}

/// What was just written is in the page cache: buffered reads would be served from there.
fn forget_cached(file: &File) {
    #[cfg(target_os = "linux")]
    {
        // Advice only: what stays cached, the kernel's counters show.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

struct RemovedAtEnd(PathBuf);

impl Drop for RemovedAtEnd {
    fn drop(&mut self) {
        // What cannot be removed is in the cache folder, and named after us.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Bytes that this user may still write on the drive of a folder, or of the nearest folder above it that is there.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|above| above.is_dir())?;
    let known = rustix::fs::statvfs(there).ok()?;
    known.f_bavail.checked_mul(known.f_frsize)
}
