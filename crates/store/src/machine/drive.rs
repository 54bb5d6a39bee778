//! The drive under a file.

use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
use super::cgroup::unescape;

/// A drive, as `/sys` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// `nvme0n1`, `sda`, `vda`, `dm-0`.
    pub name: String,
    /// The maker's words, where there are any.
    pub model: Option<String>,
    /// Whether it is a disk that turns: streaming experts from one is hopeless. Virtual drives often say so wrongly.
    pub rotational: Option<bool>,
    /// How far buffered reads run ahead.
    pub read_ahead_kib: Option<u64>,
}

impl Drive {
    /// The drive that holds `path`, in the tree under `root`.
    #[cfg(target_os = "linux")]
    pub(super) fn under(root: &Path, path: &Path) -> Option<Drive> {
        use std::os::unix::fs::MetadataExt;
        let path = std::fs::canonicalize(path).ok()?;
        let device = std::fs::metadata(&path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        // Btrfs, overlays and the like have device numbers that are no drive's. Their mount names the drive.
        Drive::by_number(root, major, minor).or_else(|| {
            let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
            let source = PathBuf::from(mount_of(&mounts, &path)?.source);
            Drive::by_name(root, Some(&source).filter(|source| source.starts_with("/dev"))?)
        })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn under(_root: &Path, _path: &Path) -> Option<Drive> {
        None
    }

    pub(super) fn by_number(root: &Path, major: u32, minor: u32) -> Option<Drive> {
        Drive::at(&root.join(format!("sys/dev/block/{major}:{minor}")))
    }

    #[cfg(target_os = "linux")]
    fn by_name(root: &Path, device: &Path) -> Option<Drive> {
        let device = std::fs::canonicalize(device).unwrap_or_else(|_| device.to_owned());
        Drive::at(&root.join("sys/class/block").join(device.file_name()?))
    }

    /// Reads a device's folder, or its parent's where it is a partition.
    fn at(folder: &Path) -> Option<Drive> {
        let mut folder = std::fs::canonicalize(folder).ok()?;
        if folder.join("partition").exists() {
            folder = folder.parent()?.to_owned();
        }
        let read = |path: &str| Some(std::fs::read_to_string(folder.join(path)).ok()?.trim().to_owned());
        Some(Drive {
            name: folder.file_name()?.to_string_lossy().into_owned(),
            model: model(&folder),
            rotational: read("queue/rotational").and_then(|text| match text.as_str() {
                "0" => Some(false),
                "1" => Some(true),
                _ => None,
            }),
            read_ahead_kib: read("queue/read_ahead_kb").and_then(|text| text.parse().ok()),
        })
    }
}

/// The model of a drive, or of the one drive under an encrypted or logical volume.
fn model(folder: &Path) -> Option<String> {
    if let Ok(text) = std::fs::read_to_string(folder.join("device/model")) {
        return Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    }
    let mut below = std::fs::read_dir(folder.join("slaves")).ok()?.flatten();
    let (Some(only), None) = (below.next(), below.next()) else { return None };
    let mut folder: PathBuf = std::fs::canonicalize(only.path()).ok()?;
    if folder.join("partition").exists() {
        folder.pop();
    }
    let text = std::fs::read_to_string(folder.join("device/model")).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The type of the file system that holds `path`, in the tree under `root`: `ext4`, `nfs4`.
#[cfg(target_os = "linux")]
pub(super) fn file_system(root: &Path, path: &Path) -> Option<String> {
    let mounts = std::fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    Some(mount_of(&mounts, &std::fs::canonicalize(path).ok()?)?.kind)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn file_system(_root: &Path, _path: &Path) -> Option<String> {
    None
}

/// A mount.
#[cfg(target_os = "linux")]
struct Mount {
    /// `ext4`.
    kind: String,
    /// `/dev/nvme0n1p2`.
    source: String,
}

/// The mount that holds `path`: of the longest mount points, the last mounted.
#[cfg(target_os = "linux")]
fn mount_of(mounts: &str, path: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut after = after.split(' ');
        let (Some(point), Some(kind), Some(source)) = (before.split(' ').nth(4), after.next(), after.next()) else {
            continue;
        };
        let point = PathBuf::from(unescape(point));
        let length = point.components().count();
        if path.starts_with(&point) && best.as_ref().is_none_or(|&(known, _)| length >= known) {
            best = Some((length, Mount { kind: kind.to_owned(), source: unescape(source) }));
        }
    }
    best.map(|(_, mount)| mount)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_point_wins() {
        let mounts = "1 0 0:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /models rw - btrfs /dev/nvme0n1p2 rw\ngarbage\n";
        let mount = |path| mount_of(mounts, Path::new(path)).map(|mount| (mount.kind, mount.source));
        assert_eq!(mount("/models/a"), Some(("btrfs".into(), "/dev/nvme0n1p2".into())));
        assert_eq!(mount("/modelsb/a"), Some(("ext4".into(), "/dev/sda1".into())));
        assert!(mount_of("garbage - x", Path::new("/a")).is_none());
    }
}
