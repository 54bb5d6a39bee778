//! Facts about the machine: memory, limits, CPUs, the drive under a file, and what this process uses of them.
//!
//! Whatever the system does not tell is `None`. On Linux everything comes from `/proc` and `/sys`, so a made-up tree
//! serves for tests ([`Machine::at`]); elsewhere only the memory and the CPUs are known.

mod cgroup;
mod drive;
mod system;

use std::path::{Path, PathBuf};

pub use cgroup::Cgroup;
pub use drive::Drive;
pub use system::{HugePages, System};

/// Least and most of what [`Machine::default_ram_bytes`] leaves to others, and the share between them.
const MARGIN_BYTES_MIN: u64 = 256 << 20;
const MARGIN_BYTES_MAX: u64 = 2 << 30;
const MARGIN_SHARE: u64 = 10;

/// Where facts are looked up.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
}

/// The machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total_bytes: u64,
    /// What new allocations can have without swapping (`MemAvailable`).
    pub available_bytes: u64,
}

/// Memory that is free now, and whether it is short.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Headroom {
    /// Of the machine.
    pub machine_bytes: Option<u64>,
    /// Of the control group.
    pub group_bytes: Option<u64>,
    /// Part of the last ten seconds, in percent, in which everything waited for memory; 0 where the system does not tell.
    pub stalled_percent: f64,
}

/// This process's resident memory, by kind. The kernel counts in batches: each figure may be some 100 KiB off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resident {
    /// Heap, stacks and anonymous mappings.
    pub anonymous_bytes: u64,
    /// Mapped files, the program itself among them.
    pub file_bytes: u64,
    /// Shared memory and tmpfs.
    pub shared_bytes: u64,
}

impl Resident {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.anonymous_bytes.saturating_add(self.file_bytes).saturating_add(self.shared_bytes)
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Machine {
        Machine::at(Path::new("/"))
    }

    /// A machine whose `proc` and `sys` lie under `root`.
    pub fn at(root: &Path) -> Machine {
        Machine { root: root.to_owned() }
    }

    /// The machine's memory, without regard to cgroups.
    pub fn memory(&self) -> Option<Memory> {
        if cfg!(target_vendor = "apple") && self.is_here() {
            apple_memory()
        } else {
            parse_meminfo(&self.read("proc/meminfo")?)
        }
    }

    /// The control group that this process is in, with all its ancestors.
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::of(&self.root)
    }

    /// What this process holds in memory.
    pub fn resident(&self) -> Option<Resident> {
        parse_resident(&self.read("proc/self/status")?)
    }

    /// Bytes that this process had fetched from drives, ever. Page cache hits do not count.
    pub fn drive_read_bytes(&self) -> Option<u64> {
        parse_field(&self.read("proc/self/io")?, "read_bytes:")
    }

    /// The drive that holds the file or folder `path`: for a partition the whole drive.
    pub fn drive(&self, path: &Path) -> Option<Drive> {
        Drive::under(&self.root, path)
    }

    /// The type of the file system that holds the file or folder `path`: `ext4`, `nfs4`.
    pub fn file_system(&self, path: &Path) -> Option<String> {
        drive::file_system(&self.root, path)
    }

    /// The drive with this device number, as in `/sys/dev/block`.
    pub fn drive_by_number(&self, major: u32, minor: u32) -> Option<Drive> {
        Drive::by_number(&self.root, major, minor)
    }

    /// The processor's name, as its maker gave it.
    pub fn cpu_name(&self) -> Option<String> {
        if cfg!(target_vendor = "apple") && self.is_here() {
            return tool_output("sysctl", &["-n", "machdep.cpu.brand_string"]).map(|name| name.trim().to_owned());
        }
        system::parse_cpu_name(&self.read("proc/cpuinfo")?)
    }

    /// Settings of the system that matter here. Empty elsewhere than on Linux.
    pub fn system(&self) -> System {
        System::of(&self.root)
    }

    /// CPUs to compute with: those that this process may run on, and no more than the cgroup's quota lets it use.
    pub fn cpus_usable(&self) -> usize {
        let allowed = cpus_allowed();
        match self.cgroup().cpu_quota {
            Some(quota) => allowed.min(quota.ceil() as usize).max(1),
            None => allowed,
        }
    }

    /// The `--ram` that is used when the user gives none.
    ///
    /// What this process can come to hold beside what the machine and each cgroup above it hold already, whichever is
    /// less: `min(MemAvailable + own, limit − others' usage)`, where page cache counts as free. Less a margin of a
    /// tenth, at least 256 MiB and at most 2 GiB: what the kernel needs itself, and what others grow by before the
    /// governor notices. `None` where the system tells neither.
    pub fn default_ram_bytes(&self) -> Option<u64> {
        let own = self.resident().map_or(0, |resident| resident.anonymous_bytes + resident.shared_bytes);
        let machine = self.memory().map(|memory| memory.available_bytes.saturating_add(own).min(memory.total_bytes));
        let group = self.cgroup().memory_free_bytes.map(|free| free.saturating_add(own));
        let room = [machine, group].into_iter().flatten().min()?;
        let margin = (room / MARGIN_SHARE).clamp(MARGIN_BYTES_MIN, MARGIN_BYTES_MAX);
        Some(room.saturating_sub(margin))
    }

    /// What others can still allocate: on the machine without swapping, and within the tightest of this process's control
    /// groups, with page cache counted as free.
    pub fn headroom(&self) -> Headroom {
        Headroom {
            machine_bytes: self.memory().map(|memory| memory.available_bytes),
            group_bytes: self.cgroup().memory_free_bytes,
            stalled_percent: self.read("proc/pressure/memory").and_then(|text| parse_stalled(&text)).unwrap_or(0.0),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    fn is_here(&self) -> bool {
        self.root == Path::new("/")
    }
}

/// The user's own folder: `$HOME`, else what the system has noted of the user. `None` where neither is a path from the root.
pub fn home_dir() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// Where what can be made again is kept: `$XDG_CACHE_HOME/outpour`, `~/Library/Caches/outpour` on macOS, else
/// `~/.cache/outpour`. On a drive, where the folder for temporary files may be memory.
pub fn cache_dir() -> PathBuf {
    let below = if cfg!(target_vendor = "apple") { "Library/Caches" } else { ".cache" };
    let home = || home_dir().map(|home| home.join(below));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home);
    cache.unwrap_or_else(std::env::temp_dir).join("outpour")
}

/// Where what a program remembers between its runs is kept: `$XDG_STATE_HOME/outpour`, `~/Library/Application Support/outpour` on
/// macOS, else `~/.local/state/outpour`. `None` where neither is known.
pub fn state_dir() -> Option<PathBuf> {
    let below = if cfg!(target_vendor = "apple") { "Library/Application Support" } else { ".local/state" };
    let home = || home_dir().map(|home| home.join(below));
    let state =
        std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute()).or_else(home)?;
    Some(state.join("outpour"))
}

/// CPUs that this process may run on (its affinity, which is what `taskset` and cpusets change).
pub fn cpus_allowed() -> usize {
    #[cfg(target_os = "linux")]
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (set.count() as usize).max(1);
    }
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How much memory this process may lock or register (RLIMIT_MEMLOCK). `None` is: as much as it likes, or unknown.
pub fn memlock_limit_bytes() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// `/proc/meminfo`. On kernels before 3.14 nothing says what is available.
pub fn parse_meminfo(text: &str) -> Option<Memory> {
    let kibibytes = |name| parse_field(text, name)?.checked_mul(1024);
    Some(Memory { total_bytes: kibibytes("MemTotal:")?, available_bytes: kibibytes("MemAvailable:")? })
}

/// `/proc/self/status`.
pub fn parse_resident(text: &str) -> Option<Resident> {
    let kibibytes = |name| parse_field(text, name)?.checked_mul(1024);
    Some(Resident {
        anonymous_bytes: kibibytes("RssAnon:")?,
        file_bytes: kibibytes("RssFile:")?,
        shared_bytes: kibibytes("RssShmem:")?,
    })
}

/// `full avg10` of `/proc/pressure/memory`.
pub fn parse_stalled(text: &str) -> Option<f64> {
    let full = text.lines().find_map(|line| line.strip_prefix("full avg10="))?;
    full.split_ascii_whitespace().next()?.parse().ok()
}

/// The number behind `name` at the start of a line.
fn parse_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// What macOS's own tools print.
fn apple_memory() -> Option<Memory> {
    let total_bytes = tool_output("sysctl", &["-n", "hw.memsize"])?.trim().parse().ok()?;
    Some(Memory { total_bytes, available_bytes: parse_vm_stat(&tool_output("vm_stat", &[])?)?.min(total_bytes) })
}

fn tool_output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

/// Free, inactive, speculative and purgeable pages of macOS's `vm_stat`, in bytes.
pub fn parse_vm_stat(text: &str) -> Option<u64> {
    let page_bytes: u64 = text.split_once("page size of ")?.1.split_ascii_whitespace().next()?.parse().ok()?;
    let pages = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches('.').parse::<u64>().ok()
    };
    let sum = pages("Pages free:")?
        .checked_add(pages("Pages inactive:")?)?
        .checked_add(pages("Pages speculative:").unwrap_or(0))?
        .checked_add(pages("Pages purgeable:").unwrap_or(0))?;
    sum.checked_mul(page_bytes)
}
