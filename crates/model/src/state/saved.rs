//! States as bytes.
//!
//! A block of positions that is full, of layers which see all of the past, never changes: such blocks can be kept one by one,
//! and the rest of a state beside them.

use std::io::{self, Read, Write};

use outpour_kernels::{Ops, Tensor};
use outpour_store::residency::Residency;

use super::{BLOCK_TOKENS, BlockPool, Held, Pool, Recurrent, State, StateLayout};
use crate::config::ModelError;

const FORMAT: &str = "outpour state 4";
/// Longest first line of a saved state.
const HEADER_BYTES_MAX: usize = 4096;

#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    format: String,
    identity: String,
    tokens: usize,
    /// Full blocks that are kept elsewhere.
    blocks_elsewhere: usize,
    blocks_gone: Vec<usize>,
    block_bytes: Vec<usize>,
}

/// Where the parts of a saved state are.
pub struct Saved<'a> {
    /// What [`State::save`] wrote.
    pub rest: &'a mut dyn Read,
    /// Gives the bytes of a full block, by its number, where they are kept elsewhere.
    pub block: BlockSource<'a>,
}

/// Fills memory with the bytes of a full block, by its number.
pub type BlockSource<'a> = &'a mut dyn FnMut(usize, &mut [u8]) -> io::Result<()>;

impl StateLayout {
    /// Full blocks that a state of so many tokens has, which nothing changes any more.
    pub fn full_blocks(&self, tokens: usize) -> usize {
        if self.pools[0].block_bytes == 0 { 0 } else { tokens / BLOCK_TOKENS }
    }
}

impl State {
    /// A full block, by its number.
    ///
    /// # Panics
    /// When the state has no such block.
    pub fn full_block(&self, index: usize) -> &Tensor {
        assert!((index + 1) * BLOCK_TOKENS <= self.tokens, "invariant: the block is full");
        &self.held[0].tensors[index]
    }

    /// What is saved, in order: the blocks of each pool, without the first ones of the first pool, then recurrent states.
    fn saved_tensors<'a>(
        &'a self,
        layout: &'a StateLayout,
        blocks_elsewhere: usize,
    ) -> impl Iterator<Item = &'a Tensor> {
        let of_pool = move |(number, (held, pool)): (usize, (&'a Held, &Pool))| {
            let held_to = held.blocks.len().min(pool.ended(self.tokens) - held.gone);
            let from = if number == 0 { blocks_elsewhere.min(held_to) } else { 0 };
            &held.tensors[from..held_to]
        };
        let blocks = self.held.iter().zip(&layout.pools).enumerate().flat_map(of_pool);
        blocks.chain(self.recurrent.iter().flatten().map(|recurrent: &Recurrent| &recurrent.tensor))
    }

    /// Bytes that [`State::save`] writes at most.
    pub fn saved_bytes(&self, layout: &StateLayout, blocks_elsewhere: usize) -> u64 {
        (HEADER_BYTES_MAX + self.saved_tensors(layout, blocks_elsewhere).map(Tensor::bytes).sum::<usize>()) as u64
    }

    /// Writes the state: a line of JSON, then the bytes of blocks and recurrent states, but for the first full blocks, which
    /// are kept elsewhere. `identity` names model and numerics.
    ///
    /// # Errors
    /// When `out` does.
    pub fn save(
        &self,
        identity: &str,
        layout: &StateLayout,
        ops: &dyn Ops,
        blocks_elsewhere: usize,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let header = Header {
            format: FORMAT.into(),
            identity: identity.into(),
            tokens: self.tokens,
            blocks_elsewhere,
            blocks_gone: self.held.iter().map(|held| held.gone).collect(),
            block_bytes: layout.pools.iter().map(|pool| pool.block_bytes).collect(),
        };
        writeln!(out, "{}", serde_json::to_string(&header)?)?;
        let mut bytes = Vec::new();
        for tensor in self.saved_tensors(layout, blocks_elsewhere) {
            bytes.resize(tensor.bytes(), 0);
            ops.fetch(tensor, &mut bytes).wait();
            out.write_all(&bytes)?;
        }
        Ok(())
    }

    /// Reads a state back.
    ///
    /// # Errors
    /// When it is damaged, or was saved by another model or under other numerics, or does not fit in memory.
    pub fn load(
        identity: &str,
        layout: &StateLayout,
        pool: &BlockPool,
        residency: &mut Residency,
        ops: &dyn Ops,
        tokens_max: usize,
        saved: Saved,
    ) -> Result<State, ModelError> {
        let header = read_header(saved.rest)?;
        let problem = |what: String| Err(ModelError::State(format!("the saved state {what}")));
        if header.format != FORMAT {
            return problem(format!("has the format {:?}, not {FORMAT:?}: start anew", header.format));
        }
        if header.identity != identity || !layout.pools.iter().map(|pool| &pool.block_bytes).eq(&header.block_bytes) {
            return problem(format!("is of {:?}, and this is {identity:?}: start anew", header.identity));
        }
        if header.tokens > tokens_max {
            return problem(format!("holds {} tokens, more than --ctx {tokens_max}: raise --ctx", header.tokens));
        }
        // As many blocks are gone as may be, and no more.
        let may_be_gone = |(gone, pool): (&usize, &Pool)| *gone <= pool.gone(header.tokens);
        if header.blocks_gone.len() != layout.pools.len()
            || header.blocks_elsewhere > layout.full_blocks(header.tokens)
            || !header.blocks_gone.iter().zip(&layout.pools).all(may_be_gone)
        {
            return problem("is damaged (it lacks blocks that are seen): start anew".into());
        }
        let held = header.blocks_gone.iter().map(|&gone| Held { gone, ..Held::default() }).collect();
        let mut state = State { held, ..State::default() };
        state.reserve(header.tokens, layout, pool, residency, ops)?;
        state.tokens = header.tokens;
        state.fill(header.blocks_elsewhere, ops, saved.block)?;
        let mut bytes = Vec::new();
        for tensor in state.saved_tensors(layout, header.blocks_elsewhere) {
            bytes.resize(tensor.bytes(), 0);
            saved.rest.read_exact(&mut bytes).map_err(damaged)?;
            ops.write(&bytes, tensor);
        }
        Ok(state)
    }

    /// A state made of so many full blocks and nothing else, in a layout that goes back.
    ///
    /// # Errors
    /// When a block cannot be had, or does not fit in memory.
    pub fn of_blocks(
        count: usize,
        layout: &StateLayout,
        pool: &BlockPool,
        residency: &mut Residency,
        ops: &dyn Ops,
        block: BlockSource,
    ) -> Result<State, ModelError> {
        assert!(layout.goes_back(), "invariant: other layouts have more than full blocks");
        let mut state = State::default();
        state.reserve(count * BLOCK_TOKENS, layout, pool, residency, ops)?;
        state.tokens = count * BLOCK_TOKENS;
        state.fill(count, ops, block)?;
        Ok(state)
    }

    fn fill(&self, count: usize, ops: &dyn Ops, block: BlockSource) -> Result<(), ModelError> {
        let mut bytes = Vec::new();
        for index in 0..count {
            let tensor = self.full_block(index);
            bytes.resize(tensor.bytes(), 0);
            block(index, &mut bytes).map_err(damaged)?;
            ops.write(&bytes, tensor);
        }
        Ok(())
    }
}

fn damaged(why: io::Error) -> ModelError {
    ModelError::State(format!("the saved state is damaged ({why}): start anew"))
}

fn read_header(input: &mut dyn Read) -> Result<Header, ModelError> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < HEADER_BYTES_MAX {
        input.read_exact(&mut byte).map_err(damaged)?;
        if byte[0] == b'\n' {
            return serde_json::from_slice(&line).map_err(|error| damaged(error.into()));
        }
        line.push(byte[0]);
    }
    Err(damaged(io::Error::other("its first line does not end")))
}
