//! What this machine was measured to give: `doctor` stores it, `plan` predicts from it.

mod measure;

use std::io::Write;
use std::path::{Path, PathBuf};

use outpour_kernels::Format;
use outpour_kernels::cpu::{self, Isa};
use outpour_store::machine::{self, Machine};
use outpour_store::read::whole::read_whole;
use outpour_store::{Result, StoreError};
use serde::{Deserialize, Serialize};

pub use measure::{ComputeOptions, Effort};

/// The form of the file. One of another version is not read.
const VERSION: u32 = 1;

/// Largest file that is read: a thousand drives fit.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Drives that are kept when another is measured; the longest unmeasured go first.
const DRIVES_MAX: usize = 64;

/// Weights of each product that was measured.
const PRODUCT_WEIGHTS: f64 = (outpour_kernels::speed::PRODUCT_DIM * outpour_kernels::speed::PRODUCT_DIM) as f64;

/// What a machine gives.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct Profile {
    /// Of this form.
    pub version: u32,
    /// When it was measured, in seconds since 1970.
    pub measured_at: u64,
    /// Whether it was measured in a hurry: figures may be off by tens of percent.
    pub quick: bool,
    /// The processor's name.
    pub cpu: String,
    /// The instruction set that was used.
    pub isa: String,
    /// Threads that computed.
    pub threads: usize,
    /// Plain reading by all threads.
    pub memory_read_bytes_per_second: f64,
    /// What its instructions give at most. `None` where that is not known.
    pub peaks: Option<Peaks>,
    /// Matrix products, 2048 × 2048, by format, rows ascending.
    pub products: Vec<Product>,
    /// The same with `--precise`; may be empty.
    pub precise_products: Vec<Product>,
    /// Experts of 2048 × 768, by format, rows ascending.
    pub experts: Vec<Product>,
    /// What an operation costs that has hardly any work.
    pub small_op_seconds: f64,
    /// The gated delta rule, by rows ascending.
    pub delta: Vec<Delta>,
    /// Attention, by rows ascending.
    pub attention: Vec<Attention>,
    /// Drives, the latest measured first.
    pub drives: Vec<DriveSpeed>,
}

/// See [`outpour_kernels::speed::Peaks`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Peaks {
    /// Products of bytes.
    pub int8_ops_per_second: f64,
    /// Products of bf16.
    pub bf16_flops_per_second: f64,
    /// Multiply-adds of f32.
    pub f32_flops_per_second: f64,
}

/// See [`outpour_kernels::speed::ProductSpeed`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// How weights are stored: `f32`, `f16`, `bf16`, or `affine4g64` for 4 bits in groups of 64.
    #[serde(with = "format_name")]
    pub format: Format,
    /// Activation rows.
    pub rows: usize,
    /// Stored bytes of weights, scales included, in a second.
    pub weight_bytes_per_second: f64,
    /// Multiplications and additions in a second.
    pub ops_per_second: f64,
}

/// [`outpour_kernels::speed::delta`] at some rows.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Delta {
    /// Positions of a call.
    pub rows: usize,
    /// Bytes of state, one way, times positions, in a second.
    pub state_bytes_per_second: f64,
}

/// See [`outpour_kernels::speed::AttentionSpeed`].
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Queries of a call.
    pub rows: usize,
    /// Positions, theirs included.
    pub positions: usize,
    /// Keys and values, once for each call.
    pub kv_bytes_per_second: f64,
    /// `4 · head width · query heads · positions seen` by each row.
    pub flops_per_second: f64,
}

/// How fast a drive gives experts.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
pub struct DriveSpeed {
    /// `nvme0n1`; empty where the system does not tell.
    pub drive: String,
    /// The maker's words.
    pub model: Option<String>,
    /// The model's folder, or that of the temporary file.
    pub folder: PathBuf,
    /// Whether a model's own experts were read, and not a temporary file.
    pub of_model: bool,
    /// Bytes of an expert, rounding to alignment included.
    pub record_bytes: u64,
    /// Reads of an expert.
    pub extents: usize,
    /// `uring` or `pread`.
    pub reader: String,
    /// Whether reads bypassed the page cache.
    pub direct: bool,
    /// By experts in flight, ascending.
    pub depths: Vec<DepthSpeed>,
    /// The most that any depth gave.
    pub limit_bytes_per_second: f64,
    /// In order, in aligned blocks of 1 MiB, 32 in flight: the figure of `fio`.
    pub sequential_bytes_per_second: Option<f64>,
}

/// Reads with so many experts in flight.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct DepthSpeed {
    /// Experts in flight.
    pub depth: usize,
    /// Bytes brought in a second.
    pub bytes_per_second: f64,
}

impl DriveSpeed {
    /// With so many experts in flight: between the depths that were measured, in proportion to the depth's logarithm.
    pub fn bytes_per_second(&self, depth: usize) -> f64 {
        let points = self.depths.iter().map(|at| (at.depth as f64, at.bytes_per_second));
        interpolate(&points.collect::<Vec<_>>(), depth.max(1) as f64)
    }
}

impl Profile {
    /// Where it is stored.
    pub fn path() -> PathBuf {
        machine::cache_dir().join("machine.json")
    }

    /// The stored profile of this machine with the default number of threads; `None` where none is stored.
    ///
    /// # Errors
    /// One line, when the file is damaged or of another version, processor or number of threads: show it, and go on
    /// without.
    pub fn load() -> Result<Option<Profile>> {
        Profile::load_for(None)
    }

    /// [`Profile::load`] for so many threads.
    ///
    /// # Errors
    /// As [`Profile::load`].
    pub fn load_for(threads: Option<usize>) -> Result<Option<Profile>> {
        let path = Profile::path();
        let Some(profile) = Profile::read(&path)? else { return Ok(None) };
        let threads = threads.unwrap_or_else(cpu::default_threads);
        match profile.mismatch(&cpu_name(), isa_name(), threads) {
            None => Ok(Some(profile)),
            Some(why) => Err(StoreError::Malformed { path, problem: format!("{why}; run `outpour doctor` again") }),
        }
    }

    /// A profile from any file, of any machine; `None` where there is none.
    ///
    /// # Errors
    /// One line, when the file is damaged or of another version.
    pub fn read(path: &Path) -> Result<Option<Profile>> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if !path.exists() {
            return Ok(None);
        }
        let malformed = |problem: String| StoreError::Malformed { path: path.to_owned(), problem };
        let bytes = read_whole(path, FILE_BYTES_MAX)?;
        let damaged = |error: serde_json::Error| {
            malformed(format!("is damaged ({error}); delete it, and run `outpour doctor` again"))
        };
        let Version { version } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(malformed(format!("is of version {version}, not {VERSION}; run `outpour doctor` again")));
        }
        serde_json::from_slice(&bytes).map(Some).map_err(damaged)
    }

    /// Why these are not the figures of a machine, if so.
    fn mismatch(&self, cpu: &str, isa: &str, threads: usize) -> Option<String> {
        let Profile { cpu: known_cpu, isa: known_isa, threads: known_threads, .. } = self;
        if known_cpu != cpu || known_isa != isa {
            return Some(format!("was measured on another processor ({known_cpu}, {known_isa}; here {cpu}, {isa})"));
        }
        (*known_threads != threads).then(|| format!("was measured with {known_threads} threads, not {threads}"))
    }

    /// Stores it, whole or not at all, with the drives of an earlier one that it has no figures for.
    ///
    /// # Errors
    /// When the cache folder cannot be written to.
    pub fn save(&self) -> Result<()> {
        self.save_to(&Profile::path())
    }

    fn save_to(&self, path: &Path) -> Result<()> {
        let mut profile = self.clone();
        // What cannot be read is written over.
        let earlier = Profile::read(path).ok().flatten().filter(|earlier| earlier.cpu == self.cpu);
        let known = |drive: &DriveSpeed| self.drives.iter().any(|new| new.folder == drive.folder);
        profile.drives.extend(earlier.into_iter().flat_map(|earlier| earlier.drives).filter(|drive| !known(drive)));
        profile.drives.truncate(DRIVES_MAX);
        let io = |action| move |source| StoreError::Io { path: path.to_owned(), action, source };
        let text = serde_json::to_string_pretty(&profile).map_err(|error| io("write")(error.into()))?;
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(io("make the folder of"))?;
        let partial = path.with_extension(format!("json.{}", std::process::id()));
        let written = std::fs::File::create(&partial).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&partial, path)
        });
        written.map_err(|source| {
            // What cannot be removed was hardly written.
            let _ = std::fs::remove_file(&partial);
            io("write")(source)
        })
    }

    /// Seconds of a product of `rows` rows with weights `[m, k]`: between the rows that were measured in proportion to the
    /// logarithms, beyond them in proportion to the rows. Of a format that was not measured, the nearest one's.
    pub fn product_seconds(&self, format: Format, rows: usize, m: usize, k: usize) -> f64 {
        let calls = of_format(&self.products, format);
        product_seconds(&calls, PRODUCT_WEIGHTS, self.small_op_seconds, rows, (m * k) as f64)
    }

    /// Seconds of an expert `[hidden, width]` over `rows` rows.
    pub fn expert_seconds(&self, format: Format, rows: usize, hidden: usize, width: usize) -> f64 {
        let calls = of_format(&self.experts, format);
        let measured = (3 * measure::EXPERT_HIDDEN * measure::EXPERT_WIDTH) as f64;
        product_seconds(&calls, measured, self.small_op_seconds, rows, (3 * hidden * width) as f64)
    }

    /// The figures of `--precise`.
    pub fn precise(&self) -> Profile {
        let products = self.precise_products.clone();
        Profile { experts: products.clone(), products, ..self.clone() }
    }

    /// Seconds of the gated delta rule over `rows` positions of a state of so many bytes.
    pub fn delta_seconds(&self, rows: usize, state_bytes: usize) -> f64 {
        let points: Vec<(f64, f64)> = self.delta.iter().map(|at| (at.rows as f64, at.state_bytes_per_second)).collect();
        let speed = interpolate(&points, rows as f64);
        if speed > 0.0 { (rows * state_bytes) as f64 / speed } else { 0.0 }
    }

    /// Seconds of attention over `rows` positions at the beginning of a context, with `flops` operations for each
    /// position seen.
    pub fn attention_seconds(&self, rows: usize, flops: f64) -> f64 {
        let points: Vec<(f64, f64)> = self.attention.iter().map(|at| (at.rows as f64, at.flops_per_second)).collect();
        let speed = interpolate(&points, rows as f64);
        if speed > 0.0 { rows as f64 * (rows as f64 + 1.0) / 2.0 * flops / speed } else { 0.0 }
    }

    /// The figures for the drive that holds `path`: of the model there, else of the same drive with experts of middle
    /// size. Direct reads and the default reader go first.
    pub fn drive_for(&self, path: &Path) -> Option<&DriveSpeed> {
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let drive = Machine::here().drive(&path).map(|drive| drive.name);
        self.drive_named(&path, drive.as_deref())
    }

    fn drive_named(&self, path: &Path, drive: Option<&str>) -> Option<&DriveSpeed> {
        const RECORD_BYTES: f64 = 2.5e6;
        let same_drive = |speed: &&DriveSpeed| drive.is_some_and(|drive| drive == speed.drive);
        let rank = |speed: &&DriveSpeed| {
            let off = (speed.record_bytes as f64 / RECORD_BYTES).ln().abs();
            let own = speed.of_model && speed.folder == path;
            (!own, speed.of_model, !speed.direct, speed.reader != "uring", (1e3 * off) as u64)
        };
        let own = self.drives.iter().filter(|speed| speed.of_model && speed.folder == path);
        own.chain(self.drives.iter().filter(same_drive)).min_by_key(rank)
    }
}

/// Measured products of a format: rows and seconds of one.
fn of_format(products: &[Product], format: Format) -> Vec<Product> {
    let distance = |product: &Product| match (product.format, format) {
        (known, wanted) if known == wanted => 0.0,
        (Format::Affine { bits: known, .. }, Format::Affine { bits: wanted, .. }) => {
            0.1 + f64::from(known.abs_diff(wanted))
        }
        (known, wanted) => 100.0 + (known.row_bytes(1024) as f64 - wanted.row_bytes(1024) as f64).abs(),
    };
    let nearest = products.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|product| product.format);
    products.iter().copied().filter(|product| Some(product.format) == nearest).collect()
}

/// Seconds of a call with `weights` weights, where calls with `measured` of them were timed. Each costs `fixed` at least,
/// and the rest of its time goes with the weights.
fn product_seconds(calls: &[Product], measured: f64, fixed: f64, rows: usize, weights: f64) -> f64 {
    let mut slowest = 0.0f64;
    let points: Vec<(f64, f64)> = calls
        .iter()
        .filter(|call| call.ops_per_second > 0.0)
        .map(|call| {
            let seconds = 2.0 * call.rows as f64 * measured / call.ops_per_second;
            // More rows are never less work: what says so is noise.
            slowest = slowest.max(seconds - fixed);
            (call.rows as f64, slowest.max(1e-12).ln())
        })
        .collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    if rows == 0 {
        return 0.0;
    }
    let rows = rows as f64;
    let seconds = interpolate(&points, rows.max(first.0)).exp() * (rows / last.0).max(1.0);
    fixed + seconds * weights / measured
}

/// Between points of ascending x, in proportion to its logarithm; beyond them, the nearest one's.
fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return 0.0 };
    if x <= first.0 {
        return first.1;
    }
    let between = points.windows(2).find(|pair| x <= pair[1].0);
    between.map_or(last.1, |pair| {
        let share = (x / pair[0].0).ln() / (pair[1].0 / pair[0].0).ln();
        pair[0].1 + share * (pair[1].1 - pair[0].1)
    })
}

fn cpu_name() -> String {
    Machine::here().cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

fn isa_name() -> &'static str {
    Isa::available().next().map_or("portable", Isa::name)
}

/// A [`Format`] by its name.
mod format_name {
    use outpour_kernels::{Format, GgmlType};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(format: &Format, to: S) -> Result<S::Ok, S::Error> {
        match format {
            Format::F32 => to.serialize_str("f32"),
            Format::F16 => to.serialize_str("f16"),
            Format::Bf16 => to.serialize_str("bf16"),
            Format::Affine { bits, group } => to.collect_str(&format_args!("affine{bits}g{group}")),
            Format::Ggml(blocks) => to.serialize_str(blocks.name()),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Format, D::Error> {
        let name = String::deserialize(from)?;
        let affine = || {
            let (bits, group) = name.strip_prefix("affine")?.split_once('g')?;
            Format::affine(bits.parse().ok()?, group.parse().ok()?)
        };
        match name.as_str() {
            "f32" => Ok(Format::F32),
            "f16" => Ok(Format::F16),
            "bf16" => Ok(Format::Bf16),
            _ => affine()
                .or_else(|| GgmlType::named(&name).map(Format::Ggml))
                .ok_or_else(|| D::Error::custom(format!("{name:?} is no weight format"))),
        }
    }
}

#[cfg(test)]
mod tests;
