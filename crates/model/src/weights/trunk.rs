//! The weights outside the experts: where they lie in memory, and how those of layers that do not fit pass through it.
//!
//! Each streamed layer has one of two places for all of its tensors, by turns. While a layer is computed in one of them, the
//! next one is read into the other. The order of layers is always the same, so nothing is guessed: only a batch that goes
//! through the layers while another one is between two of them finds a place taken, and waits for its weights once more. Of an
//! embedding that stays on the drive, and of tables that always do, a batch reads the rows of its tokens ([`RowStream`]).

use std::sync::Arc;

use outpour_kernels::{Buffer, Ops, OpsError};
use outpour_store::plan::{TRUNK_ALIGN, TrunkNeeds, TrunkPlan, WINDOW_LAYERS};
use outpour_store::read::{Read, Region, SourceFile};
use outpour_store::{Result, StoreError};

use super::region::backend_region;
use super::rows::{RowSource, RowStream};

/// What a tensor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Of {
    /// The whole model.
    Model,
    Layer(usize),
    /// The embedding, where it can be read by row.
    Embedding,
}

impl Of {
    /// A layer or the whole model, by a tensor's name.
    pub(super) fn named(name: &str) -> Of {
        let number = |rest: &str| rest.split('.').next()?.parse().ok();
        name.split_once("layers.").and_then(|(_, rest)| number(rest)).map_or(Of::Model, Of::Layer)
    }
}

/// A tensor's read.
pub(super) struct TrunkRead {
    pub(super) name: String,
    pub(super) of: Of,
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) bytes: usize,
    pub(super) needed: usize,
    /// First byte in the buffer of resident weights, or in that of streamed ones.
    pub(super) at: usize,
}

impl TrunkRead {
    pub(super) fn read(&self, files: &[Arc<SourceFile>], region: &Arc<Region>, tag: u64) -> Read {
        Read {
            tag,
            file: files[self.file].clone(),
            offset: self.offset,
            bytes: self.bytes,
            needed: self.needed,
            region: region.clone(),
            at: self.at,
        }
    }

    pub(super) fn failed(&self, files: &[Arc<SourceFile>], why: &std::io::Error) -> StoreError {
        StoreError::Read {
            path: files[self.file].path().to_owned(),
            what: self.name.clone(),
            offset: self.offset,
            bytes: self.bytes,
            why: why.to_string(),
        }
    }
}

/// Where tensors lie.
pub(super) struct Places {
    buffers: Buffers,
    /// Bytes placed so far, of the whole model, by layer, and of the embedding.
    fixed: usize,
    layers: Vec<usize>,
    embedding: usize,
}

enum Buffers {
    /// Nowhere: sizes are added up.
    None,
    /// One after the other, and over the first ones again at the end.
    Folded { buffer: Buffer, at: usize },
    /// As planned.
    Planned(Planned),
}

struct Planned {
    resident: Option<Buffer>,
    /// What layers pass through.
    window: Option<Buffer>,
    /// What rows of the embedding pass through.
    rows: Option<Buffer>,
    /// What rows of tables pass through.
    tables: Option<Buffer>,
    /// By layer, the first byte of its own, in the buffer of resident weights or in the window.
    starts: Vec<usize>,
    /// First byte of the embedding in the buffer of resident weights.
    embedding: usize,
    plan: TrunkPlan,
}

impl Places {
    fn new(buffers: Buffers) -> Places {
        Places { buffers, fixed: 0, layers: Vec::new(), embedding: 0 }
    }

    pub(super) fn measure() -> Places {
        Places::new(Buffers::None)
    }

    pub(super) fn fold(buffer: Buffer) -> Places {
        Places::new(Buffers::Folded { buffer, at: 0 })
    }

    pub(super) fn load(needs: &TrunkNeeds, plan: &TrunkPlan, ops: &dyn Ops) -> std::result::Result<Places, OpsError> {
        let mut resident_end = needs.fixed;
        let start = |(layer, &bytes): (usize, &usize)| match plan.streamed.binary_search(&layer) {
            Ok(turn) => turn % WINDOW_LAYERS * plan.slot_bytes,
            Err(_) => {
                resident_end += bytes;
                resident_end - bytes
            }
        };
        let starts: Vec<usize> = needs.layers.iter().enumerate().map(start).collect();
        let buffer = |bytes: usize| (bytes > 0).then(|| ops.alloc_host(bytes)).transpose();
        Ok(Places::new(Buffers::Planned(Planned {
            resident: buffer(plan.resident)?,
            window: buffer(plan.window())?,
            rows: buffer(plan.rows)?,
            tables: buffer(plan.tables)?,
            starts,
            embedding: resident_end,
            plan: plan.clone(),
        })))
    }

    /// A place for so many bytes: the buffer, where there is one, and the first byte in it.
    pub(super) fn place(&mut self, of: Of, bytes: usize, align: usize) -> (Option<Buffer>, usize) {
        if let Buffers::Folded { buffer, at } = &mut self.buffers {
            let mut first = at.next_multiple_of(align);
            if first + bytes > buffer.bytes() {
                first = 0;
            }
            *at = first + bytes;
            return (Some(buffer.clone()), first);
        }
        let end = match of {
            Of::Model => &mut self.fixed,
            Of::Embedding => &mut self.embedding,
            Of::Layer(layer) => {
                if self.layers.len() <= layer {
                    self.layers.resize(layer + 1, 0);
                }
                &mut self.layers[layer]
            }
        };
        let first = end.next_multiple_of(align);
        *end = first + bytes;
        let Buffers::Planned(Planned { resident, window, starts, embedding, plan, .. }) = &self.buffers else {
            return (None, first);
        };
        match of {
            Of::Model => (resident.clone(), first),
            Of::Embedding if plan.rows > 0 => (None, first),
            Of::Embedding => (resident.clone(), embedding + first),
            Of::Layer(layer) if plan.streamed.contains(&layer) => (window.clone(), starts[layer] + first),
            Of::Layer(layer) => (resident.clone(), starts[layer] + first),
        }
    }

    /// Bytes placed, for a model of so many layers.
    pub(super) fn needs(&self, layers: usize) -> TrunkNeeds {
        let whole = |bytes: usize| bytes.next_multiple_of(TRUNK_ALIGN);
        let of = |layer| self.layers.get(layer).copied().unwrap_or(0);
        // Layers beyond the model's own are none that are computed.
        let beyond: usize = self.layers.iter().skip(layers).map(|&bytes| whole(bytes)).sum();
        TrunkNeeds {
            fixed: whole(self.fixed) + beyond,
            layers: (0..layers).map(|layer| whole(of(layer))).collect(),
            embedding: whole(self.embedding),
            ..TrunkNeeds::default()
        }
    }

    /// The buffer of what stays in memory.
    pub(super) fn resident(&self) -> Option<Buffer> {
        match &self.buffers {
            Buffers::Planned(planned) => planned.resident.clone(),
            _ => None,
        }
    }

    /// What is read into memory to stay there, and what is read layer by layer.
    pub(super) fn divide(&self, mut reads: Vec<TrunkRead>) -> (Vec<TrunkRead>, Vec<TrunkRead>) {
        let Buffers::Planned(Planned { plan, .. }) = &self.buffers else { return (reads, Vec::new()) };
        reads.retain(|read| read.of != Of::Embedding || plan.rows == 0);
        reads.into_iter().partition(|read| !matches!(read.of, Of::Layer(layer) if plan.streamed.contains(&layer)))
    }
}

/// Tags of reads of layers have this bit.
const TAG: u64 = 1 << 63;

/// What of the trunk does not stay in memory: some of its layers, and the embedding.
#[derive(Default)]
pub struct TrunkStream {
    /// Those layers, ascending, and what to read for each.
    layers: Vec<(usize, Vec<TrunkRead>)>,
    /// Where they pass through, by turns.
    window: Option<Arc<Region>>,
    slots: [Slot; WINDOW_LAYERS],
    /// Rows of the embedding.
    rows: Option<RowStream>,
    /// Rows of tables.
    tables: Vec<RowStream>,
}

/// A table of which single rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowTable {
    /// The embedding, where it stays on the drive.
    Embedding,
    /// One that always stays there: see [`super::Weights::row_table`].
    Number(usize),
}

/// One of the places that layers pass through.
#[derive(Clone, Copy, Default)]
struct Slot {
    /// Number among [`TrunkStream::layers`].
    holds: Option<usize>,
    /// Reads still to come.
    reads_left: usize,
}

/// Whether a layer can be computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TrunkPlace {
    /// Its weights are in memory.
    Here,
    /// Reads into its place must come first.
    Awaited,
    /// It is to be read.
    Elsewhere,
}

impl TrunkStream {
    pub(super) fn new(
        places: &Places,
        reads: Vec<TrunkRead>,
        rows: Option<RowSource>,
        tables: Vec<RowSource>,
    ) -> Result<TrunkStream> {
        let Buffers::Planned(planned) = &places.buffers else { return Ok(TrunkStream::default()) };
        let streamed = &planned.plan.streamed;
        let mut layers: Vec<(usize, Vec<TrunkRead>)> = streamed.iter().map(|&layer| (layer, Vec::new())).collect();
        for read in reads {
            let turn = match read.of {
                Of::Layer(layer) => streamed.binary_search(&layer).ok(),
                Of::Model | Of::Embedding => None,
            };
            layers[turn.expect("invariant: a streamed tensor is of a streamed layer")].1.push(read);
        }
        Ok(TrunkStream {
            layers,
            window: planned.window.clone().map(backend_region).transpose()?,
            slots: Default::default(),
            rows: rows
                .zip(planned.rows.clone())
                .map(|(rows, buffer)| RowStream::embedding(rows, buffer))
                .transpose()?,
            tables: planned.tables.as_ref().map_or(Ok(Vec::new()), |buffer| RowStream::tables(tables, buffer))?,
        })
    }

    /// Nothing but tables, whose rows pass through a buffer.
    pub(super) fn of_tables(tables: Vec<RowSource>, buffer: &Buffer) -> Result<TrunkStream> {
        Ok(TrunkStream { tables: RowStream::tables(tables, buffer)?, ..TrunkStream::default() })
    }

    /// The memory that layers and rows pass through, to register with a reader.
    pub(crate) fn regions(&self) -> impl Iterator<Item = &Arc<Region>> {
        self.window.iter().chain(self.rows.iter().chain(self.tables.first()).map(RowStream::region))
    }

    /// Rows of a table, where it stays on the drive.
    pub(crate) fn rows(&mut self, of: RowTable) -> Option<&mut RowStream> {
        match of {
            RowTable::Embedding => self.rows.as_mut(),
            RowTable::Number(number) => self.tables.get_mut(number),
        }
    }

    fn turn(&self, layer: usize) -> Option<usize> {
        self.layers.binary_search_by_key(&layer, |&(layer, _)| layer).ok()
    }

    /// Whether a layer can be computed.
    pub(crate) fn locate(&self, layer: usize) -> TrunkPlace {
        let Some(turn) = self.turn(layer) else { return TrunkPlace::Here };
        match self.slots[turn % WINDOW_LAYERS] {
            Slot { reads_left: 1.., .. } => TrunkPlace::Awaited,
            Slot { holds, .. } if holds == Some(turn) => TrunkPlace::Here,
            Slot { .. } => TrunkPlace::Elsewhere,
        }
    }

    /// Notes the reads of a layer, into whose place nothing is being read.
    pub(crate) fn begin(&mut self, layer: usize, files: &[Arc<SourceFile>], reads: &mut Vec<Read>) {
        let (Some(turn), Some(window)) = (self.turn(layer), &self.window) else { return };
        let of_layer = &self.layers[turn].1;
        let tag = |i: usize| TAG | (turn as u64) << 32 | i as u64;
        reads.extend(of_layer.iter().enumerate().map(|(i, read)| read.read(files, window, tag(i))));
        self.slots[turn % WINDOW_LAYERS] = Slot { holds: Some(turn), reads_left: of_layer.len() };
    }

    /// The layer that takes a computed one's place, if it is to be read now.
    pub(crate) fn after(&self, layer: usize) -> Option<usize> {
        let turn = self.turn(layer)?;
        let next = if turn + WINDOW_LAYERS < self.layers.len() { turn + WINDOW_LAYERS } else { turn % WINDOW_LAYERS };
        let next = self.layers[next].0;
        (self.locate(next) == TrunkPlace::Elsewhere).then_some(next)
    }

    /// Whether a read is one of these.
    pub(crate) fn is_tag(tag: u64) -> bool {
        tag & TAG != 0 || RowStream::is_tag(tag)
    }

    /// Notes what became of a read.
    pub(crate) fn complete(
        &mut self,
        tag: u64,
        result: std::io::Result<usize>,
        files: &[Arc<SourceFile>],
    ) -> Result<usize> {
        if tag & TAG == 0 {
            let of = RowStream::number(tag).checked_sub(1).map_or(RowTable::Embedding, RowTable::Number);
            let rows = self.rows(of).expect("invariant: a read of rows is of a table that is here");
            return rows.complete(tag, result, files);
        }
        let (turn, i) = ((tag & !TAG) >> 32, tag as u32 as usize);
        let turn = turn as usize;
        let slot = &mut self.slots[turn % WINDOW_LAYERS];
        slot.reads_left -= 1;
        result.or_else(|why| {
            // Also if this was the last read to come: the layer is not there.
            slot.holds = None;
            let read = &self.layers[turn].1[i];
            // That the file was cut short says more than that a read of it came back short.
            files[read.file].check_unchanged()?;
            Err(read.failed(files, &why))
        })
    }

    /// Forgets what is not wholly read, after all reads have ended.
    pub(crate) fn abandon(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.reads_left > 0) {
            *slot = Slot::default();
        }
        self.rows.iter_mut().chain(&mut self.tables).for_each(RowStream::abandon);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    /// Whichever read of a layer fails, the last one too, the layer is read again before it is computed.
    #[test]
    fn a_layer_with_a_read_that_failed_is_not_there() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let files = [SourceFile::open_buffered(&file).expect("a file")];
        let read = |i: usize| TrunkRead {
            name: format!("model.layers.3.{i}"),
            of: Of::Layer(3),
            file: 0,
            offset: 0,
            bytes: 64,
            needed: 64,
            at: 64 * i,
        };
        for failing in [Some(0), Some(1), Some(2), None] {
            let mut stream = TrunkStream { layers: vec![(3, (0..3).map(read).collect())], ..TrunkStream::default() };
            stream.slots[0] = Slot { holds: Some(0), reads_left: 3 };
            for i in 0..3 {
                assert_eq!(stream.locate(3), TrunkPlace::Awaited);
                let fails = failing == Some(i);
                let result = if fails { Err(io::Error::other("a fault")) } else { Ok(64) };
                assert_eq!(stream.complete(TAG | i as u64, result, &files).is_err(), fails);
            }
            let place = if failing.is_some() { TrunkPlace::Elsewhere } else { TrunkPlace::Here };
            assert_eq!(stream.locate(3), place, "after a fault of {failing:?}");
        }
    }
}
