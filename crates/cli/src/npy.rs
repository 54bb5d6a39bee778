//! NumPy's array files (NEP 1, version 1.0), written row by row and seen under their name only when whole.

use std::fs::{File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outpour_store::read::whole::settle;

/// Bytes after which what was written leaves the page cache, which `--ram` covers too.
const SETTLE_BYTES: usize = 1 << 20;

/// A file that appears under its name when it is finished.
pub struct WholeOrNothing {
    out: BufWriter<File>,
    partial: PathBuf,
    path: PathBuf,
    unsettled: usize,
    finished: bool,
}

impl WholeOrNothing {
    /// Begins the file beside its final name; behind a link, beside the file that it names.
    ///
    /// # Errors
    /// When the folder cannot be written to, or there is a folder, device or pipe of this name, or one of `inputs`.
    pub fn create(path: &Path, inputs: &[PathBuf]) -> Result<Self> {
        let shown = path.display().to_string();
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            bail!("{shown}: is not a regular file; name a file to be written");
        }
        if inputs.iter().any(|input| std::fs::canonicalize(input).is_ok_and(|input| input == path)) {
            bail!("{shown}: is a file of the model, or lies in its folder; name another one");
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(partial);
        let file = File::create(&partial)
            .with_context(|| format!("{shown}: cannot write; name a place that can be written to"))?;
        Ok(WholeOrNothing { out: BufWriter::new(file), partial, path, unsettled: 0, finished: false })
    }

    /// Lets nobody but the owner read it.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn make_private(&self) -> Result<()> {
        let private = self.out.get_ref().set_permissions(Permissions::from_mode(0o600));
        private.with_context(|| format!("{}: cannot be kept from others", self.path.display()))
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// When the drive is full, or failed.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.unsettled += bytes.len();
        let mut written = self.out.write_all(bytes);
        if self.unsettled >= SETTLE_BYTES {
            self.unsettled = 0;
            written = written.and_then(|()| self.out.flush()).and_then(|()| settle(self.out.get_ref()));
        }
        written.with_context(|| format!("{}: cannot write; free some space", self.path.display()))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// When the drive is full, or failed.
    pub fn finish(mut self) -> Result<()> {
        let settled = self.out.flush().and_then(|()| settle(self.out.get_ref()));
        let named = settled.and_then(|()| std::fs::rename(&self.partial, &self.path));
        self.finished = named.is_ok();
        named.with_context(|| format!("{}: cannot write; free some space", self.path.display()))
    }
}

impl Drop for WholeOrNothing {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing half-written is left; that it is gone already is fine.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// The head of a file of f32 `[rows, cols]` in C order.
pub fn header_f32(rows: usize, cols: usize) -> Vec<u8> {
    let dictionary = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}");
    let length = (10 + dictionary.len() + 1).next_multiple_of(64) - 10;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend_from_slice(&(length as u16).to_le_bytes());
    header.extend_from_slice(format!("{dictionary:<width$}\n", width = length - 1).as_bytes());
    header
}
