//! Files that are there whole or not at all, and that tell when they were damaged.
//!
//! | bytes | what |
//! |---|---|
//! | 16 | `outpour sealed 1` |
//! | n | the content |
//! | 8 | XXH3 (64 bits, seed 0) of all before, little-endian |
//!
//! They are written under another name and renamed at the end. Neither writing nor reading fills the page cache.

use std::fs::File;
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;
use twox_hash::XxHash3_64;

use crate::read::whole::settle;

const MAGIC: &[u8; 16] = b"outpour sealed 1";
const SUM_BYTES: u64 = 8;
/// Bytes that a sealed file has beside its content.
pub const SEAL_BYTES: u64 = MAGIC.len() as u64 + SUM_BYTES;
/// Page cache that a file under way takes at most.
pub const WINDOW_BYTES: usize = 8 << 20;
/// What names of files under way begin with, until they are renamed.
pub const UNDER_WAY: &str = ".outpour-under-way-";

/// A file under way. Dropped before [`SealedWriter::finish`] it leaves nothing.
pub struct SealedWriter {
    file: NamedTempFile,
    path: PathBuf,
    sum: XxHash3_64,
    unsettled: usize,
}

impl SealedWriter {
    /// Begins the file `path`, in the same folder. It can be read by its owner only.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn create(path: &Path) -> io::Result<SealedWriter> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let file = tempfile::Builder::new().prefix(&under_way(path)).tempfile_in(dir)?;
        let mut writer = SealedWriter { file, path: path.to_owned(), sum: XxHash3_64::with_seed(0), unsettled: 0 };
        writer.write_all(MAGIC)?;
        Ok(writer)
    }

    /// Seals the file and gives it its name, in place of what has it.
    ///
    /// # Errors
    /// When the drive is full, or failed.
    pub fn finish(mut self) -> io::Result<()> {
        let sum = self.sum.finish();
        self.file.write_all(&sum.to_le_bytes())?;
        settle(self.file.as_file())?;
        self.file.persist(&self.path).map_err(|error| error.error)?;
        Ok(())
    }
}

impl Write for SealedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(&bytes[..bytes.len().min(WINDOW_BYTES)])?;
        self.sum.write(&bytes[..written]);
        self.unsettled += written;
        if self.unsettled >= WINDOW_BYTES {
            self.unsettled = 0;
            settle(self.file.as_file())?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What the names begin with of a file under way that will be `path`.
fn under_way(path: &Path) -> String {
    format!("{UNDER_WAY}{}-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Removes what was under way to be `path` and was never finished; to be called only where nobody else writes it now.
pub fn remove_unfinished(path: &Path) {
    let (dir, begin) = (path.parent().filter(|dir| !dir.as_os_str().is_empty()), under_way(path));
    let entries = std::fs::read_dir(dir.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&begin)) {
        // It costs room, and no more.
        let _ = std::fs::remove_file(entry.path());
    }
}

/// A sealed file being read. Its content counts only once [`SealedReader::finish`] has found it sound.
pub struct SealedReader {
    file: File,
    /// Bytes of content that are not read yet.
    left: u64,
    sum: XxHash3_64,
    unsettled: usize,
}

impl SealedReader {
    /// Opens a file.
    ///
    /// # Errors
    /// When it is missing or unreadable, or no sealed file.
    pub fn open(path: &Path) -> io::Result<SealedReader> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let left = bytes.checked_sub(SEAL_BYTES).ok_or_else(|| damaged("it is too short"))?;
        let mut reader = SealedReader { file, left, sum: XxHash3_64::with_seed(0), unsettled: 0 };
        let mut magic = [0; MAGIC.len()];
        reader.file.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(damaged("it begins with something else"));
        }
        reader.sum.write(&magic);
        Ok(reader)
    }

    /// Bytes of content that are not read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads what is left, and checks that every byte is as it was written.
    ///
    /// # Errors
    /// When one is not, or cannot be read.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let mut sum = [0; SUM_BYTES as usize];
        self.file.read_exact(&mut sum)?;
        // What cannot be dropped from the page cache costs memory, not correctness.
        let _ = settle(&self.file);
        if u64::from_le_bytes(sum) != self.sum.finish() {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(())
    }
}

impl Read for SealedReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let wanted = (bytes.len().min(WINDOW_BYTES) as u64).min(self.left) as usize;
        let read = self.file.read(&mut bytes[..wanted])?;
        if read == 0 && wanted > 0 {
            return Err(damaged("it ends early"));
        }
        self.sum.write(&bytes[..read]);
        self.left -= read as u64;
        self.unsettled += read;
        if self.unsettled >= WINDOW_BYTES {
            self.unsettled = 0;
            let _ = settle(&self.file);
        }
        Ok(read)
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> io::Result<Vec<u8>> {
        let mut reader = SealedReader::open(path)?;
        let mut content = vec![0; reader.left() as usize];
        reader.read_exact(&mut content)?;
        reader.finish().map(|()| content)
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..300u32).map(|i| (i * 7) as u8).collect();
        for content in [&content[..], &[]] {
            let mut writer = SealedWriter::create(&path).expect("created");
            content.chunks(70).for_each(|some| writer.write_all(some).expect("written"));
            writer.finish().expect("sealed");
            assert_eq!(read(&path).expect("sound"), content);
        }
        let mut writer = SealedWriter::create(&path).expect("created");
        writer.write_all(&content).expect("written");
        // As if it was killed: the file stays. One that another file is to be is none of ours.
        let kept = writer.file.keep().expect("kept").1;
        let others = SealedWriter::create(&dir.path().join("file2")).expect("created");
        remove_unfinished(&path);
        assert!(!kept.exists() && others.file.path().exists());
        drop(others);
        assert_eq!(read(&path).expect("the one before"), [0; 0], "what is not finished replaces nothing");
        assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 1, "and leaves nothing");

        let mut writer = SealedWriter::create(&path).expect("created");
        writer.write_all(&content).expect("written");
        writer.finish().expect("sealed");
        let whole = std::fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).expect("written");
            assert!(read(&path).is_err(), "byte {at} is another");
            std::fs::write(&path, &whole[..at]).expect("written");
            assert!(read(&path).is_err(), "only {at} bytes are left");
        }
    }
}
