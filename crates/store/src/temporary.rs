//! Folders that a process makes for itself: removed with their handle, or where the process was killed by the next one that makes
//! such a folder.

use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A folder that is locked as long as this lives, and then removed with all that is in it.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    _lock: File,
}

impl Temporary {
    /// Makes a folder in `parent`, which is made if it is not there; its name begins with `prefix`. Folders of such names that no
    /// process has locked are removed: theirs was killed.
    ///
    /// # Errors
    /// When the system allows no folder there.
    pub fn make(parent: &Path, prefix: &str) -> Result<Temporary> {
        static MADE: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(parent)?;
        sweep(parent, prefix)?;
        loop {
            let number = MADE.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{prefix}{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                made => made?,
            }
            let file = match File::open(&path) {
                // Before it was locked, another process took it for one that was left behind.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            // Where the file system has no locks, nothing is taken for left behind.
            let swept = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
            let inode = |metadata: Result<fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
            if !swept && inode(file.metadata()) == inode(fs::metadata(&path)) {
                return Ok(Temporary { path, _lock: file });
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What cannot be removed now, the next one removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes folders of such names that no process has locked.
fn sweep(parent: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(parent)?.flatten() {
        let path = entry.path();
        let named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(prefix));
        if !named_so || !path.is_dir() {
            continue;
        }
        let Ok(folder) = File::open(&path) else { continue };
        if folder.try_lock().is_ok() {
            // Another user's cannot be removed, and is in nobody's way.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_in_use_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let left = parent.path().join("x-1-0");
        let others = parent.path().join("y-1-0");
        for folder in [&left, &others] {
            fs::create_dir(folder).expect("made");
            fs::write(folder.join("file"), "x").expect("written");
        }
        let first = Temporary::make(parent.path(), "x-").expect("made");
        assert!(!left.exists() && others.exists() && first.path().is_dir());
        let second = Temporary::make(parent.path(), "x-").expect("made");
        assert!(first.path().is_dir() && second.path().is_dir());
        let path = second.path().to_owned();
        drop(second);
        assert!(!path.exists() && first.path().is_dir());
    }
}
