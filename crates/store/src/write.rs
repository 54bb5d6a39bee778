//! New weight files, written around the page cache where the file system allows it, so that writing a model larger than
//! memory disturbs nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a block, and what their offsets are multiples of.
pub const BLOCK_BYTES: usize = 4 << 20;
/// What direct writes are aligned to: the largest sector in use, and a page.
pub const ALIGN: usize = 4096;
/// Page cache that is written back at once, where writes are buffered.
const BUFFERED_BYTES_MAX: u64 = 128 << 20;

/// Memory aligned for direct reads and writes.
pub struct Aligned {
    memory: Vec<u8>,
    start: usize,
    align: usize,
}

impl Aligned {
    /// No bytes yet; the first of them will lie on a multiple of `align`, a power of two.
    pub fn new(align: usize) -> Aligned {
        Aligned { memory: Vec::new(), start: 0, align }
    }

    /// The first `bytes` bytes, with whatever was in them; new ones are zero.
    pub fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        if self.memory.len() < self.start + bytes || self.memory.is_empty() {
            self.memory = vec![0; bytes + self.align];
            self.start = self.memory.as_ptr().align_offset(self.align);
        }
        &mut self.memory[self.start..self.start + bytes]
    }
}

/// Memory for a block, aligned for direct writes.
pub struct Block(Aligned);

impl Default for Block {
    fn default() -> Self {
        Block(Aligned::new(ALIGN))
    }
}

impl Block {
    /// The bytes, [`BLOCK_BYTES`] of them.
    pub fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes(BLOCK_BYTES)
    }
}

/// A file that is being written, in blocks, in any order and by several threads.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    bytes: u64,
    direct: bool,
    buffered: AtomicU64,
}

impl NewFile {
    /// Creates a file that will have `bytes` bytes, and has the file system set them aside where it can.
    ///
    /// # Errors
    /// When it is there already, or the system refuses.
    pub fn create(path: &Path, bytes: u64) -> io::Result<NewFile> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        let direct = go_direct(&file);
        set_aside(&file, bytes)?;
        Ok(NewFile { file, bytes, direct, buffered: AtomicU64::new(0) })
    }

    /// Its length when it is finished.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Blocks that it takes.
    pub fn blocks(&self) -> u64 {
        self.bytes.div_ceil(BLOCK_BYTES as u64)
    }

    /// Writes the block of this number; of the last one as much as the file holds.
    ///
    /// # Errors
    /// When the system refuses, such as on a full drive.
    pub fn write(&self, number: u64, block: &mut Block) -> io::Result<()> {
        let offset = number * BLOCK_BYTES as u64;
        let bytes = (self.bytes - offset).min(BLOCK_BYTES as u64) as usize;
        // A direct write is a whole number of sectors; what that adds to the end of the file is cut off at the end.
        let written = if self.direct { bytes.next_multiple_of(ALIGN) } else { bytes };
        self.write_at(offset, &block.bytes()[..written])
    }

    /// Writes bytes that lie in [`Aligned`] memory; their number and `offset` are multiples of [`ALIGN`].
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        let bytes = bytes.len() as u64;
        if !self.direct && self.buffered.fetch_add(bytes, Ordering::Relaxed) + bytes > BUFFERED_BYTES_MAX {
            self.buffered.store(0, Ordering::Relaxed);
            self.file.sync_data()?;
            forget(&self.file);
        }
        Ok(())
    }

    /// Gives the file its length and waits until it is on the drive.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn finish(self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.sync_all()?;
        forget(&self.file);
        Ok(())
    }
}

/// Switches a file to direct I/O where that works.
#[cfg(target_os = "linux")]
fn go_direct(file: &File) -> bool {
    use rustix::fs::{OFlags, fcntl_setfl};
    if fcntl_setfl(file, OFlags::DIRECT).is_err() {
        return false;
    }
    // A file system that only pretends is found out here.
    let works = file.write_all_at(&Block::default().bytes()[..ALIGN], 0).is_ok();
    if !works {
        // Where it stays direct, the first block's write says what is wrong.
        let _ = fcntl_setfl(file, OFlags::empty());
    }
    works
}

#[cfg(not(target_os = "linux"))]
fn go_direct(_file: &File) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn set_aside(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::NOSPC) => Err(rustix::io::Errno::NOSPC.into()),
        // Where the file system cannot, it grows as it is written.
        _ => Ok(()),
    }
}

#[cfg(not(target_os = "linux"))]
fn set_aside(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Lets the page cache go; that it does not is no harm to what was written.
#[cfg(target_os = "linux")]
fn forget(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn forget(_file: &File) {}

/// Bytes that an ordinary user can still write to the file system of `path`.
///
/// # Errors
/// When the system does not tell.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let system = rustix::fs::statvfs(path)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_a_file_of_the_length_asked_for() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let path = dir.path().join("new");
        let bytes = BLOCK_BYTES as u64 + 12_345;
        let file = NewFile::create(&path, bytes).expect("created");
        assert_eq!((file.bytes(), file.blocks()), (bytes, 2));
        let mut block = Block::default();
        for number in [1, 0] {
            block.bytes().fill(7 + number as u8);
            file.write(number, &mut block).expect("written");
        }
        file.finish().expect("finished");
        let read = std::fs::read(&path).expect("read");
        assert_eq!(read.len() as u64, bytes);
        assert!(read[..BLOCK_BYTES].iter().all(|&byte| byte == 7) && read[BLOCK_BYTES..].iter().all(|&byte| byte == 8));
        assert!(NewFile::create(&path, 1).is_err(), "what is there is never written over");
        assert!(free_bytes(dir.path()).expect("told") > 0);
    }
}
