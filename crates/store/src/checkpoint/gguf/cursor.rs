//! Reads a header from front to back, a window at a time, and nothing behind the file's end.

use std::path::Path;

use serde_json::Value;

use super::types;
use crate::read::whole::WholeFile;
use crate::{Result, StoreError};

/// Bytes read at once.
const WINDOW: u64 = 1 << 20;
/// A text's bytes: templates take some ten thousand.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// A place in a file.
pub struct Cursor<'a> {
    file: &'a WholeFile<'a>,
    path: &'a Path,
    at: u64,
    window: Vec<u8>,
    window_at: u64,
    arrive: Option<Arrive<'a>>,
}

/// Sees to it that a file's bytes are there up to this one.
type Arrive<'a> = &'a dyn Fn(u64) -> Result<()>;

impl<'a> Cursor<'a> {
    pub fn new(file: &'a WholeFile<'a>, path: &'a Path, at: u64) -> Self {
        Cursor { file, path, at, window: Vec::new(), window_at: 0, arrive: None }
    }

    /// The same, of a file whose bytes arrive as they are asked for.
    pub fn arriving(self, arrive: Arrive<'a>) -> Self {
        Cursor { arrive: Some(arrive), ..self }
    }

    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn file_bytes(&self) -> u64 {
        self.file.bytes()
    }

    fn rest(&self) -> u64 {
        self.file.bytes().saturating_sub(self.at)
    }

    /// An error about this file.
    pub fn malformed(&self, problem: String) -> StoreError {
        StoreError::Malformed { path: self.path.to_owned(), problem }
    }

    fn truncated(&self, what: &str) -> StoreError {
        self.malformed(format!("ends within {what}; it is truncated or damaged, download it again"))
    }

    /// The next bytes, which are part of `what`.
    pub fn bytes(&mut self, len: u64, what: &str) -> Result<&[u8]> {
        if len > self.rest() {
            return Err(self.truncated(what));
        }
        if self.at < self.window_at || self.at + len > self.window_at + self.window.len() as u64 {
            let read = len.max(WINDOW).min(self.rest());
            self.arrive.map_or(Ok(()), |arrive| arrive(self.at + read))?;
            self.window = self.file.read_at(self.at, read as usize)?;
            self.window_at = self.at;
        }
        let first = (self.at - self.window_at) as usize;
        self.at += len;
        Ok(&self.window[first..first + len as usize])
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut number = [0; N];
        number.copy_from_slice(self.bytes(N as u64, what)?);
        Ok(number)
    }

    pub fn u32(&mut self, what: &str) -> Result<u32> {
        self.number(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &str) -> Result<u64> {
        self.number(what).map(u64::from_le_bytes)
    }

    /// Goes on so many bytes, perhaps behind the end: the next read says so.
    pub fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes);
    }

    /// A number of things, at most `max`, that take so many bytes each at least.
    pub fn count(&mut self, what: &str, max: u64, bytes_min: u64) -> Result<u64> {
        let count = self.u64(what)?;
        if count > max || count > self.rest() / bytes_min {
            let problem = format!("claims {count} {what}, more than it can hold; it is damaged, download it again");
            return Err(self.malformed(problem));
        }
        Ok(count)
    }

    fn text_bytes(&mut self, what: &str) -> Result<u64> {
        let bytes = self.u64(what)?;
        if bytes > self.rest() {
            return Err(self.truncated(what));
        }
        if bytes > TEXT_BYTES_MAX {
            let problem = format!("{what} is a text of {bytes} bytes, longer than any; download it again");
            return Err(self.malformed(problem));
        }
        Ok(bytes)
    }

    pub fn skip_text(&mut self, what: &str) -> Result<()> {
        let bytes = self.text_bytes(what)?;
        self.skip(bytes);
        Ok(())
    }

    pub fn text(&mut self, what: &str) -> Result<String> {
        let bytes = self.text_bytes(what)?;
        let text = self.bytes(bytes, what)?.to_vec();
        String::from_utf8(text).map_err(|_| self.malformed(format!("{what} is not UTF-8; download it again")))
    }

    /// A value that is no list, under a key. A number that is not finite is `null`.
    pub fn scalar(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::from(self.number::<1>(key)?[0]),
            1 => Value::from(i8::from_le_bytes(self.number(key)?)),
            2 => Value::from(u16::from_le_bytes(self.number(key)?)),
            3 => Value::from(i16::from_le_bytes(self.number(key)?)),
            4 => Value::from(u32::from_le_bytes(self.number(key)?)),
            5 => Value::from(i32::from_le_bytes(self.number(key)?)),
            6 => Value::from(f32::from_le_bytes(self.number(key)?)),
            7 => Value::from(self.number::<1>(key)?[0] != 0),
            types::TEXT => Value::from(self.text(key)?),
            10 => Value::from(u64::from_le_bytes(self.number(key)?)),
            11 => Value::from(i64::from_le_bytes(self.number(key)?)),
            12 => Value::from(f64::from_le_bytes(self.number(key)?)),
            other => {
                return Err(self.malformed(format!("{key} is of kind {other}, which is none; download it again")));
            }
        })
    }
}
