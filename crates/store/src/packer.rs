//! Writes a [pack](crate::pack), file by file. The manifest grows under another name and tells what is whole, so that a
//! writer that was killed goes on where it was, and a pack that is not finished is never taken for a whole one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::bytes::Bytes;
use crate::checkpoint::safetensors::stored_type;
use crate::checkpoint::{Checkpoint, SourceFile};
use crate::checksums::{Area, Mismatch, checksum};
use crate::layout::{ExpertId, ExpertLayout};
use crate::pack::{CUT_BYTES, MANIFEST, Manifest, Origin, PART_ALIGN, PackFile, PackTensor, UNFINISHED, row_cut};
use crate::read::whole::read_whole;
use crate::write::{ALIGN, Aligned, NewFile, free_bytes};
use crate::{Result, StoreError, parallel};

/// The manifest while it is written.
const BEING_WRITTEN: &str = "outpour-pack.unfinished.json.tmp";
/// Left free on the drive beside the pack: file systems slow down when they are full, and manifests take some.
const MARGIN_BYTES: u64 = 16 << 20;
/// What a file beside the weights may have.
const COPY_BYTES_MAX: u64 = 256 << 20;
/// Files beside the weights that belong to a model: config, tokenizer, templates, licence.
const COPIED: [&str; 6] = ["json", "jinja", "txt", "model", "tiktoken", "md"];

/// A part of an expert as it is packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Name of the tensor that stands for this part of all experts of a layer.
    pub name: String,
    /// As safetensors name it.
    pub dtype: String,
    /// Dimensions, for one expert.
    pub shape: [usize; 2],
}

impl PartSpec {
    fn bytes(&self) -> Result<u64> {
        let bits = stored_type(&self.dtype).1.ok_or_else(|| unknown_type(&self.name, &self.dtype))?;
        Ok(self.shape.iter().map(|&dim| dim as u64).product::<u64>() * bits / 8)
    }
}

/// Makes an expert's packed parts of those stored: the layer, what was read, and where to put what is packed.
pub type Convert<'a> = dyn Fn(usize, &[Vec<u8>], &mut [Vec<u8>]) + Sync + 'a;

/// What to pack.
pub struct Job<'a> {
    /// The model.
    pub checkpoint: &'a Checkpoint,
    /// Where its experts are.
    pub layout: &'a ExpertLayout,
    /// How they will be stored, in words.
    pub experts: String,
    /// File and first byte of the tensors of which single rows are read where memory is short.
    pub row_tensors: &'a [(usize, u64)],
    /// By layer, the parts of an expert in the order in which they are packed; none where a layer has no experts.
    pub layers: Vec<Vec<PartSpec>>,
    /// How to make them; without, they are what is stored.
    pub convert: Option<&'a Convert<'a>>,
}

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// All of the pack.
    pub bytes: u64,
    /// Of those, written now; the rest was there.
    pub written: u64,
    /// Whether it is whole, or was broken off.
    pub flow: ControlFlow<()>,
}

/// Where the bytes of a file come from.
enum Content {
    /// Each piece from these bytes of a source file.
    Trunk(Vec<Piece>),
    /// The experts of this layer.
    Experts(usize),
    /// A whole file.
    Copy(PathBuf),
}

struct Piece {
    tensor: String,
    file: usize,
    offset: u64,
    bytes: usize,
}

/// What a thread works with.
struct Memory {
    /// Read from the source.
    source: Aligned,
    parts: Vec<Vec<u8>>,
    made: Vec<Vec<u8>>,
    /// To be written.
    record: Aligned,
}

/// Packs a model into the folder `out`. `progress` is told bytes written and bytes in all, and may break off.
///
/// # Errors
/// When `out` holds something else, the drive is full, or a file cannot be read or written. What was finished stays, and the
/// same job goes on from there.
pub fn pack(job: &Job, out: &Path, progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>) -> Result<Packed> {
    let (plan, contents) = job.plan()?;
    if lies_in(out, job.checkpoint.dir()) {
        return Err(about(out, "it lies in the model's own folder; name one outside"));
    }
    if out.exists() && !out.is_dir() {
        return Err(about(out, "is no folder; name one, or what is not there yet"));
    }
    let io = |action| move |source| StoreError::Io { path: out.to_owned(), action, source };
    fs::create_dir_all(out).map_err(io("make the folder"))?;
    let folder = File::open(out).map_err(io("open"))?;
    if let Err(fs::TryLockError::WouldBlock) = folder.try_lock() {
        return Err(about(out, "another outpour is packing into it; wait until it is done"));
    }
    let mut manifest = begun(out, &plan)?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    if out.join(MANIFEST).exists() {
        let whole = |file: &&PackFile| fs::metadata(out.join(&file.name)).is_ok_and(|found| found.len() == file.bytes);
        if let Some(damaged) = manifest.files.iter().find(|file| !whole(file)) {
            return Err(about(
                out,
                &format!("its {} is missing or cut short; remove this folder, and pack again", damaged.name),
            ));
        }
        return Ok(Packed { bytes, written: 0, flow: ControlFlow::Continue(()) });
    }
    let packing = Packing { job, out, folder, written: AtomicU64::new(0) };
    packing.make_room(&manifest)?;
    packing.save(&manifest)?;
    let there: u64 = manifest.files.iter().filter(|file| file.is_written()).map(|file| file.bytes).sum();
    for (number, content) in contents.iter().enumerate() {
        if manifest.files[number].is_written() {
            continue;
        }
        let mut tick = |written: u64| progress(there + written, bytes);
        let sums = packing.write(&manifest.files[number], content, &mut tick);
        let sums = sums.and_then(|sums| job.checkpoint.check_unchanged().map(|()| sums));
        let left: u64 = manifest.files.iter().filter(|file| !file.is_written()).map(|file| file.bytes).sum();
        match sums {
            Ok(Some(sums)) => manifest.files[number].written(&sums),
            failed_or_stopped => {
                // Its room is wanted, and its bytes are begun anew in any case.
                let _ = fs::remove_file(out.join(&manifest.files[number].name));
                failed_or_stopped.map_err(|error| full(error, out, left))?;
                let written = packing.written.into_inner();
                return Ok(Packed { bytes, written, flow: ControlFlow::Break(()) });
            }
        }
        packing.save(&manifest).map_err(|error| full(error, out, left))?;
    }
    packing.finish()?;
    Ok(Packed { bytes, written: packing.written.into_inner(), flow: ControlFlow::Continue(()) })
}

/// What of the plan is there already.
fn begun(out: &Path, plan: &Manifest) -> Result<Manifest> {
    for name in [MANIFEST, UNFINISHED] {
        let path = out.join(name);
        if !path.exists() {
            continue;
        }
        let there = Manifest::read(&path, name == MANIFEST)?;
        if there.plan() != *plan {
            let other = "it holds a pack of another model, of files that changed since, with other flags, or of an earlier outpour; name a new folder, or remove this one";
            return Err(about(out, other));
        }
        return Ok(there);
    }
    let entries =
        fs::read_dir(out).map_err(|source| StoreError::Io { path: out.to_owned(), action: "list", source })?;
    match entries.flatten().find(|entry| entry.file_name() != BEING_WRITTEN) {
        Some(entry) => {
            let problem =
                format!("the folder holds {} and no pack; name a new one", entry.file_name().to_string_lossy());
            Err(about(out, &problem))
        }
        None => Ok(plan.clone()),
    }
}

/// Whether `out`, which need not be there yet, is `dir` or lies in it.
fn lies_in(out: &Path, dir: &Path) -> bool {
    let out = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let there = out.ancestors().find_map(|ancestor| ancestor.canonicalize().ok());
    there.zip(dir.canonicalize().ok()).is_some_and(|(there, dir)| there.starts_with(dir))
}

fn about(out: &Path, problem: &str) -> StoreError {
    StoreError::Other(format!("{}: {problem}", out.display()))
}

fn unknown_type(tensor: &str, dtype: &str) -> StoreError {
    StoreError::Other(format!("tensor {tensor} has the type {dtype}, which a pack cannot hold"))
}

/// Says of a full drive what to do.
fn full(error: StoreError, out: &Path, left: u64) -> StoreError {
    let free = free_bytes(out).unwrap_or(0);
    match error {
        StoreError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
        {
            if free < left + MARGIN_BYTES {
                return no_room(out, left, free);
            }
            about(out, &format!("the drive takes no more ({source}): free some, or its quota; {GOES_ON}"))
        }
        StoreError::Io { path, source, .. } if source.kind() == io::ErrorKind::FileTooLarge => about(
            &path,
            &format!(
                "may not grow further ({source}): raise the limit (`ulimit -f`), or name a folder on another file system; {GOES_ON}"
            ),
        ),
        error => error,
    }
}

const GOES_ON: &str = "run the same again, and it goes on where it was";

fn no_room(out: &Path, needed: u64, free: u64) -> StoreError {
    let (needed, margin, free) = (Bytes(needed), Bytes(MARGIN_BYTES), Bytes(free));
    let sizes = format!("{needed} more are needed and {margin} beside them, and {free} are free");
    about(out, &format!("the drive is full: {sizes}; free some; {GOES_ON}"))
}

impl Job<'_> {
    /// The files to be written, and where their bytes come from.
    fn plan(&self) -> Result<(Manifest, Vec<Content>)> {
        let (mut files, mut contents) = (Vec::new(), Vec::new());
        let (trunk, pieces) = self.trunk()?;
        files.push(trunk);
        contents.push(Content::Trunk(pieces));
        for (layer, parts) in self.layers.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            files.push(self.experts_file(layer, parts)?);
            contents.push(Content::Experts(layer));
        }
        for path in self.copied()? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let metadata = fs::metadata(&path);
            let bytes =
                metadata.map_err(|source| StoreError::Io { path: path.clone(), action: "examine", source })?.len();
            files.push(PackFile { name, bytes, record_bytes: None, tensors: Vec::new(), xxh3: String::new() });
            contents.push(Content::Copy(path));
        }
        let origin = |file: &std::sync::Arc<SourceFile>| {
            let (bytes, modified) = file.stamp();
            let name = file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
            Origin { name, bytes, modified }
        };
        let made_from = self.checkpoint.files().iter().map(origin).collect();
        Ok((Manifest::new(self.experts.clone(), made_from, files), contents))
    }

    /// Every tensor that holds no expert, in the order of the source's files.
    fn trunk(&self) -> Result<(PackFile, Vec<Piece>)> {
        let mut tensors: Vec<_> = self.checkpoint.tensors().collect();
        tensors.sort_by_key(|(name, info)| (info.file, info.offset, *name));
        let mut of_experts = vec![false; tensors.len()];
        for (layer, _) in self.layers.iter().enumerate().filter(|(_, parts)| !parts.is_empty()) {
            for expert in 0..self.layout.experts(layer) {
                for extent in self.layout.extents(ExpertId { layer: layer as u32, expert: expert as u32 }) {
                    let place = (extent.file as usize, extent.offset);
                    let behind = tensors.partition_point(|(_, info)| (info.file, info.offset) <= place);
                    of_experts[behind - 1] = true;
                }
            }
        }
        let (mut packed, mut pieces, mut at) = (Vec::new(), Vec::new(), 0);
        for ((name, info), _) in tensors.iter().zip(of_experts).filter(|((_, info), of)| !of && info.stride.is_none()) {
            let dtype = info.dtype.to_string();
            stored_type(&dtype).1.ok_or_else(|| unknown_type(name, &dtype))?;
            let cut = self.row_tensors.contains(&(info.file, info.offset)).then(|| row_cut(info.bytes));
            packed.push(PackTensor { name: (*name).to_owned(), dtype, shape: info.shape.clone(), offset: at, cut });
            let stored = Area { offset: info.offset, bytes: info.bytes, step: CUT_BYTES };
            pieces.extend(stored.records().map(|piece| Piece {
                tensor: (*name).to_owned(),
                file: info.file,
                offset: piece.start,
                bytes: (piece.end - piece.start) as usize,
            }));
            at += info.bytes.next_multiple_of(ALIGN as u64);
        }
        Ok((PackFile { bytes: at, tensors: packed, ..empty("trunk.weights") }, pieces))
    }

    fn experts_file(&self, layer: usize, parts: &[PartSpec]) -> Result<PackFile> {
        let experts = self.layout.experts(layer);
        let (mut tensors, mut at) = (Vec::new(), 0);
        for part in parts {
            let shape = [&[experts], &part.shape[..]].concat();
            let (name, dtype) = (part.name.clone(), part.dtype.clone());
            tensors.push(PackTensor { name, dtype, shape, offset: at, cut: None });
            at = (at + part.bytes()?).next_multiple_of(PART_ALIGN as u64);
        }
        let record = at.next_multiple_of(ALIGN as u64);
        let bytes = record * experts as u64;
        Ok(PackFile { bytes, record_bytes: Some(record), tensors, ..empty(&format!("layer-{layer:03}.experts")) })
    }

    /// Config, tokenizer and the like, config.json last.
    fn copied(&self) -> Result<Vec<PathBuf>> {
        let dir = self.checkpoint.dir();
        let io = |source| StoreError::Io { path: dir.to_owned(), action: "list", source };
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = name == MANIFEST || name.ends_with(".safetensors.index.json") || name.starts_with('.');
            let known = path.extension().and_then(|end| end.to_str()).is_some_and(|end| COPIED.contains(&end));
            if path.is_file() && !ours && (known || name.starts_with("LICENSE")) {
                paths.push(path);
            }
        }
        paths.sort_by_key(|path| (path.ends_with("config.json"), path.clone()));
        Ok(paths)
    }
}

fn empty(name: &str) -> PackFile {
    PackFile { name: name.to_owned(), bytes: 0, record_bytes: None, tensors: Vec::new(), xxh3: String::new() }
}

/// A pack on its way to the drive.
struct Packing<'a> {
    job: &'a Job<'a>,
    out: &'a Path,
    /// Locked, so that nobody else packs into it.
    folder: File,
    written: AtomicU64,
}

impl Packing<'_> {
    /// Removes what was begun and is not whole, and checks that the rest fits the drive.
    fn make_room(&self, manifest: &Manifest) -> Result<()> {
        let left = || manifest.files.iter().filter(|file| !file.is_written());
        for file in left() {
            let path = self.out.join(&file.name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed(&path, source)),
                _ => {}
            }
        }
        let needed = left().map(|file| file.bytes).sum::<u64>();
        let free = free_bytes(self.out).map_err(|source| failed(self.out, source))?;
        if free < needed + MARGIN_BYTES { Err(no_room(self.out, needed, free)) } else { Ok(()) }
    }

    /// Puts the manifest in place of the one before, on the drive.
    fn save(&self, manifest: &Manifest) -> Result<()> {
        let (part, path) = (self.out.join(BEING_WRITTEN), self.out.join(UNFINISHED));
        let write = || {
            let mut file = File::create(&part)?;
            serde_json::to_writer(io::BufWriter::new(&file), manifest)?;
            file.flush()?;
            file.sync_all()?;
            fs::rename(&part, &path)?;
            self.folder.sync_all()
        };
        write().map_err(|source| failed(&path, source))
    }

    /// All files are whole: the folder is a pack from now on.
    fn finish(&self) -> Result<()> {
        let path = self.out.join(MANIFEST);
        fs::rename(self.out.join(UNFINISHED), &path)
            .and_then(|()| self.folder.sync_all())
            .map_err(|source| failed(&path, source))
    }

    /// Writes a file; gives the checksums of its records, or nothing when `tick`, which is told bytes written, broke off.
    fn write(
        &self,
        file: &PackFile,
        content: &Content,
        tick: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<Option<Vec<u64>>> {
        let path = self.out.join(&file.name);
        if let Content::Copy(source) = content {
            return self.copy(file, source, &path).map(Some);
        }
        let pieces = file.pieces();
        let sums: Vec<OnceLock<Vec<u64>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        let new = NewFile::create(&path, file.bytes).map_err(|source| failed(&path, source))?;
        let align = self.job.checkpoint.files().iter().map(|file| file.align()).max().unwrap_or(ALIGN);
        let memory =
            || Memory { source: Aligned::new(align), parts: Vec::new(), made: Vec::new(), record: Aligned::new(ALIGN) };
        let work = |number: usize, memory: &mut Memory| {
            let piece = &pieces[number];
            let bytes = piece.bytes as usize;
            match content {
                Content::Trunk(sources) => self.fill_piece(&sources[number], memory)?,
                Content::Experts(layer) => {
                    let id = ExpertId { layer: *layer as u32, expert: number as u32 };
                    self.fill_expert(id, file, bytes, memory)?;
                }
                Content::Copy(_) => unreachable!("invariant: copies have returned"),
            }
            let whole = memory.record.bytes(bytes.next_multiple_of(ALIGN));
            new.write_at(piece.offset, whole).map_err(|source| failed(&path, source))?;
            let sum = |record: Range<u64>| {
                checksum(&whole[(record.start - piece.offset) as usize..(record.end - piece.offset) as usize])
            };
            sums[number].set(piece.records().map(sum).collect()).expect("invariant: a piece is written once");
            self.written.fetch_add(whole.len() as u64, Ordering::Relaxed);
            Ok(())
        };
        let flow = parallel::each(pieces.len(), memory, work, &mut || tick(self.written.load(Ordering::Relaxed)))?;
        if flow.is_break() {
            return Ok(None);
        }
        new.finish().map_err(|source| failed(&path, source))?;
        Ok(Some(sums.into_iter().flat_map(|sums| sums.into_inner().unwrap_or_default()).collect()))
    }

    fn copy(&self, file: &PackFile, source: &Path, path: &Path) -> Result<Vec<u64>> {
        let bytes = read_whole(source, COPY_BYTES_MAX)?;
        if bytes.len() as u64 != file.bytes {
            let change = format!("{} bytes became {}", file.bytes, bytes.len());
            return Err(StoreError::Changed { path: source.to_owned(), change });
        }
        let packed =
            self.job.checkpoint.pack().and_then(|pack| pack.files.iter().find(|known| known.name == file.name));
        if let Some(packed) = packed {
            let whole = if packed.bytes == file.bytes { Ok(()) } else { Err(Mismatch { offset: 0 }) };
            let checked = whole.and_then(|()| packed.checksums().check(0, &bytes));
            checked.map_err(|damage| StoreError::Malformed {
                path: source.to_owned(),
                problem: io::Error::from(damage).to_string(),
            })?;
        }
        let write = || {
            let mut new = File::create(path)?;
            new.write_all(&bytes)?;
            new.sync_all()
        };
        write().map_err(|source| failed(path, source))?;
        self.written.fetch_add(file.bytes, Ordering::Relaxed);
        let records =
            file.pieces().into_iter().map(|piece| piece.offset as usize..(piece.offset + piece.bytes) as usize);
        Ok(records.map(|record| checksum(&bytes[record])).collect())
    }

    fn fill_piece(&self, piece: &Piece, memory: &mut Memory) -> Result<()> {
        let source = self.read(piece.file, piece.offset, piece.bytes, &piece.tensor, &mut memory.source)?;
        let record = memory.record.bytes(piece.bytes.next_multiple_of(ALIGN));
        record[..piece.bytes].copy_from_slice(source);
        record[piece.bytes..].fill(0);
        Ok(())
    }

    /// Puts an expert's parts at their places in its record, and zeros between.
    fn fill_expert(&self, id: ExpertId, file: &PackFile, bytes: usize, memory: &mut Memory) -> Result<()> {
        let extents = self.job.layout.extents(id);
        memory.parts.resize_with(extents.len(), Vec::new);
        // Whole, as when it is used: then the checksum of a packed one can be compared.
        let place = self.job.layout.place(id, self.job.checkpoint.files());
        for run in place.runs() {
            let what = format!("expert {} of layer {}", id.expert, id.layer);
            let source = self.read(run.file, run.offset, run.needed, &what, &mut memory.source)?;
            for ((part, at), extent) in memory.parts.iter_mut().zip(place.parts()).zip(extents) {
                if (run.at..run.at + run.bytes).contains(at) {
                    part.clear();
                    part.extend_from_slice(&source[at - run.at..][..extent.bytes as usize]);
                }
            }
        }
        let parts = match self.job.convert {
            Some(convert) => {
                memory.made.resize_with(file.tensors.len(), Vec::new);
                convert(id.layer as usize, &memory.parts, &mut memory.made);
                &memory.made
            }
            None => &memory.parts,
        };
        let (record, mut at) = (memory.record.bytes(bytes), 0);
        for (part, tensor) in parts.iter().zip(&file.tensors) {
            let start = tensor.offset as usize;
            record[at..start].fill(0);
            at = start + part.len();
            record[start..at].copy_from_slice(part);
        }
        record[at..].fill(0);
        Ok(())
    }

    fn read<'m>(
        &self,
        number: usize,
        offset: u64,
        bytes: usize,
        what: &str,
        memory: &'m mut Aligned,
    ) -> Result<&'m [u8]> {
        let file = &self.job.checkpoint.files()[number];
        file.read(offset, bytes, memory).map_err(|why| {
            // That the file was cut short says more than that a read of it came back short.
            let changed = file.check_unchanged().err();
            changed.unwrap_or_else(|| StoreError::Read {
                path: file.path().to_owned(),
                what: what.to_owned(),
                offset,
                bytes,
                why: why.to_string(),
            })
        })
    }
}

fn failed(path: &Path, source: io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), action: "write", source }
}
