//! Settings of a Linux system that make streaming slow, or refuse what it needs.

use std::path::Path;

use super::parse_field;

/// When the kernel gives huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// To all memory.
    Always,
    /// To memory that asks, as ours does.
    OnRequest,
    /// To none.
    Never,
}

/// Settings and state of the system. What it does not tell is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// Version of the kernel.
    pub kernel: Option<String>,
    /// When the kernel gives huge pages.
    pub huge_pages: Option<HugePages>,
    /// `kernel.io_uring_disabled`: 0 all may use io_uring, 1 those of a group, 2 nobody.
    pub io_uring_disabled: Option<u64>,
    /// `vm.overcommit_memory`: 2 refuses memory that is promised and not used.
    pub overcommit: Option<u64>,
    /// Swap there is.
    pub swap_total_bytes: Option<u64>,
    /// Swap in use.
    pub swap_used_bytes: Option<u64>,
    /// Threads that ran or wanted to, on average over the last minute.
    pub load: Option<f64>,
    /// Whether this process may lock and register memory without limit (CAP_IPC_LOCK).
    pub may_lock: bool,
    /// Whether a filter of system calls is on (seccomp), as in containers.
    pub seccomp: bool,
}

impl System {
    pub(super) fn of(root: &Path) -> System {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
        let number = |path: &str| read(path).and_then(|text| text.trim().parse::<u64>().ok());
        let meminfo = read("proc/meminfo").unwrap_or_default();
        let kibibytes = |name| parse_field(&meminfo, name)?.checked_mul(1024);
        let status = read("proc/self/status").unwrap_or_default();
        let swap_total_bytes = kibibytes("SwapTotal:");
        System {
            kernel: read("proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
            huge_pages: read("sys/kernel/mm/transparent_hugepage/enabled").and_then(|text| parse_huge_pages(&text)),
            io_uring_disabled: number("proc/sys/kernel/io_uring_disabled"),
            overcommit: number("proc/sys/vm/overcommit_memory"),
            swap_total_bytes,
            swap_used_bytes: swap_total_bytes
                .zip(kibibytes("SwapFree:"))
                .map(|(total, free)| total.saturating_sub(free)),
            load: read("proc/loadavg").and_then(|text| text.split_ascii_whitespace().next()?.parse().ok()),
            may_lock: capabilities(&status).is_some_and(|set| set & 1 << CAP_IPC_LOCK != 0),
            seccomp: parse_field(&status, "Seccomp:").is_some_and(|mode| mode != 0),
        }
    }
}

const CAP_IPC_LOCK: u64 = 14;

/// The effective capabilities in `/proc/self/status`.
fn capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

/// `always [madvise] never`.
fn parse_huge_pages(text: &str) -> Option<HugePages> {
    match text.split_once('[')?.1.split_once(']')?.0 {
        "always" => Some(HugePages::Always),
        "madvise" => Some(HugePages::OnRequest),
        "never" => Some(HugePages::Never),
        _ => None,
    }
}

/// The processor's name in `/proc/cpuinfo`. On Arm there is none, and its numbers stand for it.
pub(super) fn parse_cpu_name(text: &str) -> Option<String> {
    let value = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let arm = || Some(format!("Arm {} part {}", value("CPU implementer")?, value("CPU part")?));
    value("model name").or_else(arm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_system() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(System::of(root.path()), System::default());
        write("proc/sys/kernel/osrelease", "6.1.0\n");
        write("proc/sys/kernel/io_uring_disabled", "2\n");
        write("proc/sys/vm/overcommit_memory", "2\n");
        write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
        write("proc/meminfo", "MemTotal: 100 kB\nSwapTotal:  10 kB\nSwapFree: 4 kB\n");
        write("proc/loadavg", "2.50 1 1 1/100 5\n");
        write("proc/self/status", "CapEff:\t0000000000004000\nSeccomp:\t2\n");
        let system = System::of(root.path());
        assert_eq!(system.kernel.as_deref(), Some("6.1.0"));
        assert_eq!(system.huge_pages, Some(HugePages::Never));
        assert_eq!((system.io_uring_disabled, system.overcommit), (Some(2), Some(2)));
        assert_eq!((system.swap_total_bytes, system.swap_used_bytes), (Some(10240), Some(6144)));
        assert_eq!(system.load, Some(2.5));
        assert!(system.may_lock && system.seccomp);
    }

    #[test]
    fn names_of_processors() {
        assert_eq!(parse_cpu_name("processor : 0\nmodel name\t: AMD EPYC\n").as_deref(), Some("AMD EPYC"));
        let arm = "processor : 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";
        assert_eq!(parse_cpu_name(arm).as_deref(), Some("Arm 0x41 part 0xd40"));
        assert_eq!(parse_cpu_name("nothing"), None);
        assert_eq!(parse_huge_pages("[always] madvise never"), Some(HugePages::Always));
        assert_eq!(parse_huge_pages("garbage"), None);
    }
}
