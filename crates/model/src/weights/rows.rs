//! Tables that stay on the drive: of an embedding a token needs one row, which is read when the token comes; of a table of
//! n-grams, which no memory holds, a few (`blocks/ngrams.rs`).
//!
//! Rows pass through a window of [`RowStream::ROWS`] places, and stay there until their place is needed, so that common words
//! are seldom read twice.

use std::sync::Arc;

use outpour_kernels::{Buffer, DType, Matrix, Tensor};
use outpour_store::read::{Read, Region, SourceFile};
use outpour_store::{Result, StoreError};

use super::region::backend_region;
use super::stored::StoredMatrix;

/// Tags of reads of rows have this bit, and not that of layers.
const TAG: u64 = 1 << 62;

/// How the rows of a matrix lie in files.
pub(super) struct RowSource {
    /// The matrix with one row.
    stored: StoredMatrix,
    /// How many there are.
    rows: usize,
    /// By tensor.
    parts: Vec<Part>,
    /// Bytes of a place.
    slot_bytes: usize,
}

struct Part {
    /// By the first row: the file, and where that row begins in it. A large table lies in several tensors.
    shards: Vec<(u32, usize, u64)>,
    row_bytes: usize,
    /// What reads of these files are multiples of.
    align: usize,
    dims: [usize; 2],
    dtype: DType,
    /// First byte in a place.
    at: usize,
}

impl RowSource {
    /// The rows of a matrix whose tensors begin at these bytes of these files, if each of them has as many rows.
    pub(super) fn new(stored: &StoredMatrix, tensors: &[(usize, u64)], files: &[Arc<SourceFile>]) -> Option<RowSource> {
        let row = StoredMatrix { rows: 1, ..*stored };
        if row.parts() != stored.parts() {
            return None;
        }
        let (mut parts, mut slot_bytes) = (Vec::new(), 0usize);
        for ((view, all), &(file, offset)) in row.views().zip(stored.part_bytes()).zip(tensors) {
            let (dims, dtype) = view;
            let row_bytes = dims[0] * dims[1] * dtype.bytes();
            if dims[0] != 1 || row_bytes * stored.rows != all {
                return None;
            }
            let align = files.iter().map(|file| file.align()).max()?;
            let at = slot_bytes.next_multiple_of(align);
            // A row lies across one border more than its length has.
            slot_bytes = at + row_bytes.next_multiple_of(align) + align;
            parts.push(Part { shards: vec![(0, file, offset)], row_bytes, align, dims, dtype, at });
        }
        let align = parts.iter().map(|part| part.align).max()?;
        Some(RowSource { stored: row, rows: stored.rows, parts, slot_bytes: slot_bytes.next_multiple_of(align) })
    }

    /// Adds the rows of another matrix behind these; `None` where they are stored otherwise.
    pub(super) fn and(mut self, more: RowSource) -> Option<RowSource> {
        if self.stored != more.stored {
            return None;
        }
        let rows = self.rows as u32;
        self.rows += more.rows;
        let behind =
            |part: Part| part.shards.into_iter().map(move |(first, file, offset)| (rows + first, file, offset));
        self.parts.iter_mut().zip(more.parts).for_each(|(part, more)| part.shards.extend(behind(more)));
        Some(self)
    }

    /// Bytes of all rows in files.
    pub(super) fn bytes(&self) -> u64 {
        (self.rows * self.stored.bytes()) as u64
    }

    /// Bytes of the window.
    pub(super) fn window_bytes(&self) -> usize {
        RowStream::ROWS * self.slot_bytes
    }
}

/// The window, and what it holds.
pub(crate) struct RowStream {
    source: RowSource,
    buffer: Buffer,
    region: Arc<Region>,
    /// First byte of the window in them.
    first: usize,
    /// Bits of the tags of its reads.
    tag: u64,
    /// What its rows are.
    what: &'static str,
    slots: Vec<Slot>,
    /// The place that is taken next.
    next: usize,
    /// The present call of [`RowStream::begin`].
    call: u64,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    row: Option<u32>,
    /// Reads still to come.
    reads_left: usize,
    /// The last call of [`RowStream::begin`] that wanted it.
    call: u64,
}

impl RowStream {
    /// Rows in memory together.
    pub(crate) const ROWS: usize = 128;

    /// Rows of the embedding, through a window that is all of a buffer.
    pub(super) fn embedding(source: RowSource, buffer: Buffer) -> Result<RowStream> {
        let region = backend_region(buffer.clone())?;
        Ok(RowStream::new(source, buffer, region, 0, TAG, "the embedding of token"))
    }

    /// Rows of tables, whose windows lie one behind the other in a buffer.
    pub(super) fn tables(sources: Vec<RowSource>, buffer: &Buffer) -> Result<Vec<RowStream>> {
        let (region, mut end) = (backend_region(buffer.clone())?, 0);
        let streams = sources.into_iter().zip(1u64..).map(|(source, number)| {
            let first = end;
            end += source.window_bytes();
            RowStream::new(source, buffer.clone(), region.clone(), first, TAG | number << 32, "n-gram")
        });
        Ok(streams.collect())
    }

    fn new(
        source: RowSource,
        buffer: Buffer,
        region: Arc<Region>,
        first: usize,
        tag: u64,
        what: &'static str,
    ) -> RowStream {
        let slots = vec![Slot::default(); RowStream::ROWS];
        RowStream { source, buffer, region, first, tag, what, slots, next: 0, call: 0 }
    }

    /// The table that a read is of, from 1 on; 0 for the embedding.
    pub(super) fn number(tag: u64) -> usize {
        ((tag & !TAG) >> 32) as usize
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    fn find(&self, row: u32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.row == Some(row))
    }

    /// Notes the reads of the first of `rows`, of as many as there are places for; returns of how many.
    pub(crate) fn begin(&mut self, rows: &[u32], files: &[Arc<SourceFile>], reads: &mut Vec<Read>) -> usize {
        self.call += 1;
        for (i, &row) in rows.iter().enumerate() {
            let Some(slot) = self.find(row).or_else(|| self.free()) else { return i };
            self.slots[slot].call = self.call;
            if self.slots[slot].row != Some(row) {
                self.slots[slot] = Slot { row: Some(row), reads_left: self.source.parts.len(), call: self.call };
                self.push_reads(slot, row, files, reads);
            }
        }
        rows.len()
    }

    /// A place that the present call does not want.
    fn free(&mut self) -> Option<usize> {
        let places = (0..RowStream::ROWS).map(|turn| (self.next + turn) % RowStream::ROWS);
        let place = places.into_iter().find(|&place| self.slots[place].call != self.call)?;
        self.next = place + 1;
        Some(place)
    }

    fn push_reads(&self, slot: usize, row: u32, files: &[Arc<SourceFile>], reads: &mut Vec<Read>) {
        for (i, part) in self.source.parts.iter().enumerate() {
            let (file, start, end) = part.span(row);
            let first = start / part.align as u64 * part.align as u64;
            reads.push(Read {
                tag: self.tag | (slot as u64) << 8 | i as u64,
                file: files[file].clone(),
                offset: first,
                bytes: (end - first).next_multiple_of(part.align as u64) as usize,
                needed: (end - first) as usize,
                region: self.region.clone(),
                at: self.first + slot * self.source.slot_bytes + part.at,
            });
        }
    }

    /// Whether a read is one of these.
    pub(super) fn is_tag(tag: u64) -> bool {
        tag & TAG != 0
    }

    /// Whether reads are still to come.
    pub(crate) fn awaited(&self) -> bool {
        self.slots.iter().any(|slot| slot.reads_left > 0)
    }

    /// Notes what became of a read.
    pub(super) fn complete(
        &mut self,
        tag: u64,
        result: std::io::Result<usize>,
        files: &[Arc<SourceFile>],
    ) -> Result<usize> {
        let (slot, part) = (&mut self.slots[tag as u32 as usize >> 8], &self.source.parts[(tag & 0xff) as usize]);
        slot.reads_left -= 1;
        result.or_else(|why| {
            let row = slot.row.take().unwrap_or(0);
            let (file, start, _) = part.span(row);
            let file = &files[file];
            file.check_unchanged()?;
            Err(StoreError::Read {
                path: file.path().to_owned(),
                what: format!("{} {row}", self.what),
                offset: start,
                bytes: part.row_bytes,
                why: why.to_string(),
            })
        })
    }

    /// Forgets what is not wholly read, after all reads have ended.
    pub(super) fn abandon(&mut self) {
        self.slots.iter_mut().filter(|slot| slot.reads_left > 0).for_each(|slot| *slot = Slot::default());
    }

    /// A row that the last call of [`Self::begin`] counted, when nothing is awaited any more: `[1, cols]`.
    pub(crate) fn row(&self, row: u32) -> Option<Matrix> {
        let slot = self.find(row)?;
        let mut tensors = [None, None, None];
        for (tensor, part) in tensors.iter_mut().zip(&self.source.parts) {
            let within = part.span(row).1 as usize % part.align;
            let at = self.first + slot * self.source.slot_bytes + part.at + within;
            *tensor = Some(Tensor::new(self.buffer.clone(), at, part.dims, part.dtype));
        }
        Some(self.source.stored.matrix(tensors))
    }
}

impl Part {
    /// A row's file, its first byte there, and the one behind its last.
    fn span(&self, row: u32) -> (usize, u64, u64) {
        let shard = self.shards.partition_point(|&(first, ..)| first <= row) - 1;
        let (first, file, offset) = self.shards[shard];
        let start = offset + u64::from(row - first) * self.row_bytes as u64;
        (file, start, start + self.row_bytes as u64)
    }
}
