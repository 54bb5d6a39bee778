//! A model, downloaded: what the engine needs of it, with the free space checked before.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use outpour_store::checkpoint;

use crate::blob::{self, Counters, Version};
use crate::cache::io;
use crate::choose::{Choice, INDEX, choose};
use crate::{Hub, HubError, Listing, ModelName, RemoteFile, Result};

/// Files that are downloaded at the same time.
const CONNECTIONS: usize = 4;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);

/// How far a download is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// On the drive, hashed.
    pub there: u64,
    /// Of them, come over the network now.
    pub fetched: u64,
    /// In all.
    pub total: u64,
}

/// A model that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// A folder, or the first GGUF file.
    pub path: PathBuf,
    /// Files of it.
    pub files: usize,
    /// Bytes of it.
    pub bytes: u64,
    /// Of them, come over the network now.
    pub fetched: u64,
}

/// Is told how far it is, and may break off.
pub type Tick<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

impl Hub {
    /// Downloads what is missing of the newest version of a model. What was there of other versions stays.
    ///
    /// # Errors
    /// One line of what the hub, the network or the drive refused. Whatever has arrived stays, and is not fetched again.
    pub fn pull(&self, name: &ModelName, tick: Tick) -> Result<Pulled> {
        let counters = Arc::new(Counters::default());
        let listing = self.listing(name, &counters.stop)?;
        let choice = self.choose(name, &listing)?;
        let version = Version { name: name.clone(), commit: listing.commit.clone() };
        let mut files = match &choice {
            Choice::Safetensors(paths) => self.small_files(&version, &listing, paths, tick)?,
            Choice::Gguf(model) => self.remote_files(name, &listing, &model.parts, &counters.stop)?,
        };
        files.extend(self.shards(&version, &listing, &choice)?);
        self.fetch(&version, &files, &counters, tick)?;
        self.cache.set_main(name, &listing.commit)?;
        Ok(Pulled {
            path: choice.opened(&self.cache.snapshot(name, &listing.commit)),
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            fetched: counters.fetched.load(Ordering::Relaxed),
        })
    }

    pub(crate) fn choose(&self, name: &ModelName, listing: &Listing) -> Result<Choice> {
        let paths: Vec<&str> = listing.files.iter().map(|file| file.path.as_str()).collect();
        let bytes = |path: &str| listing.file(path).and_then(|file| file.bytes).unwrap_or(0);
        choose(&paths, name.quant.as_deref(), &bytes)
            .map_err(|problem| HubError::Choice { name: name.to_string(), problem })
    }

    /// Downloads these files, but for weights, of which it only finds out hash and size.
    pub(crate) fn small_files(
        &self,
        version: &Version,
        listing: &Listing,
        paths: &[String],
        tick: Tick,
    ) -> Result<Vec<RemoteFile>> {
        let counters = Arc::new(Counters::default());
        let files = self.remote_files(&version.name, listing, paths, &counters.stop)?;
        let small: Vec<RemoteFile> = files.iter().filter(|file| !is_weights(&file.path)).cloned().collect();
        self.fetch(version, &small, &counters, tick)?;
        Ok(files)
    }

    /// The files that the index of shards names, once it is there.
    pub(crate) fn shards(&self, version: &Version, listing: &Listing, choice: &Choice) -> Result<Vec<RemoteFile>> {
        match choice {
            Choice::Safetensors(paths) if paths.iter().any(|path| path == INDEX) => {
                let index = self.cache.snapshot(&version.name, &version.commit).join(INDEX);
                let (names, _) = checkpoint::shards(&index)?;
                self.remote_files(&version.name, listing, &names, &Counters::default().stop)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Downloads files into their blobs, and links to them.
    fn fetch(&self, version: &Version, files: &[RemoteFile], counters: &Arc<Counters>, tick: Tick) -> Result<()> {
        self.cache.prepare(&version.name)?;
        self.check_space(&version.name, files)?;
        let total = files.iter().map(|file| file.bytes).sum();
        let (files, next) = (Arc::new(files.to_vec()), Arc::new(AtomicUsize::new(0)));
        let (ended, workers) = mpsc::channel();
        for _ in 0..CONNECTIONS.min(files.len()) {
            let (client, cache, version) = (self.client.clone(), self.cache.clone(), version.clone());
            let (files, next, counters, ended) = (files.clone(), next.clone(), counters.clone(), ended.clone());
            // A thread of its own, not waited for: one that waits for the network does not hold up Ctrl-C.
            std::thread::spawn(move || {
                let work = || -> Result<()> {
                    while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                        blob::fetch(&client, &cache, &version, file, &counters)?;
                        cache.link(&version.name, &version.commit, &file.path, &file.hash)?;
                    }
                    Ok(())
                };
                // Where nobody listens any more, the download was broken off.
                let _ = ended.send(work());
            });
        }
        drop(ended);
        let progress = || Progress {
            there: counters.there.load(Ordering::Relaxed),
            fetched: counters.fetched.load(Ordering::Relaxed),
            total,
        };
        let outcome = loop {
            match workers.recv_timeout(TICK) {
                Ok(Err(error)) => break Err(error),
                Ok(Ok(())) | Err(RecvTimeoutError::Timeout) => {
                    if tick(progress()).is_break() {
                        break Err(HubError::Stopped { stays: true });
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break Ok(()),
            }
        };
        counters.stop.store(outcome.is_err(), Ordering::Relaxed);
        outcome
    }

    /// Whether what is still to come fits the drive.
    fn check_space(&self, name: &ModelName, files: &[RemoteFile]) -> Result<()> {
        let missing = |file: &RemoteFile| {
            let blob = self.cache.blob(name, &file.hash);
            let there = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
            let there = there(&blob).max(there(&blob.with_extension("incomplete")));
            file.bytes.saturating_sub(there)
        };
        let needed: u64 = files.iter().map(missing).sum();
        let dir = &self.cache.dir;
        let system = rustix::fs::statvfs(dir).map_err(|errno| io(dir, "examine")(errno.into()))?;
        let free = system.f_bavail.saturating_mul(system.f_frsize);
        if needed <= free {
            return Ok(());
        }
        Err(HubError::NoSpace { name: name.to_string(), needed, free, dir: dir.clone() })
    }
}

pub(crate) fn is_weights(path: &str) -> bool {
    path.ends_with(".safetensors") || path.ends_with(".gguf")
}
