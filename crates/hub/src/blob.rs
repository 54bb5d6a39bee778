//! One file, downloaded: resumed where it broke off, and there under its name only with the right hash.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use outpour_store::read::whole::settle;
use outpour_store::verify::Hasher;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cache::{Cache, io};
use crate::client::{Ask, Client, Failure, begins_at, pause, protocol};
use crate::{HubError, ModelName, RemoteFile, Result};

/// Bytes read at a time.
pub const PIECE_BYTES: usize = 256 << 10;
/// Bytes after which what was written goes to the drive and out of the page cache.
const SETTLED_BYTES: u64 = 64 << 20;
/// How often a file that another process downloads is looked at.
const LOCK_WAIT: std::time::Duration = std::time::Duration::from_millis(100);

/// What is known of a download while it goes on.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes that are on the drive.
    pub there: AtomicU64,
    /// Bytes that came over the network.
    pub fetched: AtomicU64,
    /// Whether to stop.
    pub stop: AtomicBool,
}

/// Of which model and version.
#[derive(Clone, Debug)]
pub struct Version {
    pub name: ModelName,
    pub commit: String,
}

/// A file on its way.
struct Arriving<'a> {
    of: &'a Version,
    remote: &'a RemoteFile,
    path: &'a Path,
    counters: &'a Counters,
    file: File,
    hasher: Hasher,
    there: u64,
    unsettled: u64,
}

/// Downloads a file into its blob, unless it is there.
pub fn fetch(client: &Client, cache: &Cache, of: &Version, remote: &RemoteFile, counters: &Counters) -> Result<()> {
    let blob = cache.blob(&of.name, &remote.hash);
    let is_there = || std::fs::metadata(&blob).is_ok_and(|metadata| metadata.len() == remote.bytes);
    let count_all = || {
        counters.there.fetch_add(remote.bytes, Ordering::Relaxed);
    };
    if is_there() {
        count_all();
        return Ok(());
    }
    let _lock = lock(client, cache, of, remote, counters)?;
    if is_there() {
        count_all();
        return Ok(());
    }
    let incomplete = blob.with_extension("incomplete");
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&incomplete);
    let file = opened.map_err(io(&incomplete, "open"))?;
    let mut arriving = Arriving {
        of,
        remote,
        path: &incomplete,
        counters,
        file,
        hasher: remote.hash.begin(remote.bytes),
        there: 0,
        unsettled: 0,
    };
    let mut resumed = arriving.take_up()? > 0;
    let url = client.file_url(&of.name, &of.commit, &remote.path);
    loop {
        client.patiently(&of.name, &counters.stop, || {
            let before = arriving.there;
            arriving.receive(client, &url).map_err(|failure| (failure, arriving.there > before))
        })?;
        let found = arriving.hasher.clone().finish();
        if found == remote.hash {
            break;
        }
        // What an earlier run left may have been damaged since: once more, all of it.
        arriving.begin_anew()?;
        if !std::mem::take(&mut resumed) {
            std::fs::remove_file(&incomplete).map_err(io(&incomplete, "remove"))?;
            return Err(HubError::WrongHash {
                name: of.name.to_string(),
                file: remote.path.clone(),
                expected: remote.hash.digits().to_owned(),
                found: found.digits().to_owned(),
            });
        }
    }
    settle(&arriving.file).map_err(|error| arriving.unwritten(error))?;
    std::fs::rename(&incomplete, &blob).map_err(io(&blob, "rename a finished download to"))
}

/// Waits until no other process downloads this file. Where the file system has no locks, the hash alone guards it.
fn lock(client: &Client, cache: &Cache, of: &Version, remote: &RemoteFile, counters: &Counters) -> Result<File> {
    let path = cache.lock(&of.name, &remote.hash);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let file = opened.map_err(io(&path, "open"))?;
    let mut told = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => {
                if !std::mem::replace(&mut told, true) {
                    (client.tell)(&format!("{} is being downloaded by another process: waiting for it.", remote.path));
                }
                pause(LOCK_WAIT, &counters.stop)?;
            }
            _ => return Ok(file),
        }
    }
}

impl Arriving<'_> {
    /// Hashes what an earlier run left; gives its bytes.
    fn take_up(&mut self) -> Result<u64> {
        let left = self.file.metadata().map_err(io(self.path, "examine"))?.len();
        if left > self.remote.bytes {
            self.file.set_len(0).map_err(io(self.path, "cut"))?;
        }
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = match self.file.read(&mut piece) {
                Ok(0) => return Ok(self.there),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io(self.path, "read")(error)),
            };
            self.hasher.update(&piece[..read]);
            self.there += read as u64;
            self.counters.there.fetch_add(read as u64, Ordering::Relaxed);
            if self.counters.stop.load(Ordering::Relaxed) {
                return Err(HubError::Stopped { stays: true });
            }
        }
    }

    fn begin_anew(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(io(self.path, "cut"))?;
        self.file.seek(SeekFrom::Start(0)).map_err(io(self.path, "rewind"))?;
        self.counters.there.fetch_sub(self.there, Ordering::Relaxed);
        self.hasher = self.remote.hash.begin(self.remote.bytes);
        (self.there, self.unsettled) = (0, 0);
        Ok(())
    }

    /// Receives what is missing, as far as this connection brings it.
    fn receive(&mut self, client: &Client, url: &str) -> Result<(), Failure> {
        if self.there == self.remote.bytes {
            return Ok(());
        }
        let response = client.ask(url, if self.there == 0 { Ask::All } else { Ask::Range(self.there, None) })?;
        if begins_at(&response, self.there, self.remote.bytes)? < self.there {
            self.begin_anew()?;
        }
        let host = client.host();
        let mut body = response.into_body().into_reader();
        let mut piece = vec![0; PIECE_BYTES];
        while !self.counters.stop.load(Ordering::Relaxed) {
            match body.read(&mut piece) {
                Ok(0) if self.there == self.remote.bytes => return Ok(()),
                Ok(0) => return Err(Failure::Network { host, why: "the connection ended early".into() }),
                Ok(read) if self.there + read as u64 > self.remote.bytes => {
                    return Err(protocol(&host, &format!("more bytes of {} than it has", self.remote.path)));
                }
                Ok(read) => self.keep(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Failure::Network { host, why: error.to_string() }),
            }
        }
        Err(HubError::Stopped { stays: true }.into())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write_all(bytes) {
            // What part of it was written is not known: the next run goes on from what is surely there.
            self.file.set_len(self.there).map_err(io(self.path, "cut"))?;
            return Err(self.unwritten(error));
        }
        self.hasher.update(bytes);
        let bytes = bytes.len() as u64;
        self.there += bytes;
        self.unsettled += bytes;
        self.counters.there.fetch_add(bytes, Ordering::Relaxed);
        self.counters.fetched.fetch_add(bytes, Ordering::Relaxed);
        if self.unsettled >= SETTLED_BYTES {
            self.unsettled = 0;
            settle(&self.file).map_err(|error| self.unwritten(error))?;
        }
        Ok(())
    }

    fn unwritten(&self, source: io::Error) -> HubError {
        let path = self.path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                HubError::Full { name: self.of.name.to_string(), path, missing: self.remote.bytes - self.there }
            }
            _ => HubError::Io { path, action: "write", source },
        }
    }
}
