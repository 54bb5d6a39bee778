//! A weight file, open for reading.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checksums::Checksums;
use crate::read::direct;
use crate::write::{self, Aligned};
use crate::{NOTICE, Result, StoreError};

/// An open weight file: for direct I/O where the file system allows it, else buffered.
#[derive(Debug)]
pub struct SourceFile {
    path: PathBuf,
    file: File,
    align: usize,
    direct: bool,
    stamp: Stamp,
    checksums: Option<Checksums>,
    copies: Vec<Arc<SourceFile>>,
    /// Whether nothing is read from its folder any more: all files there share this.
    left_alone: Arc<AtomicBool>,
    /// Whether it was told that a record of it came with wrong bytes.
    told_damaged: AtomicBool,
}

/// What must not change while the file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<std::time::SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Stamp> {
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
        SourceFile::opened(path, direct::open(path), (None, Vec::new()), Arc::default())
    }

    /// Opens `path` with what its bytes must be, where that is known, and the same file on other drives.
    ///
    /// # Errors
    /// As [`SourceFile::open`], and when a copy has another size.
    pub fn open_with(
        path: &Path,
        checksums: Option<Checksums>,
        copies: Vec<Arc<SourceFile>>,
    ) -> Result<Arc<SourceFile>> {
        SourceFile::open_among(path, checksums, copies, &Arc::default())
    }

    /// [`SourceFile::open_with`] of a file of a folder whose files share `left_alone`.
    pub(super) fn open_among(
        path: &Path,
        checksums: Option<Checksums>,
        copies: Vec<Arc<SourceFile>>,
        left_alone: &Arc<AtomicBool>,
    ) -> Result<Arc<SourceFile>> {
        let file = SourceFile::opened(path, direct::open(path), (checksums, copies), left_alone.clone())?;
        let malformed = |copy: &SourceFile, problem: String| StoreError::Malformed { path: copy.path.clone(), problem };
        for copy in &file.copies {
            if copy.bytes() != file.bytes() {
                let (its, ours) = (copy.bytes(), file.bytes());
                let problem =
                    format!("has {its} bytes, and {} has {ours}: it is no copy; copy it again", path.display());
                return Err(malformed(copy, problem));
            }
        }
        Ok(file)
    }

    /// Opens `path` to be read through the page cache, to compare.
    ///
    /// # Errors
    /// When the file is missing or unreadable.
    pub fn open_buffered(path: &Path) -> Result<Arc<SourceFile>> {
        SourceFile::opened(path, direct::open_buffered(path), (None, Vec::new()), Arc::default())
    }

    fn opened(
        path: &Path,
        opened: io::Result<direct::Opened>,
        (checksums, copies): (Option<Checksums>, Vec<Arc<SourceFile>>),
        left_alone: Arc<AtomicBool>,
    ) -> Result<Arc<SourceFile>> {
        let io = |source| StoreError::Io { path: path.to_owned(), action: "open", source };
        let direct::Opened { file, align, direct } = opened.map_err(io)?;
        // A checksum is of a whole record, what fills it up included.
        let records = if checksums.is_some() { write::ALIGN } else { align };
        let align = copies.iter().map(|copy| copy.align).fold(align.max(records), usize::max);
        let stamp = Stamp::of(&file).map_err(io)?;
        let path = path.to_owned();
        let told_damaged = AtomicBool::new(false);
        Ok(Arc::new(SourceFile { path, file, align, direct, stamp, checksums, copies, left_alone, told_damaged }))
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.stamp.bytes
    }

    /// When it was last written to, where the file system tells.
    pub fn modified(&self) -> Option<std::time::SystemTime> {
        self.stamp.modified
    }

    /// What offsets, lengths and addresses of reads must be multiples of, on every drive that has it; a power of two, 512 at
    /// least.
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

    /// What its bytes must be, where that is known.
    pub fn checksums(&self) -> Option<&Checksums> {
        self.checksums.as_ref()
    }

    /// The same file on other drives.
    pub fn copies(&self) -> &[Arc<SourceFile>] {
        &self.copies
    }

    /// Size and time of modification when it was opened, in nanoseconds since 1970; 0 where there is no such time.
    pub fn stamp(&self) -> (u64, u64) {
        let since = self.stamp.modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        (self.stamp.bytes, since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Reads `bytes` bytes from `offset` on, at once and on this thread, into `memory`, which is grown as needed and
    /// aligned to [`Self::align`]. Records that lie wholly among what is read, rounding to that alignment included, are
    /// checked.
    ///
    /// # Errors
    /// What the system answers; `UnexpectedEof` when the file ends before; `InvalidData` for a record that is another than
    /// was written.
    pub fn read<'m>(&self, offset: u64, bytes: usize, memory: &'m mut Aligned) -> io::Result<&'m [u8]> {
        let align = self.align as u64;
        let first = offset / align * align;
        let end = (offset + bytes as u64).next_multiple_of(align);
        let (from, needed) = ((offset - first) as usize, (offset - first) as usize + bytes);
        let room = memory.bytes((end - first) as usize);
        let (mut begun, mut arrived) = (0, 0);
        while arrived < room.len() {
            match self.file.read_at(&mut room[begun..], first + begun as u64) {
                Ok(more) => {
                    arrived = begun + more;
                    // A direct read goes on at a multiple of the alignment.
                    let next = if self.direct { arrived / self.align * self.align } else { arrived };
                    if next == begun || first + arrived as u64 >= self.bytes() {
                        break;
                    }
                    begun = next;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if arrived < needed {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(checksums) = &self.checksums {
            checksums.check(first, &room[..arrived])?;
        }
        Ok(&room[from..needed])
    }

    /// Whether nothing is read from its folder any more, because a file there was changed.
    pub fn is_left_alone(&self) -> bool {
        self.left_alone.load(Ordering::Relaxed)
    }

    /// Checks that the file, and every copy of it, is still the one that was opened. Of a drive that does not answer any
    /// more nothing new is read: what came from it before stands, as long as another copy can be asked. A drive whose copy
    /// has changed is left alone from then on where every record was checked when it came, and another copy is as it was.
    ///
    /// # Errors
    /// When its size or time of modification is another.
    pub fn check_unchanged(&self) -> Result<()> {
        let (mut silent, mut changed, mut answered) = (None, Vec::new(), false);
        let files = std::iter::once(self).chain(self.copies.iter().map(|copy| &**copy));
        for file in files.filter(|file| !file.is_left_alone()) {
            match file.check_own() {
                Ok(()) => answered = true,
                Err(error @ StoreError::Io { .. }) => silent = Some(error),
                Err(error) if self.checksums.is_some() => changed.push((file, error)),
                Err(error) => return Err(error),
            }
        }
        if !answered {
            let changed = changed.into_iter().map(|(_, error)| error).next();
            return changed.or(silent).map_or(Ok(()), Err);
        }
        changed.into_iter().for_each(|(file, _)| file.leave_alone());
        Ok(())
    }

    /// Says once that a record from `offset` on came with other bytes than were written, and that another copy had them.
    pub(crate) fn tell_damaged(&self, offset: u64) {
        if !self.told_damaged.swap(true, Ordering::Relaxed)
            && let Some(notice) = NOTICE.get()
        {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            notice(&format!(
                "{}: what was read at byte {offset} is not what was written; another copy had it. `outpour verify {}` tells what is damaged.",
                self.path.display(),
                folder.display()
            ));
        }
    }

    fn leave_alone(&self) {
        if !self.left_alone.swap(true, Ordering::Relaxed)
            && let Some(notice) = NOTICE.get()
        {
            notice(&format!(
                "{}: the file changed while it was in use. Its folder is left alone from now on; the copies on other drives go on.",
                self.path.display()
            ));
        }
    }

    fn check_own(&self) -> Result<()> {
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
