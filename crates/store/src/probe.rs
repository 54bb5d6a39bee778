//! Measures how fast a drive gives experts, by reading them as the engine does: scattered, so many in flight, through the
//! same reader.

mod scratch;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::checkpoint::{Checkpoint, SourceFile};
use crate::layout::{ExpertId, ExpertLayout, PARTS_MAX};
use crate::machine::Machine;
use crate::read::{Completion, Read, Reader, Region};
use crate::{Result, StoreError};
pub use scratch::{Scratch, free_bytes, records};

/// Of what was read, the share that the kernel's counter must have seen come from a drive. Less is the page cache's.
const DRIVE_SHARE_MIN: f64 = 0.9;

/// What reading experts gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadSpeed {
    /// Bytes brought, rounding to alignment included.
    pub bytes: u64,
    /// Bytes of the experts among them, as stored.
    pub needed_bytes: u64,
    /// Experts read.
    pub records: u64,
    /// With reads in flight.
    pub seconds: f64,
    /// Of processors' time, the kernel's for this process included.
    pub cpu_seconds: f64,
    /// What the kernel counted as fetched from drives for this process meanwhile. `None` where it does not tell.
    pub drive_bytes: Option<u64>,
}

impl ReadSpeed {
    /// Bytes brought in a second.
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }

    /// Processors' time for each byte.
    pub fn cpu_seconds_per_byte(&self) -> f64 {
        self.cpu_seconds / (self.bytes as f64).max(1.0)
    }

    /// Whether the bytes came from the drive: `false` where the kernel fetched much less from drives than was read, so
    /// that the figure is the page cache's. Believed where the kernel does not tell.
    pub fn is_of_the_drive(&self) -> bool {
        self.drive_bytes.is_none_or(|drive| drive as f64 >= DRIVE_SHARE_MIN * self.bytes as f64)
    }
}

/// In which order experts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they lie in the layout.
    Sequential,
    /// Shuffled, from this seed.
    Random(u64),
}

/// When experts are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The next one as soon as one has arrived, so many always in flight: a prompt.
    Steady(usize),
    /// So many together, then a pause as long as they took, which is not counted: the layers of one token. A drive that is
    /// held to a mean speed, as in clouds, gives bursts faster than a steady flow.
    Bursts(usize),
}

impl Flow {
    /// Experts in flight at most.
    pub fn depth(self) -> usize {
        match self {
            Flow::Steady(depth) | Flow::Bursts(depth) => depth,
        }
    }
}

/// Reads random experts of a layout as the engine would, for about `budget`, into `memory` (any regions), through `reader`.
/// No expert is read twice until all were read.
///
/// # Errors
/// When a read fails, or `memory` does not hold as many experts as are in flight.
pub fn expert_reads(
    checkpoint: &Checkpoint,
    layout: &ExpertLayout,
    reader: &mut dyn Reader,
    memory: &[Arc<Region>],
    flow: Flow,
    budget: Duration,
    seed: u64,
) -> Result<ReadSpeed> {
    record_reads(checkpoint.files(), layout, reader, memory, (flow, Order::Random(seed)), budget)
}

/// [`expert_reads`] of any files and in any order. The caller registers `memory` with the reader where that is wanted.
///
/// # Errors
/// As [`expert_reads`].
pub fn record_reads(
    files: &[Arc<SourceFile>],
    layout: &ExpertLayout,
    reader: &mut dyn Reader,
    memory: &[Arc<Region>],
    (flow, order): (Flow, Order),
    budget: Duration,
) -> Result<ReadSpeed> {
    let depth = flow.depth();
    let slot_bytes = layout.classes().last().copied().unwrap_or(0);
    let slots = slots(memory, slot_bytes);
    if layout.experts_total() == 0 {
        return Err(StoreError::Other("there are no experts to read: give a Mixture-of-Experts model".into()));
    }
    if depth == 0 || slots.len() < depth {
        let problem =
            format!("the memory to read into holds {} experts of {slot_bytes} bytes, not {depth}", slots.len());
        return Err(StoreError::Other(problem));
    }
    let probe = Probe {
        files,
        layout,
        ids: ids(layout),
        flow,
        order,
        next: 0,
        rounds: 0,
        free: slots.into_iter().take(depth).collect(),
        flying: Vec::new(),
        speed: ReadSpeed::default(),
    };
    let mut done = Vec::new();
    let result = probe.run(reader, budget, &mut done);
    // The memory is the caller's again: nothing may land in it any more.
    while result.is_err() && reader.in_flight() > 0 {
        if reader.collect(true, &mut done).is_err() {
            break;
        }
    }
    result
}

/// Room for one expert.
type Slot = (Arc<Region>, usize);

/// Cuts memory into slots of this size.
fn slots(memory: &[Arc<Region>], slot_bytes: usize) -> Vec<Slot> {
    let in_region = |region: &Arc<Region>| region.bytes().checked_div(slot_bytes).unwrap_or(0);
    memory.iter().flat_map(|region| (0..in_region(region)).map(|i| (region.clone(), i * slot_bytes))).collect()
}

fn ids(layout: &ExpertLayout) -> Vec<ExpertId> {
    let layers = (0..layout.layers()).flat_map(|layer| (0..layout.experts(layer)).map(move |expert| (layer, expert)));
    layers.map(|(layer, expert)| ExpertId { layer: layer as u32, expert: expert as u32 }).collect()
}

/// An expert on its way.
struct Flying {
    id: ExpertId,
    slot: Slot,
    reads_left: usize,
}

/// A measurement under way.
struct Probe<'a> {
    files: &'a [Arc<SourceFile>],
    layout: &'a ExpertLayout,
    ids: Vec<ExpertId>,
    flow: Flow,
    order: Order,
    /// The next of `ids`.
    next: usize,
    /// How often all were read.
    rounds: u64,
    free: Vec<Slot>,
    /// Indexed by the tags of reads; a place is used again when its expert has arrived.
    flying: Vec<Option<Flying>>,
    speed: ReadSpeed,
}

impl Probe<'_> {
    fn run(mut self, reader: &mut dyn Reader, budget: Duration, done: &mut Vec<Completion>) -> Result<ReadSpeed> {
        let machine = Machine::here();
        self.shuffle();
        let counted = machine.drive_read_bytes();
        let cpu_began = cpu_seconds();
        let began = Instant::now();
        let mut idle_until = began;
        loop {
            let idle = reader.in_flight() == 0;
            if idle {
                idle_until = Instant::now();
            }
            // One expert is read at least, however short the budget.
            let more = began.elapsed() < budget || self.speed.records == 0 && reader.in_flight() == 0;
            let next = idle || matches!(self.flow, Flow::Steady(_));
            while more
                && next
                && let Some(slot) = self.free.pop()
            {
                self.send(reader, slot)?;
            }
            if reader.in_flight() == 0 {
                break;
            }
            let collected = reader.collect(true, done);
            collected.map_err(|why| StoreError::Other(format!("the reader failed: {why}")))?;
            for completion in done.drain(..) {
                self.take(completion)?;
            }
            if reader.in_flight() == 0 {
                let took = idle_until.elapsed();
                self.speed.seconds += took.as_secs_f64();
                if let Flow::Bursts(_) = self.flow {
                    std::thread::sleep(took);
                }
            }
        }
        self.speed.cpu_seconds = cpu_seconds() - cpu_began;
        let counted = machine.drive_read_bytes().zip(counted);
        self.speed.drive_bytes = counted.map(|(after, before)| after.saturating_sub(before));
        Ok(self.speed)
    }

    fn shuffle(&mut self) {
        let Order::Random(seed) = self.order else { return };
        let mut state = seed.wrapping_add(self.rounds.wrapping_mul(0xA076_1D64_78BD_642F));
        for last in (1..self.ids.len()).rev() {
            // The modulo's bias is one in 2^32 and more: no matter here.
            self.ids.swap(last, (splitmix(&mut state) % (last as u64 + 1)) as usize);
        }
    }

    /// Sends out the reads of the next expert.
    fn send(&mut self, reader: &mut dyn Reader, (region, at): Slot) -> Result<()> {
        if self.next == self.ids.len() {
            (self.next, self.rounds) = (0, self.rounds + 1);
            self.shuffle();
        }
        let id = self.ids[self.next];
        self.next += 1;
        let place = self.flying.iter().position(Option::is_none).unwrap_or_else(|| {
            self.flying.push(None);
            self.flying.len() - 1
        });
        let placement = self.layout.place(id, self.files);
        let reads: Vec<Read> = placement
            .runs()
            .iter()
            .enumerate()
            .map(|(i, run)| Read {
                tag: (place * PARTS_MAX + i) as u64,
                file: self.files[run.file].clone(),
                offset: run.offset,
                bytes: run.bytes,
                needed: run.needed,
                region: region.clone(),
                at: at + run.at,
            })
            .collect();
        reader.submit(&reads).map_err(|why| self.failed(id, 0, &why))?;
        self.flying[place] = Some(Flying { id, slot: (region, at), reads_left: reads.len() });
        Ok(())
    }

    fn take(&mut self, completion: Completion) -> Result<()> {
        let tag = completion.tag as usize;
        let Some(flying) = self.flying.get_mut(tag / PARTS_MAX).and_then(Option::as_mut) else { return Ok(()) };
        let id = flying.id;
        flying.reads_left -= 1;
        let over = flying.reads_left == 0;
        self.speed.bytes += completion.result.map_err(|why| self.failed(id, tag % PARTS_MAX, &why))? as u64;
        if over && let Some(flying) = self.flying[tag / PARTS_MAX].take() {
            self.free.push(flying.slot);
            self.speed.records += 1;
            self.speed.needed_bytes += self.layout.expert_bytes(id);
        }
        Ok(())
    }

    fn failed(&self, id: ExpertId, run: usize, why: &std::io::Error) -> StoreError {
        let run = self.layout.place(id, self.files).runs()[run];
        StoreError::Read {
            path: self.files[run.file].path().to_owned(),
            what: format!("expert {} of layer {}", id.expert, id.layer),
            offset: run.offset,
            bytes: run.bytes,
            why: why.to_string(),
        }
    }
}

/// Processors' time that this process has taken.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + 1e-9 * time.tv_nsec as f64
}

/// The next number of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
