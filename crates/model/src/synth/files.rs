//! Shards on their way to the drive: several threads make and write a block each, in the order of the files.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use outpour_store::StoreError;
use outpour_store::write::{BLOCK_BYTES, Block, NewFile};
use serde_json::{Map, Value, json};

use super::format::Stored;
use super::gguf;
use super::values::{Normals, key};
use crate::config::ModelError;

/// Bytes of weights in each safetensors file, unless one tensor is larger, where nothing else was asked for.
pub(super) const SHARD_BYTES: u64 = 4 << 30;
/// The name of a model's GGUF file.
const GGUF_FILE: &str = "model.gguf";
/// Threads that make and write blocks: while one waits for the drive others compute.
const THREADS: usize = 4;
/// How often progress is told.
const TICK: Duration = Duration::from_millis(50);

/// The name of part `number`, from 0 on, of a model's GGUF files.
pub(super) fn gguf_name(number: usize, parts: usize) -> String {
    match parts {
        1 => GGUF_FILE.to_owned(),
        _ => format!("model-{:05}-of-{parts:05}.gguf", number + 1),
    }
}

/// Tensors in their order, in groups of about so many bytes.
fn groups(stored: Vec<Stored>, group_bytes: u64) -> Vec<Vec<Stored>> {
    let (mut groups, mut bytes) = (vec![Vec::new()], 0);
    for tensor in stored {
        if bytes > 0 && bytes + tensor.bytes() > group_bytes {
            groups.push(Vec::new());
            bytes = 0;
        }
        bytes += tensor.bytes();
        groups.last_mut().expect("invariant: there is one from the start").push(tensor);
    }
    groups
}

/// A file of tensors.
pub(super) struct Shard {
    /// Its name in the folder.
    pub name: String,
    /// Length and JSON.
    header: Vec<u8>,
    /// With their first byte within the file, ascending.
    tensors: Vec<(u64, Stored)>,
    bytes: u64,
}

impl Shard {
    /// Tensors in their order, in shards of about `shard_bytes`. `padded`: headers end on a multiple of 8 bytes, as
    /// the safetensors library writes them and MLX does not.
    pub fn cut(stored: Vec<Stored>, padded: bool, shard_bytes: u64) -> Vec<Shard> {
        let groups = groups(stored, shard_bytes).into_iter();
        let mut shards: Vec<Shard> = groups.map(|tensors| Shard::new(tensors, padded)).collect();
        let count = shards.len();
        for (i, shard) in shards.iter_mut().enumerate() {
            shard.name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
        }
        shards
    }

    /// The GGUF files of a model, of about `shard_bytes`; the first under the name that it has until it is whole.
    pub fn gguf(metadata: &Map<String, Value>, stored: Vec<Stored>, shard_bytes: u64) -> Vec<Shard> {
        let (tensors, groups) = (stored.len(), groups(stored, shard_bytes));
        let parts = groups.len();
        let shard = |(number, stored): (usize, Vec<Stored>)| {
            let (header, starts) = gguf::header(&gguf::of_part(metadata, number, parts, tensors), &stored);
            let end =
                starts.last().zip(stored.last()).map_or(header.len() as u64, |(start, last)| start + last.bytes());
            let name = gguf_name(number, parts);
            let name = if number == 0 { part(&name) } else { name };
            let tensors = starts.into_iter().zip(stored).collect();
            Shard { name, header, tensors, bytes: end.next_multiple_of(gguf::ALIGN) }
        };
        groups.into_iter().enumerate().map(|(number, stored)| shard((number, stored))).collect()
    }

    fn new(tensors: Vec<Stored>, padded: bool) -> Shard {
        let mut entries = Map::new();
        entries.insert("__metadata__".into(), json!({"format": if padded { "pt" } else { "mlx" }}));
        let mut at = 0;
        for tensor in &tensors {
            let end = at + tensor.bytes();
            let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [at, end]});
            entries.insert(tensor.name.clone(), entry);
            at = end;
        }
        let mut json = Value::Object(entries).to_string().into_bytes();
        if padded {
            json.resize(json.len().next_multiple_of(8), b' ');
        }
        let header = [&(json.len() as u64).to_le_bytes()[..], &json].concat();
        let mut at = header.len() as u64;
        let place = |tensor: Stored| {
            let start = at;
            at += tensor.bytes();
            (start, tensor)
        };
        let tensors = tensors.into_iter().map(place).collect();
        Shard { name: String::new(), header, tensors, bytes: at }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its tensors by themselves.
    pub fn into_tensors(self) -> impl Iterator<Item = Stored> {
        self.tensors.into_iter().map(|(_, tensor)| tensor)
    }

    pub fn tensors(&self) -> impl Iterator<Item = &Stored> {
        self.tensors.iter().map(|(_, tensor)| tensor)
    }

    /// Makes the file's bytes from `offset` on.
    fn fill(&self, offset: u64, out: &mut [u8], seed: u64, normals: &Normals) {
        // Between tensors there may be gaps.
        out.fill(0);
        let end = offset + out.len() as u64;
        let header = self.header.len() as u64;
        if offset < header {
            let bytes = (end.min(header) - offset) as usize;
            out[..bytes].copy_from_slice(&self.header[offset as usize..][..bytes]);
        }
        let first = self.tensors.partition_point(|(start, tensor)| start + tensor.bytes() <= offset);
        for (start, tensor) in self.tensors[first..].iter().take_while(|(start, _)| *start < end) {
            let (from, to) = (offset.max(*start), end.min(start + tensor.bytes()));
            let bytes = &mut out[(from - offset) as usize..(to - offset) as usize];
            tensor.content.fill(key(seed, &tensor.name), from - start, bytes, normals);
        }
    }
}

/// A folder that is no model yet. What was put there is removed, unless it is finished.
pub(super) struct Unfinished {
    dir: PathBuf,
    /// Folders that were made for it, the outermost first.
    made: Vec<PathBuf>,
    written: Vec<PathBuf>,
    finished: bool,
}

impl Unfinished {
    pub fn begin(dir: &Path) -> Result<Unfinished, ModelError> {
        let missing = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists());
        let mut made: Vec<PathBuf> = missing.map(Path::to_owned).collect();
        made.reverse();
        fs::create_dir_all(dir).map_err(|source| StoreError::Io { path: dir.to_owned(), action: "write", source })?;
        Ok(Unfinished { dir: dir.to_owned(), made, written: Vec::new(), finished: false })
    }

    /// The path of a file that is about to be written.
    fn add(&mut self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        self.written.push(path.clone());
        path
    }

    pub fn write(&mut self, name: &str, text: &str) -> Result<(), ModelError> {
        let path = self.add(name);
        Ok(fs::write(&path, text).map_err(|source| failed(&path, source))?)
    }

    /// Gives the file `name`, which was written as its [`part`], its name: the folder is a model now.
    pub fn finish(mut self, name: &str) -> Result<(), ModelError> {
        let (part, path) = (self.dir.join(part(name)), self.dir.join(name));
        let publish = || {
            fs::File::open(&part)?.sync_all()?;
            fs::rename(&part, &path)
        };
        publish().map_err(|source| failed(&path, source))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed has no config.json, and is no model.
            self.written.iter().for_each(|path| drop(fs::remove_file(path)));
            self.made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
        }
    }
}

/// What a file is called until it is whole.
pub(super) fn part(name: &str) -> String {
    format!("{name}.part")
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), action: "write", source }
}

/// Writes files that have a header and their length, and no data.
pub(super) fn outline_weights(shards: &[Shard], unfinished: &mut Unfinished) -> Result<(), ModelError> {
    for shard in shards {
        let path = unfinished.add(&shard.name);
        let write = || {
            fs::write(&path, &shard.header)?;
            fs::OpenOptions::new().write(true).open(&path)?.set_len(shard.bytes)
        };
        write().map_err(|source| failed(&path, source))?;
    }
    Ok(())
}

/// Writes the shards' files.
pub(super) fn write_weights(
    shards: &[Shard],
    unfinished: &mut Unfinished,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, ModelError> {
    let mut files = Vec::with_capacity(shards.len());
    for shard in shards {
        let path = unfinished.add(&shard.name);
        let file = NewFile::create(&path, shard.bytes).map_err(|source| failed(&path, source))?;
        files.push((path, file));
    }
    let work = Work {
        shards,
        files: &files,
        seed,
        normals: Normals::new(),
        next: Mutex::new((0, 0)),
        written: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let total = shards.iter().map(Shard::bytes).sum();
    let flow = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| work.run())).collect();
        let mut flow = ControlFlow::Continue(());
        while threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::park_timeout(TICK);
            flow = progress(work.written.load(Ordering::Relaxed), total);
            if flow.is_break() {
                work.stop.store(true, Ordering::Relaxed);
                break;
            }
        }
        for thread in threads {
            match thread.join() {
                Ok(written) => written?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, StoreError>(flow)
    })?;
    if flow.is_continue() {
        for (path, file) in files {
            file.finish().map_err(|source| failed(&path, source))?;
        }
    }
    Ok(flow)
}

/// What the threads share.
struct Work<'a> {
    shards: &'a [Shard],
    files: &'a [(PathBuf, NewFile)],
    seed: u64,
    normals: Normals,
    /// File and block.
    next: Mutex<(usize, u64)>,
    written: AtomicU64,
    stop: AtomicBool,
}

impl Work<'_> {
    fn next(&self) -> Option<(usize, u64)> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let mut next = self.next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (file, block) = *next;
        let blocks = self.files.get(file)?.1.blocks();
        *next = if block + 1 < blocks { (file, block + 1) } else { (file + 1, 0) };
        Some((file, block))
    }

    /// Makes and writes blocks until there are no more.
    fn run(&self) -> Result<(), StoreError> {
        let mut block = Block::default();
        while let Some((file, number)) = self.next() {
            let (path, new) = &self.files[file];
            let offset = number * BLOCK_BYTES as u64;
            let bytes = (new.bytes() - offset).min(BLOCK_BYTES as u64) as usize;
            self.shards[file].fill(offset, &mut block.bytes()[..bytes], self.seed, &self.normals);
            if let Err(source) = new.write(number, &mut block) {
                self.stop.store(true, Ordering::Relaxed);
                return Err(failed(path, source));
            }
            self.written.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
