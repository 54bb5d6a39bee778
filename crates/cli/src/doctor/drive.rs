//! Reads the drive as the engine does, and as it does not, to compare.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outpour_engine::profile::{DepthSpeed, DriveSpeed, Effort};
use outpour_engine::{EngineError, Inspection, PROBE_EXPERTS};
use outpour_kernels::reference::Reference;
use outpour_model::weights::allocate_region;
use outpour_store::StoreError;
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::SourceFile;
use outpour_store::layout::{ExpertId, ExpertLayout};
use outpour_store::machine::{self, Machine};
use outpour_store::probe::{self, Flow, Order, ReadSpeed, Scratch};
use outpour_store::read::{self, Reader, ReaderKind, Region};
use outpour_store::slab::PIECE_BYTES_MAX;
use serde::Serialize;

use super::check_interrupt;
use crate::term::Steps;

/// Experts in flight.
const DEPTHS: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// A prompt's experts are read so long, twice, of which the second counts: what a rested drive gives at first is over then.
const SUSTAINED_TIME: Duration = Duration::from_millis(1000);
/// Experts read together, beside as many as a token takes.
const BURSTS: [usize; 4] = [1, 2, 4, 8];
/// What is compared with it, at fewer depths.
const DEPTHS_COMPARED: [usize; 3] = [1, 8, 32];
/// Experts in flight where no model says how many a token takes: most take 8.
const DEPTH_OF_ENGINE: usize = 8;
/// Bytes of an expert where no model gives them: of small ones in 4 bits, of large ones in 4 bits, of small ones in bf16.
const RECORD_BYTES: [u32; 3] = [1_000_000, 2_500_000, 7_000_000];
/// The one that readers are compared with.
const RECORD_COMPARED: usize = 1;
/// Blocks of the sequential figure, and how many fly.
const BLOCK_BYTES: u32 = 1 << 20;
const BLOCKS_IN_FLIGHT: usize = 32;
/// Every figure is the median of as many, taken in turn: a drive has moods.
const ROUNDS: usize = 3;
/// The temporary file is as large, and leaves three times as much free.
const SCRATCH_BYTES: u64 = 1 << 30;
const SCRATCH_BYTES_QUICK: u64 = 48 << 20;
const FREE_SHARE: u64 = 4;

/// What was found of a drive.
#[derive(Serialize, Default)]
pub struct Drives {
    /// `nvme0n1`.
    pub name: Option<String>,
    pub model: Option<String>,
    pub rotational: Option<bool>,
    pub read_ahead_kib: Option<u64>,
    pub file_system: Option<String>,
    pub folder: PathBuf,
    /// Whether a model's own experts were read.
    pub of_model: bool,
    /// Of the temporary file, where there was one.
    pub scratch_bytes: Option<u64>,
    /// Whether the file system allows reads past the page cache; null where that was not tried.
    pub direct: Option<bool>,
    /// The memory's registration with io_uring: null where there is no io_uring.
    pub registered: Option<bool>,
    /// The default reader, in its own words.
    pub reader: String,
    /// Readers, sizes and depths.
    pub curves: Vec<Curve>,
    /// In order, in aligned blocks of 1 MiB, 32 in flight.
    pub sequential: Option<Sample>,
    /// As the engine reads.
    pub engine: Option<Engine>,
    /// The most that any direct measurement gave.
    pub limit_bytes_per_second: Option<f64>,
    #[serde(skip)]
    pub unmeasured: Vec<String>,
}

/// Speed by depth.
#[derive(Serialize, Clone)]
pub struct Curve {
    /// `uring` or `pread`.
    pub reader: &'static str,
    pub direct: bool,
    /// Bytes of an expert, rounding to alignment included.
    pub record_bytes: u64,
    /// Reads of an expert.
    pub extents: usize,
    /// Always so many in flight.
    pub samples: Vec<Sample>,
    /// So many together, with the drive idle before and after; of the default reader only.
    pub bursts: Vec<Sample>,
    /// As a prompt reads for long; of the default reader only.
    pub sustained: Option<Sample>,
}

/// Speed at one depth.
#[derive(Serialize, Clone, Copy)]
pub struct Sample {
    /// Experts in flight.
    pub depth: usize,
    pub bytes_per_second: f64,
    /// Processors' time for each byte.
    pub cpu_seconds_per_byte: f64,
    /// The lowest and the highest round.
    pub range: [f64; 2],
    pub bytes: u64,
    /// What the kernel counted as fetched from drives meanwhile.
    pub drive_bytes: Option<u64>,
    /// Whether it is the drive's figure, and not the page cache's.
    pub of_drive: bool,
}

/// As the engine reads: the default reader, a token's experts of one layer at a time.
#[derive(Serialize, Clone, Copy)]
pub struct Engine {
    pub depth: usize,
    pub bytes_per_second: f64,
    pub share_of_limit: f64,
}

/// What is read.
pub enum Target<'a> {
    Model(&'a Inspection),
    Scratch { folder: PathBuf, bytes: u64 },
}

/// Files and the experts in them.
struct Set {
    files: Vec<Arc<SourceFile>>,
    buffered: Vec<Arc<SourceFile>>,
    layout: ExpertLayout,
}

impl<'a> Target<'a> {
    /// The model's experts, or a temporary file in the cache folder.
    pub fn of(model: Option<&'a Inspection>, effort: Effort) -> Target<'a> {
        match model {
            Some(inspection) => Target::Model(inspection),
            None => {
                let bytes = if effort == Effort::Full { SCRATCH_BYTES } else { SCRATCH_BYTES_QUICK };
                Target::Scratch { folder: machine::cache_dir(), bytes }
            }
        }
    }

    /// Facts of the drive.
    pub fn describe(&self) -> Drives {
        let folder = match self {
            Target::Model(inspection) => inspection.checkpoint().dir().to_owned(),
            Target::Scratch { folder, .. } => folder.clone(),
        };
        // A folder that is not there yet will be made on the drive of the one above it.
        let there = folder.ancestors().find(|above| above.is_dir()).map_or(PathBuf::from("."), PathBuf::from);
        let folder = std::fs::canonicalize(&folder).unwrap_or(folder);
        let machine = Machine::here();
        let (drive, file_system) = (machine.drive(&there), machine.file_system(&there));
        let of_model = matches!(self, Target::Model(_));
        let mut found = Drives { folder, file_system, of_model, ..Drives::default() };
        if let Some(drive) = drive {
            found.name = Some(drive.name);
            (found.model, found.rotational, found.read_ahead_kib) =
                (drive.model, drive.rotational, drive.read_ahead_kib);
        }
        found
    }

    /// Measures, into `found`.
    ///
    /// # Errors
    /// When there is no room for a file, no memory, or a read fails; [`EngineError::Cancelled`] after Ctrl-C.
    pub fn measure(
        &self,
        effort: Effort,
        memory_bytes: Option<usize>,
        steps: &Steps,
        found: &mut Drives,
    ) -> Result<(), EngineError> {
        let (sets, depth_of_engine) = match self {
            Target::Model(inspection) => (vec![model_set(inspection)?], inspection.facts().top_k),
            Target::Scratch { folder, bytes } => {
                found.scratch_bytes = Some(*bytes);
                (scratch_sets(folder, *bytes, steps)?, DEPTH_OF_ENGINE)
            }
        };
        let slot_bytes = sets.iter().filter_map(|set| set.layout.classes().last()).max().copied().unwrap_or(1);
        let memory = memory(slot_bytes, memory_bytes)?;
        let budget = Duration::from_millis(if effort == Effort::Full { 120 } else { 5 });
        let mut bench = Bench { memory, budget, steps, found, depth_of_engine };
        bench.found.direct = Some(sets.iter().flat_map(|set| &set.files).all(|file| file.is_direct()));
        bench.default_reader(&sets)?;
        bench.compared(&sets[RECORD_COMPARED.min(sets.len() - 1)])?;
        bench.sequential(&sets[0])?;
        bench.conclude();
        Ok(())
    }
}

fn model_set(inspection: &Inspection) -> Result<Set, EngineError> {
    let checkpoint = inspection.checkpoint();
    let buffered =
        checkpoint.files().iter().map(|file| SourceFile::open_buffered(file.path())).collect::<Result<_, _>>();
    Ok(Set { files: checkpoint.files().to_vec(), buffered: buffered?, layout: inspection.layout.as_ref().clone() })
}

fn scratch_sets(folder: &std::path::Path, bytes: u64, steps: &Steps) -> Result<Vec<Set>, EngineError> {
    let free = probe::free_bytes(folder).unwrap_or(u64::MAX);
    if free / FREE_SHARE < bytes {
        return Err(EngineError::Store(StoreError::Other(format!(
            "{}: {} are free, too little for a temporary file of {}; make room, or name a model",
            folder.display(),
            Bytes(free),
            Bytes(bytes)
        ))));
    }
    let scratch = Scratch::make(folder, bytes, &mut |written| {
        steps.next(&format!("a temporary file of {}: {}", Bytes(bytes), Bytes(written)))
    })?;
    let Some(scratch) = scratch else { return Err(EngineError::Cancelled) };
    let set = |record_bytes| Set {
        files: vec![scratch.file.clone()],
        buffered: vec![scratch.buffered.clone()],
        layout: scratch.records(record_bytes),
    };
    Ok(RECORD_BYTES.map(set).into())
}

/// Memory as the slab has it, for as many experts as ever fly.
fn memory(slot_bytes: usize, memory_bytes: Option<usize>) -> Result<Vec<Arc<Region>>, EngineError> {
    let deepest = DEPTHS[DEPTHS.len() - 1];
    let slots = memory_bytes.map_or(deepest, |bytes| (bytes / slot_bytes).clamp(1, deepest));
    let per_piece = (PIECE_BYTES_MAX / slot_bytes).clamp(1, slots);
    let pieces = slots.div_ceil(per_piece);
    let region = |_| Ok(allocate_region(&Reference, per_piece * slot_bytes)?);
    (0..pieces).map(region).collect()
}

/// Measurements under way.
struct Bench<'a> {
    memory: Vec<Arc<Region>>,
    budget: Duration,
    steps: &'a Steps,
    found: &'a mut Drives,
    depth_of_engine: usize,
}

impl Bench<'_> {
    fn open(&self, kind: ReaderKind) -> Result<Box<dyn Reader>, EngineError> {
        let mut reader =
            read::open(kind).map_err(|why| StoreError::Other(format!("no reader can be started: {why}")))?;
        self.memory.iter().for_each(|region| reader.register(region));
        Ok(reader)
    }

    /// All sizes and depths with the reader that the engine uses.
    fn default_reader(&mut self, sets: &[Set]) -> Result<(), EngineError> {
        let mut reader = self.open(ReaderKind::Auto)?;
        let mut depths = DEPTHS.to_vec();
        if !depths.contains(&self.depth_of_engine) {
            depths.push(self.depth_of_engine);
            depths.sort_unstable();
        }
        for set in sets {
            let mut curve = self.curve(&mut *reader, set, &set.files, &depths)?;
            let mut together: Vec<usize> = BURSTS.iter().copied().filter(|&n| n < self.depth_of_engine).collect();
            together.push(self.depth_of_engine);
            curve.bursts = self.fitting(&mut *reader, set, &set.files, &together, Flow::Bursts)?;
            curve.sustained = self.sustained(&mut *reader, set)?;
            self.found.curves.push(curve);
        }
        self.found.reader = reader.describe();
        let uring = self.found.reader.starts_with("uring");
        self.found.registered = uring.then(|| self.found.reader.contains("registered"));
        self.close(reader);
        Ok(())
    }

    /// The other reader, and the same one through the page cache.
    fn compared(&mut self, set: &Set) -> Result<(), EngineError> {
        let mut reader = self.open(ReaderKind::Auto)?;
        if set.files.iter().all(|file| file.is_direct()) {
            let curve = self.curve(&mut *reader, set, &set.buffered, &DEPTHS_COMPARED)?;
            self.found.curves.push(curve);
        }
        self.close(reader);
        if self.found.registered.is_some() {
            let mut reader = self.open(ReaderKind::Pread)?;
            let curve = self.curve(&mut *reader, set, &set.files, &DEPTHS_COMPARED)?;
            self.found.curves.push(curve);
            self.close(reader);
        }
        Ok(())
    }

    /// As `fio` gives it, from the largest file.
    fn sequential(&mut self, set: &Set) -> Result<(), EngineError> {
        let Some(largest) = set.files.iter().max_by_key(|file| file.bytes()) else { return Ok(()) };
        let blocks = probe::records(largest, BLOCK_BYTES);
        let room = self.memory.iter().map(|region| region.bytes() / BLOCK_BYTES as usize).sum::<usize>();
        let depth = BLOCKS_IN_FLIGHT.min(room).min(blocks.experts_total());
        if depth == 0 || !largest.is_direct() {
            return Ok(());
        }
        let mut reader = self.open(ReaderKind::Auto)?;
        let files = std::slice::from_ref(largest);
        let rounds = self.rounds(&mut *reader, &blocks, files, &[Flow::Steady(depth)], |_| Order::Sequential)?;
        self.found.sequential = rounds.into_iter().next();
        self.close(reader);
        Ok(())
    }

    fn close(&self, mut reader: Box<dyn Reader>) {
        self.memory.iter().for_each(|region| reader.unregister(region));
    }

    fn curve(
        &self,
        reader: &mut dyn Reader,
        set: &Set,
        files: &[Arc<SourceFile>],
        depths: &[usize],
    ) -> Result<Curve, EngineError> {
        let samples = self.fitting(reader, set, files, depths, Flow::Steady)?;
        let largest = first_of_class(&set.layout, set.layout.classes().len().saturating_sub(1));
        let placement = set.layout.place(largest, files);
        Ok(Curve {
            reader: if reader.describe().starts_with("uring") { "uring" } else { "pread" },
            direct: files.iter().all(|file| file.is_direct()),
            record_bytes: placement.runs().iter().map(|run| run.bytes as u64).sum(),
            extents: placement.runs().len(),
            samples,
            bursts: Vec::new(),
            sustained: None,
        })
    }

    /// At the depth of a prompt, for long.
    fn sustained(&self, reader: &mut dyn Reader, set: &Set) -> Result<Option<Sample>, EngineError> {
        let budget = SUSTAINED_TIME.min(10 * self.budget);
        let depth = PROBE_EXPERTS.min(self.room(set));
        let mut last = None;
        for round in 0..2 {
            check_interrupt()?;
            let pattern = (Flow::Steady(depth), Order::Random(round));
            last = Some(probe::record_reads(&set.files, &set.layout, reader, &self.memory, pattern, budget)?);
        }
        Ok(last.and_then(|last| Sample::of(depth, vec![last])))
    }

    /// Experts that the memory holds.
    fn room(&self, set: &Set) -> usize {
        let slot_bytes = set.layout.classes().last().copied().unwrap_or(1);
        self.memory.iter().map(|region| region.bytes() / slot_bytes).sum::<usize>().max(1)
    }

    /// Those numbers of experts for which there is memory.
    fn fitting(
        &self,
        reader: &mut dyn Reader,
        set: &Set,
        files: &[Arc<SourceFile>],
        counts: &[usize],
        flow: fn(usize) -> Flow,
    ) -> Result<Vec<Sample>, EngineError> {
        let room = self.room(set);
        let flows: Vec<Flow> = counts.iter().filter(|&&count| count <= room).map(|&count| flow(count)).collect();
        self.rounds(reader, &set.layout, files, &flows, |round| Order::Random(round as u64))
    }

    /// Medians over rounds of all flows.
    fn rounds(
        &self,
        reader: &mut dyn Reader,
        layout: &ExpertLayout,
        files: &[Arc<SourceFile>],
        flows: &[Flow],
        order: impl Fn(usize) -> Order,
    ) -> Result<Vec<Sample>, EngineError> {
        let mut speeds: Vec<Vec<ReadSpeed>> = vec![Vec::new(); flows.len()];
        for round in 0..ROUNDS {
            for (i, (&flow, speeds)) in flows.iter().zip(&mut speeds).enumerate() {
                if self.steps.next("the drive").is_break() {
                    return Err(EngineError::Cancelled);
                }
                let order = order(round * flows.len() + i);
                let speed = probe::record_reads(files, layout, reader, &self.memory, (flow, order), self.budget)?;
                speeds.push(speed);
            }
        }
        check_interrupt()?;
        Ok(flows.iter().zip(speeds).filter_map(|(flow, speeds)| Sample::of(flow.depth(), speeds)).collect())
    }

    fn conclude(&mut self) {
        let believed = |curve: &&Curve| curve.direct == self.found.direct.unwrap_or(false);
        let samples = self.found.curves.iter().filter(believed).flat_map(|curve| &curve.samples);
        let all = samples.chain(&self.found.sequential).filter(|sample| sample.of_drive);
        self.found.limit_bytes_per_second = all.map(|sample| sample.bytes_per_second).reduce(f64::max);
        // The curve of the default reader; of several sizes, the middle one.
        let default = self.found.curves.iter().filter(|curve| self.found.reader.starts_with(curve.reader));
        let default: Vec<&Curve> = default.filter(believed).collect();
        let curve = default.get(RECORD_COMPARED).or(default.first());
        let sample = curve.and_then(|curve| curve.bursts.iter().rfind(|sample| sample.of_drive));
        self.found.engine = sample.zip(self.found.limit_bytes_per_second).map(|(sample, limit)| Engine {
            depth: sample.depth,
            bytes_per_second: sample.bytes_per_second,
            share_of_limit: sample.bytes_per_second / limit,
        });
    }
}

/// The first expert of a size class.
fn first_of_class(layout: &ExpertLayout, class: usize) -> ExpertId {
    let of_class = |&layer: &usize| layout.experts(layer) > 0 && layout.class(layer) == class;
    let layer = (0..layout.layers()).find(of_class).unwrap_or(0);
    ExpertId { layer: layer as u32, expert: 0 }
}

impl Sample {
    /// The median round; not of the drive if one round is not.
    fn of(depth: usize, mut speeds: Vec<ReadSpeed>) -> Option<Sample> {
        speeds.sort_by(|a, b| a.bytes_per_second().total_cmp(&b.bytes_per_second()));
        let median = speeds.get(speeds.len() / 2)?;
        Some(Sample {
            depth,
            bytes_per_second: median.bytes_per_second(),
            cpu_seconds_per_byte: median.cpu_seconds_per_byte(),
            range: [speeds.first()?.bytes_per_second(), speeds.last()?.bytes_per_second()],
            bytes: speeds.iter().map(|speed| speed.bytes).sum(),
            drive_bytes: speeds.iter().map(|speed| speed.drive_bytes).sum(),
            of_drive: speeds.iter().all(ReadSpeed::is_of_the_drive),
        })
    }
}

impl Drives {
    /// Whether figures are not the drive's: `Some(true)` where even direct reads' are not.
    pub fn lies_of_the_cache(&self) -> Option<bool> {
        let of_curve = |curve: &Curve| {
            let all = curve.samples.iter().chain(&curve.bursts).chain(&curve.sustained);
            all.map(|sample| (curve.direct, *sample)).collect::<Vec<_>>()
        };
        let all = self.curves.iter().flat_map(of_curve).chain(self.sequential.map(|sample| (true, sample)));
        all.filter(|(_, sample)| !sample.of_drive).map(|(direct, _)| direct || self.direct == Some(false)).max()
    }

    /// What a profile keeps: figures of the drive only.
    pub fn storable(&self) -> Vec<DriveSpeed> {
        let sequential = self.sequential.filter(|sample| sample.of_drive).map(|sample| sample.bytes_per_second);
        let believed = |samples: &[Sample]| -> Vec<DepthSpeed> {
            let believed = samples.iter().filter(|sample| sample.of_drive);
            believed.map(|at| DepthSpeed { depth: at.depth, bytes_per_second: at.bytes_per_second }).collect()
        };
        let store = |curve: &Curve| {
            let depths = believed(&curve.samples);
            let limit = depths.iter().map(|at| at.bytes_per_second).reduce(f64::max)?;
            let sustained = curve.sustained.filter(|sample| sample.of_drive);
            Some(DriveSpeed {
                drive: self.name.clone().unwrap_or_default(),
                model: self.model.clone(),
                folder: self.folder.clone(),
                of_model: self.of_model,
                record_bytes: curve.record_bytes,
                extents: curve.extents,
                reader: curve.reader.to_owned(),
                direct: curve.direct,
                depths,
                bursts: believed(&curve.bursts),
                sustained_bytes_per_second: sustained.map_or(limit, |sample| sample.bytes_per_second),
                cpu_seconds_per_byte: sustained.map_or(0.0, |sample| sample.cpu_seconds_per_byte),
                limit_bytes_per_second: limit,
                sequential_bytes_per_second: sequential,
            })
        };
        self.curves.iter().filter_map(store).collect()
    }
}
