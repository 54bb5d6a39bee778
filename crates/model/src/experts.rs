//! Weights on their way from the drive to the operations that use them: the routed experts, and the layers of a trunk that
//! does not fit.
//!
//! A layer asks for its experts in waves. [`ExpertStream::request`] pins those that are resident and sends out the
//! reads of all the others together; [`ExpertStream::next_ready`] hands out experts as they become usable, resident
//! ones first, while the rest are in flight. The order in which they come never shows in a result: outputs are
//! combined in the order of expert numbers (`blocks::moe`).

mod ahead;
mod stats;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_kernels::{Buffer, Matrix, Mlp, Tensor};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::{ExpertId, ExpertLayout, PARTS_MAX, Placement};
use outpour_store::probe::{self, Flow, ReadSpeed};
use outpour_store::read::{Completion, Read, Reader, ReaderCounts, Region};
use outpour_store::residency::{Place, Residency};
use outpour_store::slab::SlotId;
use outpour_store::{Result, StoreError};

pub use stats::StreamStats;

use crate::weights::{BackendRegion, ExpertShape, GateUp, RowStream, RowTable, TrunkPlace, TrunkStream};

/// Is told of every choice of experts: one call a layer and batch.
pub trait RouteSink {
    /// `choice` and `weights` are `[tokens, top_k]`, in descending order of score.
    fn chosen(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]);
}

/// Wants to know nothing.
impl RouteSink for () {
    fn chosen(&mut self, _: usize, _: &[u32], _: &[i32], _: &[f32]) {}
}

/// Share of a layer's experts from which on its neighbour is taken to use all of its own.
pub const SWEEP_SHARE: f64 = 0.98;

/// One in so many slots may hold a prompt's experts of the next layer.
pub const EARLY_SHARE: usize = 4;

/// One in so many slots may hold those that a token is guessed to use, of the next layer. They come out of the cache, which is worth
/// more to a token than to a prompt.
pub const GUESS_SHARE: usize = 16;

/// Experts in flight while all are read.
const READ_ALL_AT_ONCE: usize = 32;

/// Of an expert that is not read.
const NO_TAG: u64 = u64::MAX;

/// The routed experts of a model.
pub struct ExpertStream {
    checkpoint: Arc<Checkpoint>,
    layout: Arc<ExpertLayout>,
    shapes: Vec<Option<ExpertShape>>,
    residency: Residency,
    trunk: TrunkStream,
    reader: Box<dyn Reader>,
    wants: Vec<Want>,
    /// Read, or being read, before anybody asked.
    early: Vec<Early>,
    /// Whether a sweep may go on to the next layer.
    sweeps_on: bool,
    /// The fewest tokens of a chunk that used nearly all experts of the first layer that has any, since one of as many did not.
    sweeping_tokens: Option<usize>,
    /// Which part of a prompt goes through the present layer; and the most tokens and experts of those before it.
    part: PartOf,
    parts_before: (usize, usize),
    /// Tag of the next expert's first read.
    next_tag: u64,
    reads: Vec<Read>,
    done: Vec<Completion>,
    stats: StreamStats,
    /// When the first of the reads now in flight was sent out.
    reading_since: Option<Instant>,
    /// When the present layer's first experts were asked for, and the time blocked before.
    layer_since: Option<(Instant, Duration)>,
    /// What is said of a drive that did not answer in time, until it has: its reads may still land in the slots that they were
    /// for, which are kept, and nothing else is asked for.
    unanswered: Option<String>,
}

/// An expert that was asked for and not yet released.
struct Want {
    id: ExpertId,
    slot: SlotId,
    placement: Placement,
    /// Tag of its first read; the others' follow.
    tag: u64,
    /// Reads still to come.
    reads_left: usize,
    /// Where it is in its life.
    stage: Stage,
}

/// An expert in a spare slot.
struct Early {
    id: ExpertId,
    slot: SlotId,
    placement: Placement,
    /// Tag of its first read; the others' follow.
    tag: u64,
    /// Reads still to come.
    reads_left: usize,
    /// Whether it is of no use: nobody asked for it, or it could not be read.
    dropped: bool,
}

/// Which part of a batch goes through a layer, where it goes in several, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartOf {
    /// Nothing of it went before.
    pub first: bool,
    /// Nothing of it follows.
    pub last: bool,
}

impl PartOf {
    /// All of it at once.
    pub const WHOLE: PartOf = PartOf { first: true, last: true };
}

/// Which experts to read early, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyLimits {
    /// Bytes in all.
    pub bytes: u64,
    /// Slots that may be set aside for it.
    pub slots: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Ready,
    InUse,
    Released,
}

impl ExpertStream {
    /// A stream over the experts that `layout` describes, and over `trunk`.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        layout: Arc<ExpertLayout>,
        shapes: Vec<Option<ExpertShape>>,
        residency: Residency,
        trunk: TrunkStream,
        mut reader: Box<dyn Reader>,
    ) -> Self {
        residency.regions().chain(trunk.regions()).for_each(|region| reader.register(region));
        // A layer's experts may all be wanted at once.
        let wants_max = (0..layout.layers()).map(|layer| layout.experts(layer)).max().unwrap_or(0);
        let reads_max = wants_max.max(RowStream::ROWS) * PARTS_MAX;
        ExpertStream {
            checkpoint,
            layout,
            shapes,
            residency,
            trunk,
            reader,
            wants: Vec::with_capacity(wants_max),
            early: Vec::with_capacity(wants_max),
            sweeps_on: true,
            sweeping_tokens: None,
            part: PartOf::WHOLE,
            parts_before: (0, 0),
            next_tag: 0,
            reads: Vec::with_capacity(reads_max),
            done: Vec::with_capacity(reads_max),
            stats: StreamStats::default(),
            reading_since: None,
            layer_since: None,
            unanswered: None,
        }
    }

    /// What streaming has cost so far.
    pub fn stats(&self) -> StreamStats {
        StreamStats { lost: self.residency.lost(), ..self.stats }
    }

    /// The policy and its memory.
    pub fn residency(&mut self) -> &mut Residency {
        &mut self.residency
    }

    /// Takes a piece of memory from the experts, to be given back to the system when the last handle of it is dropped: see
    /// [`Residency::withdraw_piece`].
    pub fn shrink(&mut self) -> Option<Arc<Region>> {
        let region = self.residency.withdraw_piece()?;
        self.reader.unregister(&region);
        Some(region)
    }

    /// Gives the experts memory in the place of some that was taken.
    pub fn grow(&mut self, region: Arc<Region>) {
        self.reader.register(&region);
        self.residency.restore_piece(region);
    }

    /// What the reader has done.
    pub fn reader_counts(&self) -> ReaderCounts {
        self.reader.counts()
    }

    /// The reader, for people.
    pub fn describe_reader(&self) -> String {
        self.reader.describe()
    }

    /// Routed experts of a layer.
    pub fn experts(&self, layer: usize) -> usize {
        self.layout.experts(layer)
    }

    /// Whether all routed experts of a layer are in memory.
    pub fn is_resident(&self, layer: usize) -> bool {
        self.residency.is_resident(layer)
    }

    /// Whether there is room for all routed experts of a layer.
    pub fn holds(&self, layer: usize) -> bool {
        self.residency.slots(layer) >= self.layout.experts(layer)
    }

    /// Whether all routed experts of the model are.
    pub fn all_resident(&self) -> bool {
        (0..self.layout.layers()).all(|layer| self.residency.is_resident(layer))
    }

    /// Bytes of each of a layer's experts, as stored; 0 where there are none.
    pub fn expert_bytes(&self, layer: usize) -> u64 {
        let first = ExpertId { layer: layer as u32, expert: 0 };
        if self.layout.experts(layer) > 0 { self.layout.expert_bytes(first) } else { 0 }
    }

    /// Experts of a layer that stay in memory when every layer gets the same share, and a prompt that uses so many of each passes
    /// through the rest: more would leave again before the next prompt comes to them.
    pub fn share(&self, layer: usize, used: usize) -> usize {
        self.residency.share(layer, used + self.sweep_limits(layer).slots)
    }

    /// Experts of a layer that could be asked for now.
    pub fn available(&self, layer: usize) -> usize {
        self.residency.available(layer)
    }

    /// Has the weights of a layer outside its experts in memory, waiting for them where they are not.
    ///
    /// # Errors
    /// When a read failed for good; every read is then finished and every expert released.
    pub fn enter_layer(&mut self, layer: usize) -> Result<()> {
        self.recover()?;
        loop {
            match self.trunk.locate(layer) {
                TrunkPlace::Here => return Ok(()),
                TrunkPlace::Elsewhere => self.read_trunk(layer)?,
                TrunkPlace::Awaited => {
                    self.collect(true)?;
                }
            }
        }
    }

    /// Whether rows of the embedding are read for each batch.
    pub fn reads_rows(&mut self) -> bool {
        self.trunk.rows(RowTable::Embedding).is_some()
    }

    /// Reads rows of a table that stays on the drive, as many at a time as there are places for, and hands each to `each`, with
    /// its number among `rows`: `[1, cols]`.
    ///
    /// # Errors
    /// As [`Self::enter_layer`].
    pub fn rows(&mut self, of: RowTable, rows: &[u32], each: &mut dyn FnMut(usize, &Matrix)) -> Result<()> {
        let mut done = 0;
        while done < rows.len() {
            self.recover()?;
            self.reads.clear();
            let table = self.trunk.rows(of).expect("invariant: the family asked for this table");
            let count = table.begin(&rows[done..], self.checkpoint.files(), &mut self.reads);
            self.send("rows of a table")?;
            while self.trunk.rows(of).is_some_and(|table| table.awaited()) {
                self.collect(true)?;
            }
            let table = self.trunk.rows(of).expect("invariant: it was here before");
            for (i, &row) in rows.iter().enumerate().skip(done).take(count) {
                each(i, &table.row(row).expect("invariant: its row was read"));
            }
            done += count;
        }
        Ok(())
    }

    /// A layer is computed: where its weights do not stay, those of a later one are read into their place.
    ///
    /// # Errors
    /// When the reader refuses the reads.
    pub fn leave_layer(&mut self, layer: usize) -> Result<()> {
        self.trunk.after(layer).map_or(Ok(()), |next| self.read_trunk(next))
    }

    fn read_trunk(&mut self, layer: usize) -> Result<()> {
        self.reads.clear();
        self.trunk.begin(layer, self.checkpoint.files(), &mut self.reads);
        self.send("weights of a layer")
    }

    /// Asks for experts of a layer. All that are not resident go out as one batch of reads, and this returns at once.
    /// At most [`Self::available`] experts may be asked for. Those that are `passing` are of a prompt that uses more of the layer
    /// than can stay in memory.
    ///
    /// # Errors
    /// When the reads cannot be sent out.
    pub fn request(&mut self, layer: usize, experts: &[u32], passing: bool) -> Result<()> {
        self.layer_since.get_or_insert((Instant::now(), self.stats.blocked));
        self.wants.retain(|want| want.stage != Stage::Released);
        self.reads.clear();
        // Resident ones are pinned first, so that none of them makes room for a missing one.
        for &expert in experts {
            let id = ExpertId { layer: layer as u32, expert };
            if let Place::Host(slot) | Place::Device(slot) = self.residency.locate(id) {
                self.residency.pin(slot);
                self.want_resident(id, slot);
            }
        }
        for &expert in experts {
            let id = ExpertId { layer: layer as u32, expert };
            if self.residency.locate(id) == Place::Drive {
                match self.early.iter().position(|early| early.id == id && !early.dropped) {
                    Some(early) => self.adopt(early),
                    None => self.fill(id),
                }
            }
        }
        self.send("experts")?;
        // While they fly.
        for &expert in experts {
            self.residency.used(ExpertId { layer: layer as u32, expert }, passing);
        }
        Ok(())
    }

    /// Sends the noted reads out.
    fn send(&mut self, what: &str) -> Result<()> {
        if self.reads.is_empty() {
            return Ok(());
        }
        self.reading_since.get_or_insert_with(Instant::now);
        let sent = self.reader.submit(&self.reads);
        sent.map_err(|why| read_error(&self.reads[0], what.into(), why.to_string()))
    }

    /// Notes that a resident expert is wanted.
    fn want_resident(&mut self, id: ExpertId, slot: SlotId) {
        let placement = self.layout.place(id, self.checkpoint.files());
        self.stats.hits += 1;
        self.stats.needed_bytes += self.layout.expert_bytes(id);
        self.wants.push(Want { id, slot, placement, tag: NO_TAG, reads_left: 0, stage: Stage::Ready });
    }

    /// Begins the fill of a missing expert and notes its reads.
    fn fill(&mut self, id: ExpertId) {
        let Some(slot) = self.residency.begin_fill(id) else {
            unreachable!("invariant: callers ask for no more experts than available() says");
        };
        let placement = self.layout.place(id, self.checkpoint.files());
        self.stats.misses += 1;
        self.stats.needed_bytes += self.layout.expert_bytes(id);
        let tag = self.push_reads(slot, &placement);
        self.wants.push(Want { id, slot, placement, tag, reads_left: placement.runs().len(), stage: Stage::Reading });
    }

    /// Notes the reads that fill a slot; returns the first one's tag.
    fn push_reads(&mut self, slot: SlotId, placement: &Placement) -> u64 {
        let tag = self.next_tag;
        self.next_tag += PARTS_MAX as u64;
        let (region, at) = self.residency.location(slot);
        for (i, run) in placement.runs().iter().enumerate() {
            self.reads.push(Read {
                tag: tag + i as u64,
                file: self.checkpoint.files()[run.file].clone(),
                offset: run.offset,
                bytes: run.bytes,
                needed: run.needed,
                region: region.clone(),
                at: at + run.at,
            });
        }
        tag
    }

    /// Asks for an expert that is being read already, or was.
    fn adopt(&mut self, early: usize) {
        let Early { id, slot, placement, tag, reads_left, .. } = self.early.swap_remove(early);
        self.residency.adopt(slot, id);
        self.stats.misses += 1;
        self.stats.early_used += 1;
        self.stats.needed_bytes += self.layout.expert_bytes(id);
        let stage = if reads_left == 0 { Stage::Ready } else { Stage::Reading };
        if reads_left == 0 {
            self.residency.end_fill(slot);
        }
        self.wants.push(Want { id, slot, placement, tag, reads_left, stage });
    }

    /// The next of `experts` (those of an earlier [`Self::request`]) that can be used; if none can, `wait`s for the drive, or
    /// gives `None` as when all were handed out. Comes with its place in `experts`. The caller hands it to
    /// [`Self::release`] when its work is enqueued.
    ///
    /// # Errors
    /// When a read failed for good; every read is then finished and every expert released.
    pub fn next_ready(&mut self, layer: usize, experts: &[u32], wait: bool) -> Result<Option<(usize, Mlp)>> {
        loop {
            self.collect(false)?;
            let mut waiting = false;
            for want in &mut self.wants {
                let Ok(place) = experts.binary_search(&want.id.expert) else { continue };
                match want.stage {
                    Stage::Ready => {
                        want.stage = Stage::InUse;
                        let (id, slot, placement) = (want.id, want.slot, want.placement);
                        debug_assert_eq!(id.layer as usize, layer);
                        return Ok(Some((place, self.mlp(id, slot, &placement))));
                    }
                    Stage::Reading => waiting = true,
                    Stage::InUse | Stage::Released => {}
                }
            }
            if !waiting || !wait {
                return Ok(None);
            }
            self.collect(true)?;
        }
    }

    /// Reads every expert that is not in memory yet, if there is room for all; says whether there is.
    ///
    /// # Errors
    /// When a read failed for good; every read is then finished and every expert released.
    pub fn read_all(&mut self) -> Result<bool> {
        if self.residency.expert_slots() < self.layout.experts_total() {
            return Ok(false);
        }
        for layer in 0..self.layout.layers() {
            let experts: Vec<u32> = (0..self.layout.experts(layer) as u32).collect();
            for part in experts.chunks(READ_ALL_AT_ONCE) {
                self.request(layer, part, true)?;
                while let Some((i, _)) = self.next_ready(layer, part, true)? {
                    self.release(part[i], true);
                }
            }
            self.end_layer(layer);
        }
        Ok(true)
    }

    /// Gives an expert back that [`Self::next_ready`] handed out: it stays resident until its room is needed, which, if it
    /// is not to be `kept`, is soon.
    pub fn release(&mut self, expert: u32, kept: bool) {
        let found = self.wants.iter_mut().find(|want| want.id.expert == expert && want.stage == Stage::InUse);
        if let Some(want) = found {
            want.stage = Stage::Released;
            self.residency.unpin(want.slot);
            if !kept && self.part.last {
                self.residency.demote(want.slot);
            }
        }
    }

    /// Ends a layer: all of its experts are computed. What was read early for it in vain leaves.
    pub fn end_layer(&mut self, layer: usize) {
        self.stop_layer_clock();
        self.early.iter_mut().filter(|early| early.id.layer as usize == layer).for_each(|early| early.dropped = true);
        self.sweep_early();
    }

    fn stop_layer_clock(&mut self) {
        if let Some((since, blocked_before)) = self.layer_since.take() {
            self.stats.computing += since.elapsed().saturating_sub(self.stats.blocked - blocked_before);
        }
    }

    /// How fast the drive gives experts, into `memory`: see [`probe::expert_reads`].
    ///
    /// # Errors
    /// When a read failed.
    pub fn probe(&mut self, memory: &[Arc<Region>], flow: Flow, budget: Duration, seed: u64) -> Result<ReadSpeed> {
        self.recover()?;
        // Nothing else may be in flight.
        self.abandon();
        probe::expert_reads(&self.checkpoint, &self.layout, &mut *self.reader, memory, flow, budget, seed)
    }

    /// Takes in what the reader has finished; with `wait` at least something.
    fn collect(&mut self, wait: bool) -> Result<()> {
        if self.reader.in_flight() == 0 {
            return Ok(());
        }
        let began = Instant::now();
        let collected = self.reader.collect(wait, &mut self.done);
        if wait {
            self.stats.blocked += began.elapsed();
        }
        let mut failure = collected.err().map(|why| {
            if why.kind() == io::ErrorKind::TimedOut {
                self.unanswered = Some(why.to_string());
            }
            self.reader_failed(&why.to_string())
        });
        while let Some(completion) = self.done.pop() {
            if let Err(error) = self.complete(completion) {
                failure.get_or_insert(error);
            }
        }
        if self.reader.in_flight() == 0 {
            self.stop_clock();
        }
        match failure {
            Some(error) => {
                self.abandon();
                Err(error)
            }
            None => Ok(()),
        }
    }

    fn stop_clock(&mut self) {
        if let Some(since) = self.reading_since.take() {
            self.stats.reading += since.elapsed();
        }
    }

    fn complete(&mut self, completion: Completion) -> Result<()> {
        if TrunkStream::is_tag(completion.tag) {
            let bytes = self.trunk.complete(completion.tag, completion.result, self.checkpoint.files())?;
            self.stats.read_bytes += bytes as u64;
            self.stats.trunk_bytes += bytes as u64;
            return Ok(());
        }
        let tag = completion.tag - completion.tag % PARTS_MAX as u64;
        if let Some(at) = self.wants.iter().position(|want| want.tag == tag) {
            let want = &mut self.wants[at];
            return match completion.result {
                Ok(bytes) => {
                    self.stats.read_bytes += bytes as u64;
                    want.reads_left -= 1;
                    if want.reads_left == 0 {
                        want.stage = Stage::Ready;
                        self.residency.end_fill(want.slot);
                    }
                    Ok(())
                }
                Err(why) => {
                    let run = (completion.tag - tag) as usize;
                    // That the file was cut short says more than that a read of it came back short.
                    self.checkpoint.files()[want.placement.runs()[run].file].check_unchanged()?;
                    Err(self.expert_failed(&self.wants[at], run, &why.to_string()))
                }
            };
        }
        if let Some(early) = self.early.iter_mut().find(|early| early.tag == tag) {
            early.reads_left -= 1;
            match completion.result {
                Ok(bytes) => self.stats.read_bytes += bytes as u64,
                // Nobody has asked for it: whoever does has it read again, and is told.
                Err(_) => early.dropped = true,
            }
            if early.dropped {
                self.sweep_early();
            }
        }
        Ok(())
    }

    /// What a reader's failure concerns: an expert that is waited for, if any is.
    fn reader_failed(&self, why: &str) -> StoreError {
        match self.wants.iter().find(|want| want.stage == Stage::Reading) {
            Some(want) => self.expert_failed(want, 0, why),
            None => StoreError::Other(format!("weights could not be read: {why}")),
        }
    }

    /// The failure of an expert's `run`-th read.
    fn expert_failed(&self, want: &Want, run: usize, why: &str) -> StoreError {
        let run = want.placement.runs()[run];
        StoreError::Read {
            path: self.checkpoint.files()[run.file].path().to_owned(),
            what: format!("expert {} of layer {}", want.id.expert, want.id.layer),
            offset: run.offset,
            bytes: run.bytes,
            why: why.to_owned(),
        }
    }

    /// After a drive did not answer in time, takes in what it has answered by now; `true` where that freed what its reads held.
    ///
    /// # Errors
    /// When it has not.
    pub fn recover(&mut self) -> Result<bool> {
        let Some(problem) = &self.unanswered else { return Ok(false) };
        let asked = self.reader.collect(false, &mut self.done);
        if asked.is_err() || self.reader.in_flight() > 0 {
            return Err(self.reader_failed(problem));
        }
        self.unanswered = None;
        self.abandon();
        Ok(true)
    }

    /// Ends every read in flight and releases every expert, after a failure. Where the drive does not answer, that is for later.
    pub fn abandon(&mut self) {
        while self.unanswered.is_none() && self.reader.in_flight() > 0 {
            match self.reader.collect(true, &mut self.done) {
                Err(why) if why.kind() == io::ErrorKind::TimedOut => self.unanswered = Some(why.to_string()),
                Err(_) => break,
                Ok(()) => {}
            }
        }
        self.done.clear();
        if self.unanswered.is_some() {
            self.stop_clock();
            self.stop_layer_clock();
            return;
        }
        self.trunk.abandon();
        self.parts_before = (0, 0);
        self.stop_clock();
        self.stop_layer_clock();
        for early in self.early.drain(..) {
            self.residency.drop_early(early.slot);
        }
        for want in self.wants.drain(..) {
            match want.stage {
                Stage::Reading => self.residency.abort_fill(want.slot),
                Stage::Ready | Stage::InUse => self.residency.unpin(want.slot),
                Stage::Released => {}
            }
        }
    }

    /// A slot's bytes as an expert.
    fn mlp(&self, id: ExpertId, slot: SlotId, placement: &Placement) -> Mlp {
        let shape = self.shapes[id.layer as usize].as_ref().expect("invariant: a layer with experts has their shape");
        let (region, at) = self.residency.location(slot);
        let buffer: &Buffer = region
            .memory()
            .downcast_ref::<BackendRegion>()
            .expect("invariant: the slab's regions come from weights::allocate_region")
            .buffer();
        let matrix = |m: usize| {
            let stored = &shape.matrices[m];
            let mut parts = [None, None, None];
            for (part, (i, (dims, dtype))) in parts.iter_mut().zip(stored.views().enumerate()) {
                let at = at + placement.parts()[shape.first_part(m) + i];
                *part = Some(Tensor::new(buffer.clone(), at, dims, dtype));
            }
            stored.matrix(parts)
        };
        let (gate, up) = match shape.gate_up {
            GateUp::Apart => ((shape.matrices[0].rows > 0).then(|| matrix(0)), matrix(1)),
            GateUp::Alternate => (Some(matrix(0).every_other(0)), matrix(0).every_other(1)),
            GateUp::Behind => {
                let (both, width) = (matrix(0), shape.matrices[0].rows / 2);
                (Some(both.some_rows(0..width)), both.some_rows(width..2 * width))
            }
        };
        Mlp { gate, up, down: matrix(2), biases: None, activation: shape.activation }
    }
}

fn read_error(read: &Read, what: String, why: String) -> StoreError {
    StoreError::Read { path: read.file.path().to_owned(), what, offset: read.offset, bytes: read.bytes, why }
}

impl Drop for ExpertStream {
    fn drop(&mut self) {
        self.abandon();
        let regions = self.residency.regions().chain(self.trunk.regions());
        regions.for_each(|region| self.reader.unregister(region));
    }
}
