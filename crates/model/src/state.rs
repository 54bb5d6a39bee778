//! What a sequence carries: keys and values in blocks of positions, reference counted, taken from the slab.
//!
//! A block holds the keys and values of all layers for [`StateLayout::block_tokens`] positions, at absolute positions.
//! Forks share blocks; a shared block is copied before it is written to.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use outpour_kernels::{DType, KvLayout, Ops, Tensor};
use outpour_store::residency::Residency;
use outpour_store::slab::SlotId;

use crate::config::ModelError;
use crate::weights::BackendRegion;

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 64;

/// What each layer keeps of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// Keys and values by layer; `None` for a layer that keeps none.
    pub kv: Vec<Option<KvLayout>>,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Positions in a block.
    pub block_tokens: usize,
}

/// Keys and values of one layer, before they have a place.
#[derive(Clone, Copy, Debug)]
pub struct KvWidth {
    /// Key-value heads.
    pub heads: usize,
    /// Width of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
}

impl StateLayout {
    /// Places the keys and values of all layers in a block, stored as `dtype`.
    pub fn new(layers: &[Option<KvWidth>], dtype: DType) -> StateLayout {
        let mut at = 0;
        let kv = layers
            .iter()
            .map(|width| {
                let KvWidth { heads, k_dim, v_dim } = (*width)?;
                let per_dim = heads * BLOCK_TOKENS * dtype.bytes();
                let kv = KvLayout {
                    dtype,
                    heads,
                    k_dim,
                    v_dim,
                    block_tokens: BLOCK_TOKENS,
                    k_at: at,
                    v_at: at + per_dim * k_dim,
                };
                at = (at + kv.bytes()).next_multiple_of(64);
                Some(kv)
            })
            .collect();
        StateLayout { kv, block_bytes: at.max(64).next_multiple_of(4096), block_tokens: BLOCK_TOKENS }
    }

    /// Bytes that one more token costs.
    pub fn bytes_per_token(&self) -> usize {
        self.kv.iter().flatten().map(|kv| kv.bytes() / kv.block_tokens).sum()
    }
}

/// Slots that dropped blocks leave behind, to be given back to the slab.
type Returned = Arc<Mutex<Vec<SlotId>>>;

/// Where blocks come from.
#[derive(Clone, Default)]
pub struct BlockPool {
    returned: Returned,
}

/// One block of positions.
struct Block {
    slot: SlotId,
    returned: Returned,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.returned.lock().expect("invariant: no one panics holding this lock").push(self.slot);
    }
}

impl BlockPool {
    /// Gives the slots of dropped blocks back to the slab.
    pub fn reclaim(&self, residency: &mut Residency) {
        let mut returned = self.returned.lock().expect("invariant: no one panics holding this lock");
        returned.drain(..).for_each(|slot| residency.release_block(slot));
    }

    fn take(&self, residency: &mut Residency, layout: &StateLayout) -> Result<(Arc<Block>, Tensor), ModelError> {
        self.reclaim(residency);
        let slot = residency.acquire_block().ok_or_else(|| {
            ModelError::State("no memory is left for a longer context: raise --ram, or lower --ctx".into())
        })?;
        let (region, at) = residency.location(slot);
        let region = region
            .memory()
            .downcast_ref::<BackendRegion>()
            .expect("invariant: the slab's regions come from weights::allocate_region");
        let tensor = Tensor::new(region.buffer().clone(), at, [layout.block_bytes], DType::U8);
        Ok((Arc::new(Block { slot, returned: self.returned.clone() }), tensor))
    }
}

/// The state of one sequence.
#[derive(Default)]
pub struct State {
    blocks: Vec<Arc<Block>>,
    /// The blocks' memory, in the same order, as operations take it.
    tensors: Vec<Tensor>,
    tokens: usize,
}

impl State {
    /// Tokens that it holds.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The blocks, for the operations.
    pub fn blocks(&self) -> &[Tensor] {
        &self.tensors
    }

    /// Makes room for positions below `tokens`, and makes the blocks from the present end on its own.
    ///
    /// # Errors
    /// When the slab has no block left.
    pub fn reserve(
        &mut self,
        tokens: usize,
        layout: &StateLayout,
        pool: &BlockPool,
        residency: &mut Residency,
        ops: &dyn Ops,
    ) -> Result<(), ModelError> {
        let first_written = self.tokens / layout.block_tokens;
        for i in first_written..self.blocks.len() {
            if Arc::strong_count(&self.blocks[i]) > 1 {
                let (block, tensor) = pool.take(residency, layout)?;
                ops.copy(&self.tensors[i], &tensor);
                (self.blocks[i], self.tensors[i]) = (block, tensor);
            }
        }
        while self.blocks.len() * layout.block_tokens < tokens {
            let (block, tensor) = pool.take(residency, layout)?;
            self.blocks.push(block);
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// Notes that the next `tokens` positions were written by all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// Forgets everything from position `tokens` on. Rejected drafts go this way.
    pub fn truncate(&mut self, tokens: usize, layout: &StateLayout) {
        self.tokens = self.tokens.min(tokens);
        let blocks = self.tokens.div_ceil(layout.block_tokens);
        self.blocks.truncate(blocks);
        self.tensors.truncate(blocks);
    }

    /// A second sequence with the same past, sharing its blocks.
    pub fn fork(&self) -> State {
        State { blocks: self.blocks.clone(), tensors: self.tensors.clone(), tokens: self.tokens }
    }

    /// Writes the state: a line of JSON, then the blocks' bytes. `identity` names model and numerics.
    ///
    /// # Errors
    /// When `out` does.
    pub fn save(
        &self,
        identity: &str,
        layout: &StateLayout,
        ops: &dyn Ops,
        out: &mut dyn Write,
    ) -> std::io::Result<()> {
        let header = SavedHeader {
            format: SAVED_FORMAT.into(),
            identity: identity.into(),
            tokens: self.tokens,
            block_bytes: layout.block_bytes,
            block_tokens: layout.block_tokens,
        };
        writeln!(out, "{}", serde_json::to_string(&header)?)?;
        let mut bytes = vec![0; layout.block_bytes];
        for tensor in &self.tensors[..self.tokens.div_ceil(layout.block_tokens)] {
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
        input: &mut dyn Read,
    ) -> Result<State, ModelError> {
        let header = read_header(input)?;
        let problem = |what: String| Err(ModelError::State(format!("the saved state {what}")));
        if header.format != SAVED_FORMAT {
            return problem(format!("has the format {:?}, not {SAVED_FORMAT:?}", header.format));
        }
        if header.identity != identity
            || (header.block_bytes, header.block_tokens) != (layout.block_bytes, layout.block_tokens)
        {
            return problem(format!("is of {:?}, and this is {identity:?}: start anew", header.identity));
        }
        if header.tokens > tokens_max {
            return problem(format!("holds {} tokens, more than --ctx {tokens_max}: raise --ctx", header.tokens));
        }
        let mut state = State::default();
        state.reserve(header.tokens, layout, pool, residency, ops)?;
        let mut bytes = vec![0; layout.block_bytes];
        for tensor in &state.tensors {
            if let Err(error) = input.read_exact(&mut bytes) {
                return problem(format!("is damaged ({error}): start anew"));
            }
            ops.write(&bytes, tensor);
        }
        state.tokens = header.tokens;
        Ok(state)
    }
}

const SAVED_FORMAT: &str = "outpour state 1";
/// Longest first line of a saved state.
const HEADER_BYTES_MAX: usize = 4096;

#[derive(serde::Serialize, serde::Deserialize)]
struct SavedHeader {
    format: String,
    identity: String,
    tokens: usize,
    block_bytes: usize,
    block_tokens: usize,
}

fn read_header(input: &mut dyn Read) -> Result<SavedHeader, ModelError> {
    let damaged = |why: String| ModelError::State(format!("the saved state is damaged ({why}): start anew"));
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.len() < HEADER_BYTES_MAX {
        input.read_exact(&mut byte).map_err(|error| damaged(error.to_string()))?;
        if byte[0] == b'\n' {
            return serde_json::from_slice(&line).map_err(|error| damaged(error.to_string()));
        }
        line.push(byte[0]);
    }
    Err(damaged("its first line does not end".into()))
}
