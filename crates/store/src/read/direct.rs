//! Opens weight files so that reads bypass the page cache where the file system allows it.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// What offsets, lengths and addresses are multiples of at least: the smallest sector in use. More would be read in vain, 4 KiB
/// for each of an expert's ranges on average: 2 % of an expert of nine ranges and 1.8 MB.
const ALIGN_MIN: usize = 512;

/// The same where nothing tells how large a sector is, and the page cache is passed by: a page, and the largest sector in use.
const ALIGN_UNKNOWN: usize = 4096;

/// The largest alignment that is worth reading experts at. Where a file system wants more, reads are buffered.
#[cfg(target_os = "linux")]
const ALIGN_MAX: usize = 1 << 20;

/// A file, open for reading.
pub(crate) struct Opened {
    /// The file.
    pub(crate) file: File,
    /// What offsets, lengths and addresses of reads must be multiples of; a power of two, 512 at least.
    pub(crate) align: usize,
    /// Whether reads bypass the page cache.
    pub(crate) direct: bool,
}

/// Opens a regular file for direct I/O, or buffered where the file system refuses that.
///
/// # Errors
/// What the system answers, and `InvalidInput` for a folder, pipe or device. Never waits for a pipe's writer.
pub(crate) fn open(path: &Path) -> io::Result<Opened> {
    let file = open_file(path)?;
    let direct = make_direct(&file, path);
    if direct.is_none() {
        make_buffered(&file)?;
    }
    Ok(Opened { file, align: direct.unwrap_or(ALIGN_MIN), direct: direct.is_some() })
}

/// Opens a regular file for buffered I/O.
///
/// # Errors
/// As [`open`].
pub(crate) fn open_buffered(path: &Path) -> io::Result<Opened> {
    let file = open_file(path)?;
    make_buffered(&file)?;
    Ok(Opened { file, align: ALIGN_MIN, direct: false })
}

fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        let problem = format!("it is {}, not a regular file", kind(&metadata));
        return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
    }
    // io_uring takes O_NONBLOCK on a file as an order to fail rather than wait.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

/// What a path leads to, for the message.
fn kind(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = metadata.file_type();
    if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "something special"
    }
}

/// Switches the open file to direct I/O and tries it, so that a file system that only pretends is found out here.
/// Returns the alignment, or `None` where reads must be buffered.
#[cfg(target_os = "linux")]
fn make_direct(file: &File, path: &Path) -> Option<usize> {
    // Unit tests reach the buffered path on any file system by this name.
    if cfg!(test) && path.extension().is_some_and(|extension| extension == "buffered") {
        return None;
    }
    let align = match kernel_alignment(file) {
        Some(0) => return None,
        Some(align) => align.max(ALIGN_MIN),
        None => ALIGN_UNKNOWN,
    };
    if !align.is_power_of_two() || align > ALIGN_MAX {
        return None;
    }
    rustix::fs::fcntl_setfl(file, OFlags::DIRECT).ok()?;
    let mut buffer = vec![0u8; 2 * align];
    let start = buffer.as_ptr().align_offset(align);
    rustix::io::pread(file, &mut buffer[start..start + align], 0).ok()?;
    Some(align)
}

/// The alignment that statx names for memory and offset, whichever is larger: 0 where the file cannot be read directly
/// (ext4 with data journalling, encryption or verity), `None` where the kernel (before 6.1) or file system does not say.
#[cfg(target_os = "linux")]
fn kernel_alignment(file: &File) -> Option<usize> {
    use rustix::fs::{AtFlags, StatxFlags};
    let known = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    if known.stx_mask & StatxFlags::DIOALIGN.bits() == 0 {
        return None;
    }
    let (memory, offset) = (known.stx_dio_mem_align as usize, known.stx_dio_offset_align as usize);
    Some(if memory == 0 || offset == 0 { 0 } else { memory.max(offset) })
}

/// macOS has no O_DIRECT: F_NOCACHE keeps reads out of the page cache, at any alignment.
#[cfg(target_vendor = "apple")]
fn make_direct(file: &File, _path: &Path) -> Option<usize> {
    rustix::fs::fcntl_nocache(file, true).ok()?;
    Some(ALIGN_UNKNOWN)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn make_direct(_file: &File, _path: &Path) -> Option<usize> {
    None
}

/// Buffered, without read-ahead: experts lie scattered, and what is read ahead is memory that nobody budgeted.
fn make_buffered(file: &File) -> io::Result<()> {
    rustix::fs::fcntl_setfl(file, OFlags::empty())?;
    #[cfg(target_os = "linux")]
    {
        // Advice only: a file system without it reads all the same.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
    }
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn refusal(path: &Path) -> String {
        open(path).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn only_regular_files() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(refusal(folder.path()), "it is a folder, not a regular file");
        assert_eq!(refusal(Path::new("/dev/null")), "it is a device, not a regular file");
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(refusal(&pipe), "it is a pipe, not a regular file");
        assert_eq!(open(&folder.path().join("none")).err().unwrap().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn alignment_is_a_power_of_two() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["empty", "small", "small.buffered"] {
            let path = folder.path().join(name);
            std::fs::write(&path, vec![7u8; if name == "empty" { 0 } else { 100 }]).unwrap();
            let opened = open(&path).unwrap();
            assert!(opened.align >= ALIGN_MIN && opened.align.is_power_of_two());
            let flags = rustix::fs::fcntl_getfl(&opened.file).unwrap();
            assert_eq!(flags.contains(OFlags::DIRECT), opened.direct);
            assert!(!flags.contains(OFlags::NONBLOCK));
            assert!(!(opened.direct && name.ends_with("buffered")));
        }
    }

    #[test]
    fn kernel_files_are_read_buffered() {
        // sysfs has regular files without direct I/O, on every Linux.
        let opened = open(Path::new("/sys/kernel/mm/transparent_hugepage/enabled"));
        let Ok(opened) = opened else {
            eprintln!("skipped: no sysfs here");
            return;
        };
        assert!(!opened.direct);
        assert_eq!(opened.align, ALIGN_MIN);
    }
}
