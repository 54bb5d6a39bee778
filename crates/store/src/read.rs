//! The reader contract: submit reads, collect completions. `uring` on Linux, a `pread` pool everywhere.
//!
//! A read goes from a [`SourceFile`] straight into a [`Region`] of memory that a slab or a trunk owns. Where the file
//! is open for direct I/O, offset, length and destination are multiples of [`SourceFile::align`]; the layouts round
//! outwards to make it so, and a read that ends behind the end of the file may come back short by that much.

pub(crate) mod direct;
mod mirror;
mod parts;
pub mod pread;
mod pumped;
mod retry;
#[cfg(target_os = "linux")]
pub mod uring;
pub mod whole;

use std::any::Any;
use std::io;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

pub use crate::checkpoint::SourceFile;
pub use mirror::Mirror;
pub use pumped::{PATIENCE, Pumped};
pub use retry::Retrying;

/// Memory that reads may land in: its address stays valid, and is the host's, until it is dropped.
pub trait RegionMemory: Send + Sync + 'static {
    /// First byte.
    fn address(&self) -> NonNull<u8>;
    /// Size in bytes.
    fn bytes(&self) -> usize;
    /// For the one who made it.
    fn as_any(&self) -> &dyn Any;
}

/// A piece of memory that reads land in, kept alive by every read into it.
pub struct Region {
    memory: Box<dyn RegionMemory>,
}

impl Region {
    /// Wraps memory that a backend supplied.
    pub fn new(memory: impl RegionMemory) -> Arc<Region> {
        Arc::new(Region { memory: Box::new(memory) })
    }

    /// First byte.
    pub fn address(&self) -> NonNull<u8> {
        self.memory.address()
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The backend's own type.
    pub fn memory(&self) -> &dyn Any {
        self.memory.as_any()
    }
}

/// One read: `bytes` bytes of `file` from `offset` on, into `region` from byte `at` on.
#[derive(Clone)]
pub struct Read {
    /// Comes back with the completion.
    pub tag: u64,
    /// What to read.
    pub file: Arc<SourceFile>,
    /// First byte in the file, a multiple of `file.align()`.
    pub offset: u64,
    /// Length, a multiple of `file.align()`; may reach behind the end of the file.
    pub bytes: usize,
    /// How many of them must arrive: less than `bytes` only where the range reaches behind the end of the file.
    pub needed: usize,
    /// Where to.
    pub region: Arc<Region>,
    /// First byte in the region, a multiple of `file.align()` too.
    pub at: usize,
}

/// What became of a read.
#[derive(Debug)]
pub struct Completion {
    /// As submitted.
    pub tag: u64,
    /// Bytes that arrived (at least `needed`), or why not. A short read is `UnexpectedEof`.
    pub result: io::Result<usize>,
}

/// How long [`Reader::collect`] waits for a drive that gives nothing at all.
pub const WAIT_MAX: Duration = Duration::from_secs(1);

/// What a reader has done since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderCounts {
    /// Reads completed without error, as submitted by the caller.
    pub reads: u64,
    /// Bytes that these brought, rounding to alignment included.
    pub bytes: u64,
    /// Reads that failed and were tried again.
    pub retries: u64,
}

/// Submit reads, collect completions. Used by one thread.
pub trait Reader: Send {
    /// `uring` or `pread`, with what it uses: `uring, O_DIRECT, registered buffers`.
    fn describe(&self) -> String;

    /// Tells the reader of memory that many reads will go to. An optimisation: without the right or the memlock limit
    /// nothing happens, and reads into the region work all the same.
    fn register(&mut self, region: &Arc<Region>);

    /// Forgets a registered region, before it is unmapped.
    fn unregister(&mut self, region: &Arc<Region>);

    /// Sends out all of these reads together. They stay in flight until they are collected.
    ///
    /// # Errors
    /// `InvalidInput` for a read that is not aligned or not inside its region. None of the reads is in flight then.
    fn submit(&mut self, reads: &[Read]) -> io::Result<()>;

    /// Sends out a read once more that failed, or whose bytes were wrong; `attempt` counts from 1. A reader of several
    /// drives asks another one each time.
    ///
    /// # Errors
    /// As [`Self::submit`].
    fn submit_again(&mut self, read: &Read, attempt: usize) -> io::Result<()> {
        let _ = attempt;
        self.submit(std::slice::from_ref(read))
    }

    /// The copy that [`Self::submit_again`] asks at such an attempt.
    fn asked<'r>(&self, read: &'r Read, attempt: usize) -> &'r SourceFile {
        let _ = attempt;
        &read.file
    }

    /// How many copies of each file it reads from.
    fn copies(&self) -> usize {
        1
    }

    /// Appends completions to `done`, in any order. With `wait`, blocks until there is at least one, unless nothing is
    /// in flight, or the drive gave nothing for [`WAIT_MAX`].
    fn collect(&mut self, wait: bool, done: &mut Vec<Completion>) -> io::Result<()>;

    /// Reads submitted and not collected.
    fn in_flight(&self) -> usize;

    /// What was done so far.
    fn counts(&self) -> ReaderCounts;

    /// A file of those whose reads are in flight, where the reader knows several drives.
    fn awaited(&mut self) -> Option<PathBuf> {
        None
    }
}

/// Page cache that the reads in flight of any reader hold at most, where files are not open for direct I/O.
#[cfg(target_os = "linux")]
pub const BUFFERED_WINDOW_BYTES_MAX: usize = uring::WINDOW_BYTES_MAX;
/// Page cache that the reads in flight of any reader hold at most, where files are not open for direct I/O.
#[cfg(not(target_os = "linux"))]
pub const BUFFERED_WINDOW_BYTES_MAX: usize = pread::WINDOW_BYTES_MAX;

/// Which reader to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReaderKind {
    /// io_uring where the kernel allows it, else the pread pool.
    #[default]
    Auto,
    /// io_uring, or an error.
    Uring,
    /// A pool of threads that call pread.
    Pread,
}

/// Opens a reader of this kind, with retries around it. `Uring` fails where the kernel refuses io_uring.
pub fn open(kind: ReaderKind) -> io::Result<Box<dyn Reader>> {
    open_mirrored(kind, 1)
}

/// [`open`] of a reader that takes each file from so many drives: see [`SourceFile::copies`].
pub fn open_mirrored(kind: ReaderKind, drives: usize) -> io::Result<Box<dyn Reader>> {
    open_watched(kind, drives, |drives| drives)
}

/// As [`open_mirrored`], where `watched` puts something in front of the drives, which is asked for each read of each of them.
///
/// # Errors
/// As there.
pub fn open_watched(
    kind: ReaderKind,
    drives: usize,
    watched: impl FnOnce(Box<dyn Reader>) -> Box<dyn Reader>,
) -> io::Result<Box<dyn Reader>> {
    let raw: Box<dyn Reader> = match kind {
        ReaderKind::Pread => Box::new(pread::Pread::new(drives)?),
        #[cfg(target_os = "linux")]
        ReaderKind::Uring => Box::new(uring::Uring::new()?),
        #[cfg(target_os = "linux")]
        ReaderKind::Auto => match uring::Uring::new() {
            Ok(uring) => Box::new(uring),
            Err(_) => Box::new(pread::Pread::new(drives)?),
        },
        #[cfg(not(target_os = "linux"))]
        ReaderKind::Uring => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring is Linux only; use --reader pread"));
        }
        #[cfg(not(target_os = "linux"))]
        ReaderKind::Auto => Box::new(pread::Pread::new(drives)?),
    };
    let raw = watched(raw);
    Ok(Box::new(Retrying::new(if drives > 1 { Box::new(Mirror::new(raw, drives)) } else { raw })))
}
