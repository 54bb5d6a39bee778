//! The limits that control groups set, version 1 and 2.

use std::path::{Path, PathBuf};

/// A limit from here on is none: version 1 writes the largest multiple of a page for "unlimited".
const UNLIMITED_BYTES: u64 = 1 << 60;

/// What the control groups of this process allow it, all ancestors that can be seen taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// The lowest memory limit. `None` where there is none.
    pub memory_limit_bytes: Option<u64>,
    /// What the group with that limit uses, this process and page cache included.
    pub memory_used_bytes: Option<u64>,
    /// What can still be allocated before any limit is met, page cache counted as free.
    pub memory_free_bytes: Option<u64>,
    /// CPUs' worth of time that the group may use. `None` where there is no quota.
    pub cpu_quota: Option<f64>,
}

/// The files of one controller in one version.
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    /// Lines of `memory.stat` that count page cache which the kernel gives up on demand. Shared memory is not in them.
    cache: [&'static str; 2],
}

const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    cache: ["total_active_file ", "total_inactive_file "],
};

/// `memory.high` counts as a limit: above it the kernel stalls the process rather than killing it.
const V2: Files =
    Files { limits: &["memory.max", "memory.high"], used: "memory.current", cache: ["active_file ", "inactive_file "] };

impl Cgroup {
    /// Reads the tree under `root`.
    pub(super) fn of(root: &Path) -> Cgroup {
        let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
        let mut found = Cgroup::default();
        for folder in folders(&groups, &mounts, "memory").iter().flat_map(|chain| chain.within(root)) {
            found.add_memory(&folder, &V1);
        }
        for folder in folders(&groups, &mounts, "cpu").iter().flat_map(|chain| chain.within(root)) {
            found.add_quota(v1_quota(&folder));
        }
        for folder in folders(&groups, &mounts, "").iter().flat_map(|chain| chain.within(root)) {
            found.add_memory(&folder, &V2);
            found.add_quota(read_to_string(&folder, "cpu.max").and_then(|text| parse_cpu_max(&text)));
        }
        found
    }

    fn add_memory(&mut self, folder: &Path, files: &Files) {
        let stat = read_to_string(folder, "memory.stat").unwrap_or_default();
        // A limit of an ancestor that a container does not see; only version 1 tells.
        let inherited = stat_line(&stat, "hierarchical_memory_limit ").filter(|&bytes| bytes < UNLIMITED_BYTES);
        let own = files.limits.iter().filter_map(|name| parse_limit(&read_to_string(folder, name)?));
        let Some(limit) = own.chain(inherited).min() else { return };
        let used = read_to_string(folder, files.used).and_then(|text| text.trim().parse::<u64>().ok());
        if self.memory_limit_bytes.is_none_or(|known| limit < known) {
            (self.memory_limit_bytes, self.memory_used_bytes) = (Some(limit), used);
        }
        let cache: u64 = files.cache.iter().filter_map(|name| stat_line(&stat, name)).fold(0, u64::saturating_add);
        let free = limit.saturating_sub(used.unwrap_or(0).saturating_sub(cache));
        self.memory_free_bytes = Some(self.memory_free_bytes.map_or(free, |known| known.min(free)));
    }

    fn add_quota(&mut self, quota: Option<f64>) {
        self.cpu_quota = [self.cpu_quota, quota].into_iter().flatten().reduce(f64::min);
    }
}

/// A group's folder and how far up its ancestors can be seen.
#[derive(Debug, PartialEq, Eq)]
struct Chain {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    /// The group, relative to that.
    group: PathBuf,
}

impl Chain {
    /// The group's folder and those of its ancestors, in the tree under `root`.
    fn within(&self, root: &Path) -> Vec<PathBuf> {
        let mount = root.join(self.mount.strip_prefix("/").unwrap_or(&self.mount));
        self.group.ancestors().map(|group| mount.join(group)).collect()
    }
}

/// Finds where a controller's hierarchy shows this process's group; the unified hierarchy has the empty name.
///
/// `groups` is `/proc/self/cgroup`, `mounts` is `/proc/self/mountinfo`. In a container the mounted tree may begin below
/// the hierarchy's root, or the group lie outside of it: then what is mounted is the best that is known.
fn folders(groups: &str, mounts: &str, controller: &str) -> Vec<Chain> {
    let Some(group) = groups.lines().find_map(|line| group_path(line, controller)) else { return Vec::new() };
    let mounts = mounts.lines().filter_map(parse_mount).filter(|mount| mount.has(controller));
    mounts.map(|mount| Chain { group: below(&mount.root, &group), mount: mount.point }).collect()
}

/// The path in a line `4:memory:/path` that names this controller.
fn group_path(line: &str, controller: &str) -> Option<PathBuf> {
    let mut fields = line.splitn(3, ':');
    let (id, names, path) = (fields.next()?, fields.next()?, fields.next()?);
    let matches = if controller.is_empty() {
        id == "0" && names.is_empty()
    } else {
        names.split(',').any(|name| name == controller)
    };
    matches.then(|| PathBuf::from(path))
}

/// `group` relative to the mounted part of its hierarchy, or the empty path where it lies outside.
fn below(mounted: &Path, group: &Path) -> PathBuf {
    let inside = group.strip_prefix(mounted).ok();
    let plain = |path: &&Path| path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    inside.filter(plain).map(Path::to_owned).unwrap_or_default()
}

/// A cgroup mount.
struct Mount {
    /// What of the hierarchy is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    /// `cgroup` or `cgroup2`.
    kind: String,
    /// Its options: for version 1 the names of its controllers are among them.
    options: String,
}

impl Mount {
    fn has(&self, controller: &str) -> bool {
        match self.kind.as_str() {
            "cgroup2" => controller.is_empty(),
            "cgroup" => !controller.is_empty() && self.options.split(',').any(|name| name == controller),
            _ => false,
        }
    }
}

/// A line of mountinfo: `35 31 0:32 /root /point rw,relatime shared:1 - cgroup source rw,memory`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (unescape(before.next()?), unescape(before.next()?));
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let options = after.nth(1).unwrap_or_default().to_owned();
    Some(Mount { root: root.into(), point: point.into(), kind, options })
}

/// Blanks and backslashes stand in mountinfo as three octal digits: `\040`.
pub(super) fn unescape(text: &str) -> String {
    let mut pieces = text.split('\\');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let code = piece.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match code {
            Some(code) => {
                out.push(char::from(code));
                out.push_str(&piece[3..]);
            }
            None => {
                out.push('\\');
                out.push_str(piece);
            }
        }
    }
    out
}

fn read_to_string(folder: &Path, name: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(name)).ok()
}

/// A line of `memory.stat`.
fn stat_line(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// A memory limit; `max`, and what is as large, is none.
fn parse_limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|&bytes| bytes < UNLIMITED_BYTES)
}

/// `cpu.max` of version 2: `200000 100000` are two CPUs, `max 100000` is no quota.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_ascii_whitespace();
    quota(fields.next()?, fields.next().unwrap_or("100000"))
}

/// The two files of version 1, where -1 is no quota.
fn v1_quota(folder: &Path) -> Option<f64> {
    quota(&read_to_string(folder, "cpu.cfs_quota_us")?, &read_to_string(folder, "cpu.cfs_period_us")?)
}

fn quota(quota_us: &str, period_us: &str) -> Option<f64> {
    let quota_us: u64 = quota_us.trim().parse().ok()?;
    let period_us: u64 = period_us.trim().parse().ok()?;
    (quota_us > 0 && period_us > 0).then(|| quota_us as f64 / period_us as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines() {
        let mount = parse_mount(r"35 31 0:32 /a\040b /sys/fs/x\134y rw - cgroup none rw,cpu,memory").unwrap();
        assert_eq!(mount.root, Path::new("/a b"));
        assert_eq!(mount.point, Path::new(r"/sys/fs/x\y"));
        assert!(mount.has("memory") && mount.has("cpu") && !mount.has("cpuset") && !mount.has(""));
        for garbage in ["", " - ", "1 2 3", "35 31 0:32 / - cgroup", "a b c d e f"] {
            assert!(parse_mount(garbage).is_none_or(|mount| !mount.has("memory")), "{garbage:?}");
        }
        assert_eq!(unescape(r"\"), r"\");
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\777é\é40"), r"\777é\é40");
    }

    #[test]
    fn groups_outside_of_the_mount() {
        assert_eq!(below(Path::new("/"), Path::new("/a/b")), Path::new("a/b"));
        assert_eq!(below(Path::new("/a"), Path::new("/a/b")), Path::new("b"));
        assert_eq!(below(Path::new("/a"), Path::new("/a")), Path::new(""));
        assert_eq!(below(Path::new("/a"), Path::new("/c")), Path::new(""));
        assert_eq!(below(Path::new("/"), Path::new("/../c")), Path::new(""));
    }

    #[test]
    fn quotas() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("50000"), Some(0.5));
        for none in ["max 100000\n", "", "-1 100000", "0 100000", "100000 0", "x y"] {
            assert_eq!(parse_cpu_max(none), None, "{none:?}");
        }
    }
}
