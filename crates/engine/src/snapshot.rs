//! States of token prefixes on a drive, found again by the hash of the tokens, also after a restart.
//!
//! A prefix is kept as records, each a sealed file: its full blocks, which all prefixes share that begin with the same tokens,
//! and the rest of its state. A record's name is the hash of all tokens up to its end, of the model and of its numerics, so
//! that a state is never taken for another one. What was not used for longest makes room. A damaged record is said once,
//! removed, and computed anew.
//!
//! | file | content |
//! |---|---|
//! | `<hash>.block` | one block of positions, as layers that see all of the past keep them |
//! | `<hash>-<tokens>.rest` | what [`Engine::save`] writes of a state of so many tokens, without its full blocks |

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use outpour_model::state::{BLOCK_TOKENS, BlockSource, Saved, State, StateLayout};
use outpour_model::{Model, ModelError};
use outpour_store::StoreError;
use outpour_store::bytes::Bytes;
use outpour_store::sealed::{SEAL_BYTES, SealedReader, SealedWriter, UNDER_WAY, WINDOW_BYTES};
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::error::EngineError;
use crate::observe::SequenceId;

/// What a file takes on a drive is a multiple of this.
const FILE_BLOCK_BYTES: u64 = 4096;
/// A file under way that is older was left by a process that was killed.
const UNDER_WAY_MAX: Duration = Duration::from_secs(600);

impl Engine {
    /// Names the model, its numerics, and the version whose arithmetic made a state.
    fn state_identity(&self) -> String {
        format!("outpour {}, {}", env!("CARGO_PKG_VERSION"), self.identity())
    }

    fn layout(&self) -> &StateLayout {
        self.model.state_layout()
    }

    /// Writes a sequence's state.
    ///
    /// # Errors
    /// When `out` does.
    pub fn save(&self, id: SequenceId, out: &mut dyn Write) -> io::Result<()> {
        self.save_rest(id, 0, out)
    }

    fn save_rest(&self, id: SequenceId, blocks_elsewhere: usize, out: &mut dyn Write) -> io::Result<()> {
        self.states[id.0].save(&self.state_identity(), self.layout(), &*self.ops, blocks_elsewhere, out)
    }

    fn save_block(&self, id: SequenceId, index: usize, out: &mut dyn Write) -> io::Result<()> {
        let tensor = self.states[id.0].full_block(index);
        let mut bytes = vec![0; tensor.bytes()];
        self.ops.fetch(tensor, &mut bytes).wait();
        out.write_all(&bytes)
    }

    /// Reads a sequence's state back, in place of the one it has.
    ///
    /// # Errors
    /// When it is damaged, or of another model or other numerics.
    pub fn restore(&mut self, id: SequenceId, input: &mut dyn Read) -> Result<(), EngineError> {
        self.restore_rest(id, input, &mut |_, _| Err(io::Error::other("some of its blocks are not in it")))
    }

    fn restore_rest(&mut self, id: SequenceId, rest: &mut dyn Read, block: BlockSource) -> Result<(), EngineError> {
        self.truncate(id, 0);
        let (identity, layout) = (self.state_identity(), self.model.state_layout());
        let (residency, saved) = (self.experts.residency(), Saved { rest, block });
        self.states[id.0] = State::load(&identity, layout, &self.blocks, residency, &*self.ops, self.plan.ctx, saved)?;
        Ok(())
    }

    fn restore_blocks(&mut self, id: SequenceId, count: usize, block: BlockSource) -> Result<(), EngineError> {
        self.truncate(id, 0);
        let layout = self.model.state_layout();
        let residency = self.experts.residency();
        self.states[id.0] = State::of_blocks(count, layout, &self.blocks, residency, &*self.ops, block)?;
        Ok(())
    }
}

/// States on a drive.
pub struct Snapshots {
    dir: PathBuf,
    /// Locked, so that no other process counts and removes the same files.
    _lock: fs::File,
    bytes_max: u64,
    /// By file name.
    records: HashMap<String, Record>,
    bytes: u64,
    /// Counts uses.
    clock: u64,
    problems: Vec<String>,
    /// The last record could not be written.
    failing: bool,
}

struct Record {
    bytes: u64,
    used: u64,
    /// Tokens of the prefix, of a rest.
    tokens: Option<usize>,
}

/// A state on its way to the drive, a record at a time.
pub struct Saving {
    blocks: Vec<String>,
    rest: String,
    tokens: usize,
    /// Records that are done.
    done: usize,
}

/// The hashes of a prefix's beginnings.
struct Chain {
    /// Of the first 0, 64, 128 … tokens.
    keys: Vec<[u8; 32]>,
}

impl Chain {
    fn of(identity: &str, tokens: &[u32]) -> Chain {
        let mut keys = vec![Sha256::digest(identity).into()];
        for block in tokens.chunks_exact(BLOCK_TOKENS) {
            let before = *keys.last().expect("invariant: there is one to begin with");
            keys.push(hash(before, block));
        }
        Chain { keys }
    }

    fn block(&self, index: usize) -> String {
        format!("{}.block", hex(&self.keys[index + 1]))
    }

    /// The name of the rest of the first `count` of `tokens`.
    fn rest(&self, tokens: &[u32], count: usize) -> String {
        let full = count / BLOCK_TOKENS;
        format!("{}-{count}.rest", hex(&hash(self.keys[full], &tokens[full * BLOCK_TOKENS..count])))
    }
}

fn hash(before: [u8; 32], tokens: &[u32]) -> [u8; 32] {
    let mut sum = Sha256::new_with_prefix(before);
    tokens.iter().for_each(|token| sum.update(token.to_le_bytes()));
    sum.finalize().into()
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The prefix of a prompt that the drive holds.
struct Found {
    tokens: usize,
    blocks: Vec<String>,
    rest: Option<String>,
}

impl Snapshots {
    /// Bytes that reading and writing states of such a model takes: a part of a state, and page cache.
    pub fn memory_bytes(model: &dyn Model) -> usize {
        let layout = model.state_layout();
        layout.slot_bytes().max().unwrap_or(0) + WINDOW_BYTES
    }

    /// States kept in `dir`, which is made if need be, in at most `bytes_max` bytes: what exceeds them is removed, the least
    /// recently used first.
    ///
    /// # Errors
    /// When the folder cannot be read and written to, or another process uses it.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Snapshots, EngineError> {
        let failed = |action| move |source| StoreError::Io { path: dir.to_owned(), action, source };
        // What was said to the model can be read from its states.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make the folder"))?;
        let lock = fs::File::open(dir).map_err(failed("open the folder"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(EngineError::StatesInUse { dir: dir.to_owned() }),
            Err(fs::TryLockError::Error(error)) => return Err(failed("lock the folder")(error).into()),
        }
        SealedWriter::create(&dir.join("try")).map_err(failed("write into the folder"))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed("read the folder"))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(metadata) = entry.metadata() else { continue };
            let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let old = modified.elapsed().is_ok_and(|age| age > UNDER_WAY_MAX);
            if name.starts_with(UNDER_WAY) && old {
                // That it cannot be removed costs some of the drive, and nothing else.
                let _ = fs::remove_file(entry.path());
            } else if metadata.is_file()
                && let Some(tokens) = tokens_of(&name)
            {
                found.push((modified, name, metadata.len().next_multiple_of(FILE_BLOCK_BYTES), tokens));
            }
        }
        found.sort();
        let mut snapshots = Snapshots {
            dir: dir.to_owned(),
            _lock: lock,
            bytes_max,
            records: HashMap::new(),
            bytes: 0,
            clock: 0,
            problems: Vec::new(),
            failing: false,
        };
        found.into_iter().for_each(|(_, name, bytes, tokens)| snapshots.note(name, bytes, tokens));
        snapshots.make_room(0);
        Ok(snapshots)
    }

    /// Bytes that the records take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What went wrong since this was asked last, one line each.
    pub fn take_problems(&mut self) -> Vec<String> {
        std::mem::take(&mut self.problems)
    }

    fn note(&mut self, name: String, bytes: u64, tokens: Option<usize>) {
        self.clock += 1;
        self.bytes += bytes;
        let before = self.records.insert(name, Record { bytes, used: self.clock, tokens });
        self.bytes -= before.map_or(0, |record| record.bytes);
    }

    fn forget(&mut self, name: &str) {
        if let Some(record) = self.records.remove(name) {
            self.bytes -= record.bytes;
        }
    }

    fn remove(&mut self, name: &str) {
        self.forget(name);
        // Another process may have removed it; one that cannot be removed is read and judged again after a restart.
        let _ = fs::remove_file(self.dir.join(name));
    }

    /// Removes the least recently used records until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) {
        while self.bytes + bytes > self.bytes_max {
            let oldest = self.records.iter().min_by_key(|(_, record)| record.used);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
            self.remove(&name);
        }
    }

    /// Notes that records were used: the first blocks last, as those behind them are worth nothing without them.
    fn touch(&mut self, blocks: &[String], rest: Option<&String>) {
        let now = SystemTime::now();
        for (i, name) in rest.into_iter().chain(blocks.iter().rev()).enumerate() {
            let Some(record) = self.records.get_mut(name) else { continue };
            self.clock += 1;
            record.used = self.clock;
            // After a restart the times tell the order; without them it is a worse one.
            let file = fs::File::open(self.dir.join(name));
            let _ = file.and_then(|file| file.set_modified(now + Duration::from_micros(i as u64)));
        }
    }

    /// The longest beginning of `tokens` that is here, without the last token, whose logits are wanted.
    fn find(&self, engine: &Engine, tokens: &[u32]) -> Option<Found> {
        let tokens = &tokens[..tokens.len().saturating_sub(1).min(engine.plan().ctx)];
        let chain = Chain::of(&engine.state_identity(), tokens);
        let layout = engine.layout();
        let full = layout.full_blocks(tokens.len());
        let blocks: Vec<String> =
            (0..full).map(|i| chain.block(i)).take_while(|name| self.records.contains_key(name)).collect();
        let lengths: BTreeSet<usize> = self.records.values().filter_map(|record| record.tokens).collect();
        let rests = lengths.range(1..=tokens.len()).rev().filter(|&&count| layout.full_blocks(count) <= blocks.len());
        let mut rests = rests.map(|&count| (count, chain.rest(tokens, count)));
        let rest = rests.find(|(_, name)| self.records.contains_key(name));
        let of_blocks = if layout.goes_back() { blocks.len() * BLOCK_TOKENS } else { 0 };
        match rest.filter(|(count, _)| *count > of_blocks) {
            Some((count, name)) => {
                let blocks = blocks[..layout.full_blocks(count)].to_vec();
                Some(Found { tokens: count, blocks, rest: Some(name) })
            }
            None => (of_blocks > 0).then_some(Found { tokens: of_blocks, blocks, rest: None }),
        }
    }

    /// A new sequence that holds the longest beginning of `tokens` that is here, and how many tokens these are. `None` where
    /// these are no more than `more_than`, or memory is short.
    pub fn restore(&mut self, engine: &mut Engine, tokens: &[u32], more_than: usize) -> Option<(SequenceId, usize)> {
        loop {
            let found = self.find(engine, tokens).filter(|found| found.tokens > more_than)?;
            let sequence = engine.open_sequence();
            let mut at = found.rest.clone().unwrap_or_default();
            let loaded = self.load(engine, sequence, &found, &mut at);
            match loaded {
                Ok(()) => {
                    self.touch(&found.blocks, found.rest.as_ref());
                    return Some((sequence, found.tokens));
                }
                Err(EngineError::Model(ModelError::NoRoom)) => {
                    engine.close_sequence(sequence);
                    return None;
                }
                Err(error) => {
                    engine.close_sequence(sequence);
                    let path = self.dir.join(&at);
                    if path.exists() {
                        let path = path.display();
                        self.problems.push(format!("{path}: {error}. It is removed, and its tokens are computed anew"));
                    }
                    self.remove(&at);
                }
            }
        }
    }

    /// Reads a state; `at` is the record being read.
    fn load(
        &self,
        engine: &mut Engine,
        sequence: SequenceId,
        found: &Found,
        at: &mut String,
    ) -> Result<(), EngineError> {
        let damaged = |error: io::Error| EngineError::damaged_state(&error);
        let (rest_name, dir) = (at.clone(), &self.dir);
        let mut block = |index: usize, bytes: &mut [u8]| {
            at.clone_from(&found.blocks[index]);
            let mut reader = SealedReader::open(&dir.join(&*at))?;
            reader.read_exact(bytes)?;
            reader.finish()?;
            at.clone_from(&rest_name);
            Ok(())
        };
        let Some(rest) = &found.rest else { return engine.restore_blocks(sequence, found.blocks.len(), &mut block) };
        let mut reader = SealedReader::open(&self.dir.join(rest)).map_err(damaged)?;
        engine.restore_rest(sequence, &mut reader, &mut block)?;
        reader.finish().map_err(damaged)?;
        if engine.tokens_done(sequence) != found.tokens {
            return Err(damaged(io::Error::other("it holds other tokens")));
        }
        Ok(())
    }

    /// Begins to keep the state of a sequence that holds `tokens`: see [`Snapshots::write_next`].
    pub fn begin(&self, engine: &Engine, tokens: &[u32]) -> Saving {
        let chain = Chain::of(&engine.state_identity(), tokens);
        let blocks = (0..engine.layout().full_blocks(tokens.len())).map(|i| chain.block(i)).collect();
        Saving { blocks, rest: chain.rest(tokens, tokens.len()), tokens: tokens.len(), done: 0 }
    }

    /// Writes the next record that is not here yet, of a sequence that holds what it did when saving began. Returns whether
    /// there may be a further one. That it cannot be written is a problem, and no error: see [`Snapshots::take_problems`].
    pub fn write_next(&mut self, engine: &Engine, sequence: SequenceId, saving: &mut Saving) -> bool {
        let (blocks, block_bytes) = (saving.blocks.len(), engine.layout().pools[0].block_bytes as u64);
        while let Some(record) = saving.blocks.get(saving.done).and_then(|name| self.records.get_mut(name)) {
            // It must not make room for those that follow it.
            self.clock += 1;
            record.used = self.clock;
            saving.done += 1;
        }
        let is_rest = saving.done == blocks;
        if saving.done > blocks || is_rest && self.records.contains_key(&saving.rest) {
            self.touch(&saving.blocks, Some(&saving.rest));
            return false;
        }
        let rest_bytes = engine.states[sequence.0].saved_bytes(engine.model.state_layout(), blocks);
        let whole = blocks as u64 * file_bytes(block_bytes) + file_bytes(rest_bytes);
        if whole > self.bytes_max {
            let (size, tokens) = (Bytes(self.bytes_max), saving.tokens);
            return self
                .fail(format!("{size} do not hold a state of {tokens} tokens: it is not kept"), "raise --state-size");
        }
        let (name, bytes) = match is_rest {
            true => (saving.rest.clone(), rest_bytes),
            false => (saving.blocks[saving.done].clone(), block_bytes),
        };
        self.make_room(file_bytes(bytes));
        let written = SealedWriter::create(&self.dir.join(&name)).and_then(|mut out| {
            match is_rest {
                true => engine.save_rest(sequence, blocks, &mut out)?,
                false => engine.save_block(sequence, saving.done, &mut out)?,
            }
            out.finish()?;
            fs::metadata(self.dir.join(&name))
        });
        let bytes = match written {
            Ok(metadata) => metadata.len().next_multiple_of(FILE_BLOCK_BYTES),
            Err(error) => return self.fail(format!("a state cannot be kept: {error}"), "free some space"),
        };
        self.failing = false;
        self.note(name, bytes, is_rest.then_some(saving.tokens));
        saving.done += 1;
        true
    }

    /// Notes that a state is not kept, once for all that follow one another.
    fn fail(&mut self, what: String, mend: &str) -> bool {
        if !std::mem::replace(&mut self.failing, true) {
            self.problems.push(format!("{}: {what}. Answers are the same without; {mend}", self.dir.display()));
        }
        false
    }
}

/// What a record of so many bytes takes on the drive.
fn file_bytes(content: u64) -> u64 {
    (content + SEAL_BYTES).next_multiple_of(FILE_BLOCK_BYTES)
}

/// Whether a file is a record by its name, and the tokens of the prefix where it is a rest.
fn tokens_of(name: &str) -> Option<Option<usize>> {
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if let Some(hash) = name.strip_suffix(".block") {
        return is_hash(hash).then_some(None);
    }
    let (hash, tokens) = name.strip_suffix(".rest")?.split_once('-')?;
    let tokens = tokens.parse().ok()?;
    is_hash(hash).then_some(Some(tokens))
}
