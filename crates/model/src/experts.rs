//! Routed experts on their way from the drive to the operations that use them.
//!
//! A layer asks for its experts in waves. [`ExpertStream::request`] pins those that are resident and sends out the
//! reads of all the others together; [`ExpertStream::next_ready`] hands out experts as they become usable, resident
//! ones first, while the rest are in flight. The order in which they come never shows in a result: outputs are
//! combined in the order of expert numbers (`blocks::moe`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_kernels::{Buffer, Mlp, Tensor};
use outpour_store::checkpoint::Checkpoint;
use outpour_store::layout::{ExpertId, ExpertLayout, PARTS_MAX, Placement};
use outpour_store::probe::{self, Flow, ReadSpeed};
use outpour_store::read::{Completion, Read, Reader, Region};
use outpour_store::residency::{Place, Residency};
use outpour_store::slab::SlotId;
use outpour_store::{Result, StoreError};

use crate::weights::{BackendRegion, ExpertShape};

/// Is told of every choice of experts: one call a layer and batch.
pub trait RouteSink {
    /// `choice` and `weights` are `[tokens, top_k]`, in descending order of score.
    fn chosen(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]);
}

/// Wants to know nothing.
impl RouteSink for () {
    fn chosen(&mut self, _: usize, _: &[u32], _: &[i32], _: &[f32]) {}
}

/// What streaming has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// Experts found in memory.
    pub hits: u64,
    /// Experts read.
    pub misses: u64,
    /// Bytes of the experts used, as stored.
    pub needed_bytes: u64,
    /// Bytes read from the drive, rounding to its alignment included.
    pub read_bytes: u64,
    /// Time in which nothing could be computed because reads were awaited.
    pub blocked: Duration,
    /// Time in which reads were in flight.
    pub reading: Duration,
    /// Time of computing experts, the shared one included: from the first request of a layer to its end, less `blocked`.
    pub computing: Duration,
}

impl StreamStats {
    /// What was done since `earlier`.
    pub fn since(&self, earlier: &StreamStats) -> StreamStats {
        StreamStats {
            hits: self.hits - earlier.hits,
            misses: self.misses - earlier.misses,
            needed_bytes: self.needed_bytes - earlier.needed_bytes,
            read_bytes: self.read_bytes - earlier.read_bytes,
            blocked: self.blocked - earlier.blocked,
            reading: self.reading - earlier.reading,
            computing: self.computing - earlier.computing,
        }
    }
}

/// The routed experts of a model.
pub struct ExpertStream {
    checkpoint: Arc<Checkpoint>,
    layout: Arc<ExpertLayout>,
    shapes: Vec<Option<ExpertShape>>,
    residency: Residency,
    reader: Box<dyn Reader>,
    wants: Vec<Want>,
    reads: Vec<Read>,
    done: Vec<Completion>,
    stats: StreamStats,
    /// When the first of the reads now in flight was sent out.
    reading_since: Option<Instant>,
    /// When the present layer's first experts were asked for, and the time blocked before.
    layer_since: Option<(Instant, Duration)>,
}

/// An expert that was asked for and not yet released.
struct Want {
    id: ExpertId,
    slot: SlotId,
    placement: Placement,
    /// Reads still to come.
    reads_left: usize,
    /// Where it is in its life.
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Reading,
    Ready,
    InUse,
    Released,
}

impl ExpertStream {
    /// A stream over the experts that `layout` describes.
    pub fn new(
        checkpoint: Arc<Checkpoint>,
        layout: Arc<ExpertLayout>,
        shapes: Vec<Option<ExpertShape>>,
        residency: Residency,
        mut reader: Box<dyn Reader>,
    ) -> Self {
        residency.regions().for_each(|region| reader.register(region));
        // A layer's experts may all be wanted at once.
        let wants_max = (0..layout.layers()).map(|layer| layout.experts(layer)).max().unwrap_or(0);
        ExpertStream {
            checkpoint,
            layout,
            shapes,
            residency,
            reader,
            wants: Vec::with_capacity(wants_max),
            reads: Vec::with_capacity(wants_max * PARTS_MAX),
            done: Vec::with_capacity(wants_max * PARTS_MAX),
            stats: StreamStats::default(),
            reading_since: None,
            layer_since: None,
        }
    }

    /// What streaming has cost so far.
    pub fn stats(&self) -> StreamStats {
        self.stats
    }

    /// The policy and its memory.
    pub fn residency(&mut self) -> &mut Residency {
        &mut self.residency
    }

    /// The reader, for people.
    pub fn describe_reader(&self) -> String {
        self.reader.describe()
    }

    /// Experts of a layer that could be asked for now.
    pub fn available(&self, layer: usize) -> usize {
        self.residency.available(layer)
    }

    /// Asks for experts of a layer. All that are not resident go out as one batch of reads, and this returns at once.
    /// At most [`Self::available`] experts may be asked for.
    ///
    /// # Errors
    /// When the reads cannot be sent out.
    pub fn request(&mut self, layer: usize, experts: &[u32]) -> Result<()> {
        self.layer_since.get_or_insert((Instant::now(), self.stats.blocked));
        self.wants.retain(|want| want.stage != Stage::Released);
        self.reads.clear();
        // Resident ones are pinned first, so that none of them makes room for a missing one.
        for &expert in experts {
            let id = ExpertId { layer: layer as u32, expert };
            if let Place::Host(slot) | Place::Device(slot) = self.residency.locate(id) {
                self.residency.pin(slot);
                self.want(id, slot, Stage::Ready);
                self.stats.hits += 1;
            }
        }
        for &expert in experts {
            let id = ExpertId { layer: layer as u32, expert };
            if self.residency.locate(id) == Place::Drive {
                self.fill(id);
            }
        }
        if self.reads.is_empty() {
            return Ok(());
        }
        self.reading_since.get_or_insert_with(Instant::now);
        let sent = self.reader.submit(&self.reads);
        sent.map_err(|why| read_error(&self.reads[0], "experts".into(), why.to_string()))
    }

    fn want(&mut self, id: ExpertId, slot: SlotId, stage: Stage) -> &Want {
        let placement = self.layout.place(id, self.checkpoint.files());
        self.stats.needed_bytes += self.layout.expert_bytes(id);
        let reads_left = if stage == Stage::Reading { placement.runs().len() } else { 0 };
        self.wants.push(Want { id, slot, placement, reads_left, stage });
        self.wants.last().expect("invariant: just pushed")
    }

    /// Begins the fill of a missing expert and notes its reads.
    fn fill(&mut self, id: ExpertId) {
        let Some(slot) = self.residency.begin_fill(id) else {
            unreachable!("invariant: callers ask for no more experts than available() says");
        };
        self.stats.misses += 1;
        let placement = self.want(id, slot, Stage::Reading).placement;
        let (region, at) = self.residency.location(slot);
        for (i, run) in placement.runs().iter().enumerate() {
            self.reads.push(Read {
                tag: (self.layout.index(id) * PARTS_MAX + i) as u64,
                file: self.checkpoint.files()[run.file].clone(),
                offset: run.offset,
                bytes: run.bytes,
                needed: run.needed,
                region: region.clone(),
                at: at + run.at,
            });
        }
    }

    /// The next of `experts` (those of an earlier [`Self::request`]) that can be used, waiting for the drive if none
    /// can; `None` when all were handed out. Comes with its place in `experts`. The caller hands it to
    /// [`Self::release`] when its work is enqueued.
    ///
    /// # Errors
    /// When a read failed for good; every read is then finished and every expert released.
    pub fn next_ready(&mut self, layer: usize, experts: &[u32]) -> Result<Option<(usize, Mlp)>> {
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
            if !waiting {
                return Ok(None);
            }
            let blocked = Instant::now();
            self.collect(true)?;
            self.stats.blocked += blocked.elapsed();
        }
    }

    /// Gives an expert back that [`Self::next_ready`] handed out: it stays resident until its room is needed.
    pub fn release(&mut self, expert: u32) {
        let found = self.wants.iter_mut().find(|want| want.id.expert == expert && want.stage == Stage::InUse);
        if let Some(want) = found {
            want.stage = Stage::Released;
            self.residency.unpin(want.slot);
        }
    }

    /// Ends a layer: all of its experts are computed.
    pub fn end_layer(&mut self) {
        if let Some((since, blocked_before)) = self.layer_since.take() {
            self.stats.computing += since.elapsed().saturating_sub(self.stats.blocked - blocked_before);
        }
    }

    /// How fast the drive gives experts, into `memory`: see [`probe::expert_reads`].
    ///
    /// # Errors
    /// When a read failed.
    pub fn probe(&mut self, memory: &[Arc<Region>], flow: Flow, budget: Duration, seed: u64) -> Result<ReadSpeed> {
        probe::expert_reads(&self.checkpoint, &self.layout, &mut *self.reader, memory, flow, budget, seed)
    }

    /// Takes in what the reader has finished.
    fn collect(&mut self, wait: bool) -> Result<()> {
        if self.reader.in_flight() == 0 {
            return Ok(());
        }
        let collected = self.reader.collect(wait, &mut self.done);
        let mut failure = collected.err().map(|why| StoreError::Other(format!("the reader failed: {why}")));
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
        let reading = |want: &&mut Want| want.stage == Stage::Reading;
        let (layout, tag) = (&self.layout, completion.tag as usize);
        let want = self.wants.iter_mut().filter(reading).find(|want| layout.index(want.id) == tag / PARTS_MAX);
        let Some(want) = want else { return Ok(()) };
        match completion.result {
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
                let run = want.placement.runs()[tag % PARTS_MAX];
                let file = &self.checkpoint.files()[run.file];
                // That the file was cut short says more than that a read of it came back short.
                file.check_unchanged()?;
                Err(StoreError::Read {
                    path: file.path().to_owned(),
                    what: format!("expert {} of layer {}", want.id.expert, want.id.layer),
                    offset: run.offset,
                    bytes: run.bytes,
                    why: why.to_string(),
                })
            }
        }
    }

    /// Ends every read in flight and releases every expert, after a failure.
    pub fn abandon(&mut self) {
        while self.reader.in_flight() > 0 {
            if self.reader.collect(true, &mut self.done).is_err() {
                break;
            }
        }
        self.done.clear();
        self.stop_clock();
        self.end_layer();
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
        Mlp { gate: matrix(0), up: matrix(1), down: matrix(2), activation: shape.activation }
    }
}

fn read_error(read: &Read, what: String, why: String) -> StoreError {
    StoreError::Read { path: read.file.path().to_owned(), what, offset: read.offset, bytes: read.bytes, why }
}

impl Drop for ExpertStream {
    fn drop(&mut self) {
        self.abandon();
        self.residency.regions().for_each(|region| self.reader.unregister(region));
    }
}
