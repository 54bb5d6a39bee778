//! What this machine was measured to give: `doctor` stores it, `plan` predicts from it.

mod measure;

use std::io::Write;
use std::path::{Path, PathBuf};

use outpour_kernels::Format;
use outpour_store::machine::{self, Machine};
use outpour_store::read::whole::read_whole;
use outpour_store::{Result, StoreError};
use serde::{Deserialize, Serialize};

pub use measure::{ComputeOptions, Effort};

/// The form of the file. One of another version is not read.
const VERSION: u32 = 2;

/// Largest file that is read: a thousand drives fit.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Drives that are kept when another is measured; the longest unmeasured go first.
const DRIVES_MAX: usize = 64;

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
    /// What an operation costs that has hardly any work.
    pub small_op_seconds: f64,
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
    /// By experts read together, ascending, with the drive idle before and after; empty of what outpour does not read with.
    pub bursts: Vec<DepthSpeed>,
    /// As a prompt reads for long, where that was measured; else the limit.
    pub sustained_bytes_per_second: f64,
    /// Processors' time for each byte then; 0 where it was not measured.
    pub cpu_seconds_per_byte: f64,
    /// The most that any depth gave.
    pub limit_bytes_per_second: f64,
    /// In order, in aligned blocks of 1 MiB, 32 in flight: the figure of `fio`.
    pub sequential_bytes_per_second: Option<f64>,
}

/// Reads of so many experts, at once or in flight.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
pub struct DepthSpeed {
    /// Experts in flight.
    pub depth: usize,
    /// Bytes brought in a second.
    pub bytes_per_second: f64,
}

impl DriveSpeed {
    /// As the engine reads.
    pub fn rate(&self) -> DriveRate {
        DriveRate {
            steady: self.sustained_bytes_per_second,
            bursts: self.bursts.clone(),
            cpu_seconds_per_byte: self.cpu_seconds_per_byte,
        }
    }
}

/// How fast a drive gives experts to the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct DriveRate {
    /// While a prompt's experts fly, several at any time, in bytes a second.
    pub steady: f64,
    /// A token's experts of a layer, by their number; where there are none, as fast as the others.
    pub bursts: Vec<DepthSpeed>,
    /// Processors' time for each byte, which computing waits for.
    pub cpu_seconds_per_byte: f64,
}

/// What io_uring was measured to take of a processor: 13 ms for each GB (EXPERIMENTS.md).
const CPU_SECONDS_PER_BYTE: f64 = 13e-12;

impl DriveRate {
    /// The same whatever is read.
    pub fn constant(bytes_per_second: f64) -> DriveRate {
        DriveRate { steady: bytes_per_second, bursts: Vec::new(), cpu_seconds_per_byte: CPU_SECONDS_PER_BYTE }
    }

    /// Reads so many together: between the numbers that were measured, in proportion to their logarithm.
    pub fn burst_bytes_per_second(&self, experts: usize) -> f64 {
        let points: Vec<(f64, f64)> = self.bursts.iter().map(|at| (at.depth as f64, at.bytes_per_second)).collect();
        if points.is_empty() { self.steady } else { interpolate(&points, experts.max(1) as f64) }
    }

    /// Time of reading so many experts of so many bytes together.
    pub fn burst_seconds(&self, experts: usize, expert_bytes: f64) -> f64 {
        experts as f64 * expert_bytes / self.burst_bytes_per_second(experts)
    }
}

impl Profile {
    /// Where it is stored.
    pub fn path() -> PathBuf {
        machine::cache_dir().join("machine.json")
    }

    /// The stored profile of this machine; `None` where none is stored.
    ///
    /// # Errors
    /// One line, when the file is damaged or of another version or processor: show it, and go on without.
    pub fn load() -> Result<Option<Profile>> {
        let path = Profile::path();
        let Some(profile) = Profile::read(&path)? else { return Ok(None) };
        match profile.mismatch(&cpu_name()) {
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

    /// Why these are not the figures of a machine with this processor, if so.
    fn mismatch(&self, cpu: &str) -> Option<String> {
        let known = &self.cpu;
        (known != cpu).then(|| format!("was measured on another machine (with {known}; here is {cpu})"))
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
