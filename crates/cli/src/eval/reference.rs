//! The logits of one model, kept until another one's are compared with them: f32, as computed, so that the divergence over
//! the whole vocabulary is exact. They lie in a file without a name, which the system removes whatever ends this process.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use outpour_store::read::whole::settle;

/// Bytes after which what was written or read leaves the page cache, which `--ram` covers too.
const SETTLE_BYTES: usize = 4 << 20;

/// Rows of logits in the order they were computed.
pub struct Reference {
    file: File,
    dir: PathBuf,
    /// Size of the vocabulary of the rows.
    vocab: usize,
    /// The token that each row should have predicted.
    tokens: Vec<u32>,
    /// The next row to be read.
    next: usize,
    unsettled: usize,
    bytes: Vec<u8>,
}

impl Reference {
    /// Makes an empty one in a folder on a drive.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn create(dir: &Path) -> Result<Reference> {
        let file = std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)).with_context(|| {
            format!(
                "{}: cannot keep the logits of --against here; name another place with XDG_CACHE_HOME",
                dir.display()
            )
        })?;
        let dir = dir.to_owned();
        Ok(Reference { file, dir, vocab: 0, tokens: Vec::new(), next: 0, unsettled: 0, bytes: Vec::new() })
    }

    /// Where the file lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Appends the row that predicts a token.
    ///
    /// # Errors
    /// When the drive is full, or failed.
    pub fn push(&mut self, token: u32, logits: &[f32]) -> Result<()> {
        self.vocab = logits.len();
        self.bytes.clear();
        self.bytes.extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
        let written = self.file.write_all(&self.bytes).and_then(|()| self.settle());
        written.with_context(|| {
            let (dir, rows) = (self.dir.display(), self.tokens.len());
            format!(
                "{dir}: cannot write the logits of --against, {rows} tokens so far; free some space, or give --limit"
            )
        })?;
        self.tokens.push(token);
        Ok(())
    }

    /// Reads the next row, which predicts this token.
    ///
    /// # Errors
    /// When the drive failed, or the other model has another vocabulary or other tokens here.
    pub fn next(&mut self, token: u32, logits: &mut Vec<f32>, vocab: usize) -> Result<()> {
        if vocab != self.vocab || self.tokens.get(self.next) != Some(&token) {
            bail!("--against: the models have not computed the same tokens; give one of the same tokenizer");
        }
        let seek = if self.next == 0 { self.file.seek(SeekFrom::Start(0)).map(drop) } else { Ok(()) };
        self.bytes.resize(4 * vocab, 0);
        let read = seek.and_then(|()| self.file.read_exact(&mut self.bytes)).and_then(|()| self.settle());
        read.with_context(|| format!("{}: cannot read the logits of --against back", self.dir.display()))?;
        self.next += 1;
        logits.clear();
        logits.extend(self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        Ok(())
    }

    fn settle(&mut self) -> std::io::Result<()> {
        self.unsettled += self.bytes.len();
        if self.unsettled < SETTLE_BYTES {
            return Ok(());
        }
        self.unsettled = 0;
        settle(&self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut reference = Reference::create(&dir.path().join("new")).expect("a file");
        let row = |i: usize| vec![i as f32 + 0.1, f32::NEG_INFINITY, -0.0];
        (0..5).for_each(|i| reference.push(i as u32, &row(i)).expect("written"));
        let mut back = Vec::new();
        for i in 0..5u32 {
            reference.next(i, &mut back, 3).expect("read");
            assert_eq!(
                back.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                row(i as usize).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            );
        }
        assert!(reference.next(5, &mut back, 3).is_err(), "no more rows");
        assert_eq!(std::fs::read_dir(dir.path().join("new")).expect("the folder").count(), 0, "it has no name");
    }
}
