//! Tables that stay on the drive: of an embedding a token needs one row, which is read when the token comes; of a table of
//! n-grams, which no memory holds, a few (`blocks/ngrams.rs`).
//!
//! Rows pass through a window of [`RowStream::ROWS`] places, and stay there until their place is needed, so that common words
//! are seldom read twice. Of a pack whole records are read, with what they hold around a row, so that each is checked.

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
    /// By the first row: a large table lies in several tensors.
    shards: Vec<Shard>,
    row_bytes: usize,
    /// What reads of these files are multiples of.
    align: usize,
    dims: [usize; 2],
    dtype: DType,
    /// First byte in a place.
    at: usize,
    /// Bytes in a place.
    room: usize,
}

/// A tensor of rows.
struct Shard {
    first_row: u32,
    file: usize,
    /// Where the tensor lies in the file.
    start: u64,
    end: u64,
    /// Bytes of its records that have checksums; 1 where there are none.
    record: u64,
}

/// A row in a file.
struct Span {
    file: usize,
    /// First byte of the row.
    start: u64,
    /// What is read for it, from a multiple of the alignment on.
    from: u64,
    to: u64,
}

impl RowSource {
    /// The rows of a matrix whose tensors begin at these bytes of these files, if each of them has as many rows.
    pub(super) fn new(stored: &StoredMatrix, tensors: &[(usize, u64)], files: &[Arc<SourceFile>]) -> Option<RowSource> {
        let row = StoredMatrix { rows: 1, ..*stored };
        if row.parts() != stored.parts() {
            return None;
        }
        let mut parts = Vec::new();
        for ((view, all), &(file, offset)) in row.views().zip(stored.part_bytes()).zip(tensors) {
            let (dims, dtype) = view;
            let row_bytes = dims[0] * dims[1] * dtype.bytes();
            if dims[0] != 1 || row_bytes * stored.rows != all {
                return None;
            }
            let align = files.iter().map(|file| file.align()).max()?;
            let record = files[file].checksums().and_then(|sums| sums.record_bytes(offset)).unwrap_or(1);
            let shard = Shard { first_row: 0, file, start: offset, end: offset + all as u64, record };
            let room = shard.room(row_bytes, align);
            parts.push(Part { shards: vec![shard], row_bytes, align, dims, dtype, at: 0, room });
        }
        let mut source = RowSource { stored: row, rows: stored.rows, parts, slot_bytes: 0 };
        source.lay_out();
        Some(source)
    }

    /// Gives each part its place.
    fn lay_out(&mut self) {
        let mut end = 0usize;
        for part in &mut self.parts {
            part.at = end.next_multiple_of(part.align);
            end = part.at + part.room;
        }
        let align = self.parts.iter().map(|part| part.align).max().unwrap_or(1);
        self.slot_bytes = end.next_multiple_of(align);
    }

    /// Adds the rows of another matrix behind these; `None` where they are stored otherwise.
    pub(super) fn and(mut self, more: RowSource) -> Option<RowSource> {
        if self.stored != more.stored {
            return None;
        }
        let rows = self.rows as u32;
        self.rows += more.rows;
        for (part, more) in self.parts.iter_mut().zip(more.parts) {
            let behind = |shard: Shard| Shard { first_row: rows + shard.first_row, ..shard };
            part.shards.extend(more.shards.into_iter().map(behind));
            part.room = part.room.max(more.room);
        }
        self.lay_out();
        Some(self)
    }

    /// File and first byte of its tensors.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (usize, u64)> {
        self.parts.iter().flat_map(|part| &part.shards).map(|shard| (shard.file, shard.start))
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
            let Span { file, from, to, .. } = part.span(row);
            reads.push(Read {
                tag: self.tag | (slot as u64) << 8 | i as u64,
                file: files[file].clone(),
                offset: from,
                bytes: (to - from).next_multiple_of(part.align as u64) as usize,
                needed: (to - from) as usize,
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
            let Span { file, start, .. } = part.span(row);
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
            let Span { start, from, .. } = part.span(row);
            let at = self.first + slot * self.source.slot_bytes + part.at + (start - from) as usize;
            *tensor = Some(Tensor::new(self.buffer.clone(), at, part.dims, part.dtype));
        }
        Some(self.source.stored.matrix(tensors))
    }
}

impl Part {
    /// Where a row lies, and the records around it.
    fn span(&self, row: u32) -> Span {
        let shard = &self.shards[self.shards.partition_point(|shard| shard.first_row <= row) - 1];
        let within = u64::from(row - shard.first_row) * self.row_bytes as u64;
        let from = shard.start + within / shard.record * shard.record;
        let to = shard.start + (within + self.row_bytes as u64).next_multiple_of(shard.record);
        let align = self.align as u64;
        Span { file: shard.file, start: shard.start + within, from: from / align * align, to: to.min(shard.end) }
    }
}

impl Shard {
    /// Bytes that are read for a row at most.
    fn room(&self, row_bytes: usize, align: usize) -> usize {
        let record = self.record as usize;
        // A row lies across one border more than its length has: of records, and of what reads are multiples of.
        let records = ((row_bytes - 1).div_ceil(record) + 1) * record;
        let aligned = self.start.is_multiple_of(align as u64) && record.is_multiple_of(align);
        records.next_multiple_of(align) + if aligned { 0 } else { align }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the sizes: what is read for a row is whole records, holds the row, and has room in its place.
    #[test]
    fn a_row_is_read_with_the_records_around_it() {
        for (row_bytes, rows, start, record, align) in [
            (4096usize, 50u32, 0u64, 4096u64, 4096usize),
            (4096, 50, 8192, 4096, 16384),
            (5000, 77, 4096, 8192, 4096),
            (16384, 9, 12288, 8192, 16384),
            (320, 1000, 4096, 4096, 4096),
            (320, 12, 4096, 3840, 4096),
            (4096, 33, 1234, 1, 512),
            (4096, 33, 1024, 1, 512),
        ] {
            let end = start + row_bytes as u64 * u64::from(rows);
            let shard = Shard { first_row: 0, file: 0, start, end, record };
            let room = shard.room(row_bytes, align);
            let part =
                Part { shards: vec![shard], row_bytes, align, dims: [1, row_bytes], dtype: DType::U8, at: 0, room };
            for row in 0..rows {
                let Span { start: at, from, to, .. } = part.span(row);
                assert_eq!(at, start + row_bytes as u64 * u64::from(row));
                assert!(from <= at && at + row_bytes as u64 <= to && to <= end && from.is_multiple_of(align as u64));
                let behind = (at - start) / record * record;
                assert!(from <= start + behind && (to == end || (to - start).is_multiple_of(record)));
                let bytes = (to - from).next_multiple_of(align as u64) as usize;
                assert!(bytes <= room, "row {row} of {row_bytes} bytes takes {bytes} of {room}");
            }
        }
    }
}
