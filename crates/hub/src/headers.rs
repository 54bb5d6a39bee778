//! A model's outline: files of the right names and sizes, of which only the headers are there, asked for by range. What
//! reads nothing but headers finds the same in it as in the model.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use outpour_store::StoreError;
use outpour_store::checkpoint::gguf;
use outpour_store::temporary::Temporary;
use rustix::fs::{Access, access};

use crate::blob::{PIECE_BYTES, Version};
use crate::cache::{Cache, io};
use crate::choose::Choice;
use crate::client::{Ask, Failure, begins_at, protocol};
use crate::pull::{Tick, is_weights};
use crate::{Hub, HubError, Listing, ModelName, RemoteFile, Result};

/// Bytes asked for at first of a GGUF file, and of a safetensors file together with the length of its header.
const FIRST_BYTES: u64 = 256 << 10;
/// Bytes of a tensor that is read with the header, at most: RoPE has a number for each pair of a head.
const FACTORS_BYTES_MAX: u64 = 256 << 10;
/// A header's bytes: the format of safetensors allows no more, and no GGUF file has more.
const HEADER_BYTES_MAX: u64 = 256 << 20;

/// What the names of folders of headers begin with.
const FOLDER: &str = ".outpour-headers-";

/// A model without its weights, in a temporary folder that goes when this does.
#[derive(Debug)]
pub struct Outline {
    /// What can be opened in the model's place.
    pub path: PathBuf,
    /// Bytes of the model's weights.
    pub weights_bytes: u64,
    /// Bytes of headers that were asked for.
    pub header_bytes: u64,
    _folder: Temporary,
    /// What has a cache's place for small files, if that cannot be written to.
    _cache: Option<Temporary>,
}

impl Hub {
    /// Makes an outline of the newest version of a model. Its small files are downloaded into the cache; where that cannot be
    /// written to, this is told, and nothing is kept.
    ///
    /// # Errors
    /// As [`Hub::pull`].
    pub fn outline(&self, name: &ModelName, tick: Tick) -> Result<Outline> {
        self.outlined(name, tick).map_err(HubError::of_headers)
    }

    fn outlined(&self, name: &ModelName, tick: Tick) -> Result<Outline> {
        let stop = AtomicBool::new(false);
        let listing = self.listing(name, &stop)?;
        let choice = self.choose(name, &listing)?;
        if self.cache.prepare(name).is_ok() && access(self.cache.repo(name).join("blobs"), Access::WRITE_OK).is_ok() {
            return self.outline_of(name, (&listing, &choice), tick, &stop);
        }
        (self.client.tell)(&format!("{}: cannot be written to, so nothing is kept there.", self.cache.dir.display()));
        let elsewhere = std::env::temp_dir();
        let cache = Temporary::make(&elsewhere, FOLDER).map_err(io(&elsewhere, "make a folder in"))?;
        let hub = Hub { cache: Cache { dir: cache.path().to_owned() }, ..self.clone() };
        hub.cache.prepare(name)?;
        Ok(Outline { _cache: Some(cache), ..hub.outline_of(name, (&listing, &choice), tick, &stop)? })
    }

    fn outline_of(
        &self,
        name: &ModelName,
        (listing, choice): (&Listing, &Choice),
        tick: Tick,
        stop: &AtomicBool,
    ) -> Result<Outline> {
        let version = Version { name: name.clone(), commit: listing.commit.clone() };
        let files = match choice {
            Choice::Safetensors(paths) => self.small_files(&version, listing, paths, tick)?,
            Choice::Gguf(model) => self.remote_files(name, listing, &model.parts, stop)?,
        };
        let shards = self.shards(&version, listing, choice)?;
        let folder = Temporary::make(&self.cache.dir, FOLDER).map_err(io(&self.cache.dir, "make a folder in"))?;
        // The same names as in the cache, so that the model is called as it will be.
        let snapshot = folder.path().join(name.folder()).join("snapshots").join(&listing.commit);
        let (mut weights_bytes, mut header_bytes) = (0, 0);
        for file in files.iter().chain(&shards) {
            let path = snapshot.join(&file.path);
            let parent = path.parent().unwrap_or(&snapshot);
            fs::create_dir_all(parent).map_err(io(parent, "make the folder"))?;
            if is_weights(&file.path) {
                weights_bytes += file.bytes;
                header_bytes += self.header(&version, file, &path, stop)?;
                if tick(crate::Progress { there: header_bytes, fetched: header_bytes, total: 0 }).is_break() {
                    return Err(HubError::Stopped { stays: true });
                }
            } else {
                let blob =
                    fs::canonicalize(self.cache.blob(name, &file.hash)).map_err(io(&path, "find the blob of"))?;
                symlink(blob, &path).map_err(io(&path, "make the link"))?;
            }
        }
        Ok(Outline { path: choice.opened(&snapshot), weights_bytes, header_bytes, _folder: folder, _cache: None })
    }

    /// Makes a file of the full size that holds the header, and nothing behind it; gives the bytes that were asked for.
    fn header(&self, version: &Version, remote: &RemoteFile, path: &Path, stop: &AtomicBool) -> Result<u64> {
        let file = File::create_new(path).map_err(io(path, "make"))?;
        file.set_len(remote.bytes).map_err(io(path, "set aside"))?;
        let there = Cell::new(0);
        let arrive = |end: u64| self.arrive(version, remote, (&file, path), &there, end, stop);
        if remote.path.ends_with(".gguf") {
            // Why nothing more came, which is no failure of the file.
            let failed = RefCell::new(None);
            let header = gguf::read_header_of(path, &|end| {
                arrive(end).map_err(|error| {
                    let why = StoreError::Other(error.to_string());
                    failed.replace(Some(error));
                    why
                })
            });
            let header = header.map_err(|error| failed.take().unwrap_or(error.into()))?;
            arrive(header.bytes.min(remote.bytes))?;
            let factors = header.tensors.iter().filter(|(name, tensor)| {
                [gguf::ROPE_FACTORS, gguf::ROPE_FACTORS_SHORT].contains(&name.as_str())
                    && tensor.bytes <= FACTORS_BYTES_MAX
            });
            let mut more = 0;
            for (_, tensor) in factors.filter(|(_, tensor)| tensor.offset + tensor.bytes > there.get()) {
                let range = [tensor.offset, tensor.offset + tensor.bytes];
                self.arrive_range(version, remote, (&file, path), range, stop)?;
                more += tensor.bytes;
            }
            return Ok(there.get() + more);
        }
        arrive(remote.bytes.min(8))?;
        let mut length = [0; 8];
        if remote.bytes >= 8 {
            file.read_exact_at(&mut length, 0).map_err(io(path, "read"))?;
        }
        let header_bytes = u64::from_le_bytes(length);
        // A length that makes no sense is left to who reads the header, and says so.
        if header_bytes <= HEADER_BYTES_MAX {
            arrive((8 + header_bytes).min(remote.bytes))?;
        }
        Ok(there.get())
    }

    /// Asks for a file's bytes up to `end`, and for as much again as is there, so that a long header takes few requests.
    fn arrive(
        &self,
        version: &Version,
        remote: &RemoteFile,
        (file, path): (&File, &Path),
        there: &Cell<u64>,
        end: u64,
        stop: &AtomicBool,
    ) -> Result<()> {
        let from = there.get();
        if end <= from {
            return Ok(());
        }
        if end > HEADER_BYTES_MAX {
            let problem = format!("its header claims {end} bytes, more than any; it is damaged on the hub");
            return Err(StoreError::Malformed { path: remote.path.clone().into(), problem }.into());
        }
        let end = end.max(from * 2).max(FIRST_BYTES).min(remote.bytes);
        self.arrive_range(version, remote, (file, path), [from, end], stop)?;
        there.set(end);
        Ok(())
    }

    /// Asks for a file's bytes `from..end`, and puts them in their place.
    fn arrive_range(
        &self,
        version: &Version,
        remote: &RemoteFile,
        (file, path): (&File, &Path),
        [from, end]: [u64; 2],
        stop: &AtomicBool,
    ) -> Result<()> {
        let url = self.client.file_url(&version.name, &version.commit, &remote.path);
        let there = Cell::new(from);
        let receive = || -> Result<(), Failure> {
            let host = self.client.host();
            let response = self.client.ask(&url, Ask::Range(there.get(), Some(end)))?;
            if there.get() > 0 && begins_at(&response, there.get(), remote.bytes)? != there.get() {
                if from > 0 {
                    return Err(protocol(&host, "the whole of a file where a part was asked for"));
                }
                there.set(0);
            }
            let mut body = response.into_body().into_reader();
            let mut piece = vec![0; PIECE_BYTES];
            while there.get() < end {
                let wanted = (end - there.get()).min(PIECE_BYTES as u64) as usize;
                match body.read(&mut piece[..wanted]) {
                    Ok(0) => return Err(Failure::Network { host, why: "the connection ended early".into() }),
                    Ok(read) => {
                        file.write_all_at(&piece[..read], there.get()).map_err(io(path, "write"))?;
                        there.set(there.get() + read as u64);
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(Failure::Network { host, why: error.to_string() }),
                }
            }
            Ok(())
        };
        self.client.patiently(&version.name, stop, || {
            let before = there.get();
            receive().map_err(|failure| (failure, there.get() > before))
        })
    }
}
