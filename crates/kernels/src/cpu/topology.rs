//! How many threads to compute with: one for each physical performance core that this process may use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

/// The default number of threads. Never more than `available_parallelism`, which on Linux respects the affinity mask
/// and the quotas of cgroup v1 and v2.
pub fn default_threads() -> usize {
    let allowed = available_parallelism().map_or(1, usize::from);
    let cores =
        performance_cores(Path::new("/sys/devices/system/cpu"), allowed_cpus).or_else(performance_cores_of_macos);
    cores.unwrap_or(allowed).clamp(1, allowed)
}

/// Bytes of all last-level caches together; 0 where the system does not say.
pub fn last_level_cache_bytes() -> usize {
    cache_bytes(Path::new("/sys/devices/system/cpu"))
}

fn cache_bytes(root: &Path) -> usize {
    let text = |path: std::path::PathBuf| fs::read_to_string(path).ok();
    let online = text(root.join("online")).and_then(|text| parse_list(&text)).unwrap_or_default();
    let (mut bytes, mut seen) = (0, BTreeSet::new());
    for cpu in online {
        // The highest level that there is; a cache is listed once for each CPU that shares it.
        let last = (0..8).rev().map(|index| root.join(format!("cpu{cpu}/cache/index{index}")));
        let Some(folder) = last.into_iter().find(|folder| folder.is_dir()) else { continue };
        let (Some(size), Some(shared)) = (text(folder.join("size")), text(folder.join("shared_cpu_list"))) else {
            continue;
        };
        let kibibytes = size.trim().strip_suffix('K').and_then(|number| number.parse::<usize>().ok());
        if seen.insert(shared) {
            bytes += kibibytes.unwrap_or(0) << 10;
        }
    }
    bytes
}

/// Physical performance cores among the CPUs that may be used; `None` where the system does not say.
///
/// Two hyperthreads of one core share its vector units and its path to memory, and are counted once. Of unlike cores
/// (big and little), those of at least half the largest capacity count: with tasks handed out one by one, a slower
/// core helps as far as it can, but a core several times slower makes the others wait for its last task.
fn performance_cores(root: &Path, allowed: impl Fn(usize) -> bool) -> Option<usize> {
    let online = parse_list(&fs::read_to_string(root.join("online")).ok()?)?;
    let mut cores: Vec<(String, u64)> = Vec::new();
    let mut seen = BTreeSet::new();
    let efficient = efficiency_cpus(root);
    for cpu in online.into_iter().filter(|&cpu| allowed(cpu) && !efficient.contains(&cpu)) {
        let folder = root.join(format!("cpu{cpu}"));
        let siblings = fs::read_to_string(folder.join("topology/thread_siblings_list")).ok()?;
        if seen.insert(siblings.clone()) {
            let capacity = fs::read_to_string(folder.join("cpu_capacity")).ok();
            cores.push((siblings, capacity.and_then(|text| text.trim().parse().ok()).unwrap_or(0)));
        }
    }
    let largest = cores.iter().map(|core| core.1).max()?;
    Some(cores.iter().filter(|core| 2 * core.1 >= largest).count())
}

/// Those of macOS: of the first of its performance levels, or where there are no levels all.
fn performance_cores_of_macos() -> Option<usize> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    // Names that are not known are left out, and make it fail.
    let names = ["-n", "hw.perflevel0.physicalcpu", "hw.physicalcpu"];
    let known = Command::new("/usr/sbin/sysctl").args(names).output().ok()?.stdout;
    String::from_utf8(known).ok()?.lines().next()?.trim().parse().ok()
}

/// The efficiency cores of a hybrid x86 processor, which the kernel lists as a second kind of performance counter.
fn efficiency_cpus(root: &Path) -> BTreeSet<usize> {
    let list = root.parent().and_then(Path::parent).map(|devices| devices.join("cpu_atom/cpus"));
    let text = list.and_then(|path| fs::read_to_string(path).ok());
    text.and_then(|text| parse_list(&text)).unwrap_or_default().into_iter().collect()
}

/// The kernel's list format: `0-3,8,10-11`.
fn parse_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last.min(first + (1 << 16)));
    }
    Some(cpus)
}

#[cfg(target_os = "linux")]
fn allowed_cpus(cpu: usize) -> bool {
    match rustix::thread::sched_getaffinity(None) {
        Ok(set) => cpu >= rustix::thread::CpuSet::MAX_CPU || set.is_set(cpu),
        Err(_) => true,
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed_cpus(_: usize) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        assert_eq!(parse_list("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_list("\n"), Some(vec![]));
        assert_eq!(parse_list("a-b"), None);
    }

    #[test]
    fn shared_caches_count_once() {
        let root = std::env::temp_dir().join(format!("outpour-caches-{}", std::process::id()));
        for (cpu, shared) in [(0, "0-1"), (1, "0-1"), (2, "2")] {
            for (index, size) in [(0, "32K"), (3, "16384K")] {
                let folder = root.join(format!("cpu{cpu}/cache/index{index}"));
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("size"), format!("{size}\n")).unwrap();
                fs::write(folder.join("shared_cpu_list"), shared).unwrap();
            }
        }
        assert_eq!(cache_bytes(&root), 0, "no list of CPUs");
        fs::write(root.join("online"), "0-2\n").unwrap();
        assert_eq!(cache_bytes(&root), 32 << 20);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn at_least_one_thread_and_no_more_than_allowed() {
        let allowed = available_parallelism().map_or(1, usize::from);
        assert!((1..=allowed).contains(&default_threads()));
    }

    /// A made-up machine: `cpus` are (siblings, capacity).
    fn machine(name: &str, cpus: &[(&str, u64)], atom: Option<&str>) -> std::path::PathBuf {
        let devices = std::env::temp_dir().join(format!("outpour-topology-{name}-{}", std::process::id()));
        let root = devices.join("system/cpu");
        for (cpu, (siblings, capacity)) in cpus.iter().enumerate() {
            let folder = root.join(format!("cpu{cpu}"));
            fs::create_dir_all(folder.join("topology")).unwrap();
            fs::write(folder.join("topology/thread_siblings_list"), siblings).unwrap();
            fs::write(folder.join("cpu_capacity"), format!("{capacity}\n")).unwrap();
        }
        fs::write(root.join("online"), format!("0-{}\n", cpus.len() - 1)).unwrap();
        if let Some(atom) = atom {
            fs::create_dir_all(devices.join("cpu_atom")).unwrap();
            fs::write(devices.join("cpu_atom/cpus"), atom).unwrap();
        }
        root
    }

    #[test]
    fn hyperthreads_count_once_and_little_cores_not_at_all() {
        let smt = machine("smt", &[("0,2", 0), ("1,3", 0), ("0,2", 0), ("1,3", 0)], None);
        assert_eq!(performance_cores(&smt, |_| true), Some(2));
        assert_eq!(performance_cores(&smt, |cpu| cpu == 2), Some(1));
        let arm = machine("arm", &[("0", 300), ("1", 300), ("2", 1024), ("3", 700)], None);
        assert_eq!(performance_cores(&arm, |_| true), Some(2));
        let hybrid = machine("hybrid", &[("0-1", 0), ("0-1", 0), ("2", 0), ("3", 0)], Some("2-3\n"));
        assert_eq!(performance_cores(&hybrid, |_| true), Some(1));
        assert_eq!(performance_cores(Path::new("/nonexistent"), |_| true), None);
        for root in [smt, arm, hybrid] {
            fs::remove_dir_all(root.parent().and_then(Path::parent).unwrap()).unwrap();
        }
    }
}
