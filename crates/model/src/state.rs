//! What a sequence carries: keys and values in blocks of positions, reference counted, and the recurrent states of layers
//! that have one; all taken from the slab.
//!
//! A block holds the keys and values of all layers for [`StateLayout::block_tokens`] positions, at absolute positions.
//! Forks share blocks; a shared block is copied before it is written to.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use outpour_kernels::{Buffer, DType, KvLayout, Ops, Tensor};
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
    /// Recurrent states by layer; `None` for a layer that has none.
    pub recurrent: Vec<Option<RecurrentLayout>>,
    /// Bytes of the largest of them; 0 where there is none.
    pub recurrent_bytes: usize,
}

/// The recurrent state of one layer, f32: the convolution's last inputs `[kernel − 1, channels]`, then, at the next multiple
/// of 64 bytes, the matrices `[heads, k_dim, v_dim]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecurrentLayout {
    /// Width of the convolution.
    pub kernel: usize,
    /// Its channels.
    pub channels: usize,
    /// Value heads.
    pub heads: usize,
    /// Width of a key.
    pub k_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
}

impl RecurrentLayout {
    fn tail_bytes(&self) -> usize {
        (4 * (self.kernel - 1) * self.channels).next_multiple_of(64)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.tail_bytes() + 4 * self.heads * self.k_dim * self.v_dim
    }

    /// The convolution's last inputs, in a slot of this layout.
    pub fn tail(&self, slot: &Tensor) -> Tensor {
        slot.view(0, [self.kernel - 1, self.channels], DType::F32)
    }

    /// The matrices, in a slot of this layout.
    pub fn matrices(&self, slot: &Tensor) -> Tensor {
        slot.view(self.tail_bytes(), [self.heads, self.k_dim, self.v_dim], DType::F32)
    }
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
    /// Places the keys and values of all layers in a block, stored as `dtype`; `recurrent` are the recurrent states of all
    /// layers, or empty.
    pub fn new(layers: &[Option<KvWidth>], recurrent: Vec<Option<RecurrentLayout>>, dtype: DType) -> StateLayout {
        let mut at = 0;
        let kv = layers
            .iter()
            .map(|width| {
                let KvWidth { heads, k_dim, v_dim } = (*width)?;
                let kv = KvLayout {
                    dtype,
                    heads,
                    k_dim,
                    v_dim,
                    block_tokens: BLOCK_TOKENS,
                    k_at: at,
                    v_at: at + heads * BLOCK_TOKENS * dtype.row_bytes(k_dim),
                };
                at = (at + kv.bytes()).next_multiple_of(64);
                Some(kv)
            })
            .collect();
        let recurrent_bytes = recurrent.iter().flatten().map(RecurrentLayout::bytes).max().unwrap_or(0);
        StateLayout {
            kv,
            block_bytes: at.max(64).next_multiple_of(4096),
            block_tokens: BLOCK_TOKENS,
            recurrent,
            recurrent_bytes: recurrent_bytes.next_multiple_of(4096),
        }
    }

    /// Slot sizes of states in the slab: of a block, and of a recurrent state where there are any.
    pub fn slot_bytes(&self) -> impl Iterator<Item = usize> {
        [self.block_bytes, self.recurrent_bytes].into_iter().filter(|&bytes| bytes > 0)
    }

    /// Bytes that a sequence costs, however short.
    pub fn fixed_bytes(&self) -> usize {
        self.recurrent.iter().flatten().map(RecurrentLayout::bytes).sum()
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

/// Which slots of the slab: the order of [`StateLayout::slot_bytes`].
#[derive(Clone, Copy)]
enum Kind {
    Block = 0,
    Recurrent = 1,
}

/// A slot of the slab: a block of positions, or a layer's recurrent state.
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
        returned.drain(..).for_each(|slot| residency.release_state(slot));
    }

    fn take(&self, kind: Kind, residency: &mut Residency) -> Result<(Arc<Block>, Buffer, usize), ModelError> {
        self.reclaim(residency);
        let slot = residency.acquire_state(kind as usize).ok_or(ModelError::NoRoom)?;
        let (region, at) = residency.location(slot);
        let region = region
            .memory()
            .downcast_ref::<BackendRegion>()
            .expect("invariant: the slab's regions come from weights::allocate_region");
        Ok((Arc::new(Block { slot, returned: self.returned.clone() }), region.buffer().clone(), at))
    }

    fn take_block(&self, residency: &mut Residency, layout: &StateLayout) -> Result<(Arc<Block>, Tensor), ModelError> {
        let (block, buffer, at) = self.take(Kind::Block, residency)?;
        Ok((block, Tensor::new(buffer, at, [layout.block_bytes], DType::U8)))
    }

    fn take_recurrent(&self, residency: &mut Residency, layout: &RecurrentLayout) -> Result<Recurrent, ModelError> {
        let (slot, buffer, at) = self.take(Kind::Recurrent, residency)?;
        Ok(Recurrent { _slot: slot, tensor: Tensor::new(buffer, at, [layout.bytes()], DType::U8) })
    }
}

/// A layer's recurrent state in its slot.
struct Recurrent {
    _slot: Arc<Block>,
    tensor: Tensor,
}

/// The state of one sequence.
#[derive(Default)]
pub struct State {
    blocks: Vec<Arc<Block>>,
    /// The blocks' memory, in the same order, as operations take it.
    tensors: Vec<Tensor>,
    /// By layer; empty before the first token.
    recurrent: Vec<Option<Recurrent>>,
    tokens: usize,
}

impl State {
    /// A layer's recurrent state, as [`RecurrentLayout`] lays it out.
    ///
    /// # Panics
    /// For a layer that has none in the layout.
    pub fn recurrent(&self, layer: usize) -> &Tensor {
        let recurrent = self.recurrent.get(layer).and_then(Option::as_ref);
        &recurrent.expect("invariant: reserve() came first, and the layer is recurrent").tensor
    }

    fn reserve_recurrent(
        &mut self,
        layout: &StateLayout,
        pool: &BlockPool,
        residency: &mut Residency,
        ops: &dyn Ops,
    ) -> Result<(), ModelError> {
        if self.recurrent.is_empty() && layout.recurrent_bytes > 0 {
            let zeros = vec![0; layout.recurrent_bytes];
            let take = |layer: &Option<RecurrentLayout>| {
                let Some(layer) = layer else { return Ok(None) };
                let recurrent = pool.take_recurrent(residency, layer)?;
                ops.write(&zeros[..layer.bytes()], &recurrent.tensor);
                Ok(Some(recurrent))
            };
            self.recurrent = layout.recurrent.iter().map(take).collect::<Result<_, ModelError>>()?;
        }
        Ok(())
    }

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
        self.reserve_recurrent(layout, pool, residency, ops)?;
        let first_written = self.tokens / layout.block_tokens;
        for i in first_written..self.blocks.len() {
            if Arc::strong_count(&self.blocks[i]) > 1 {
                let (block, tensor) = pool.take_block(residency, layout)?;
                ops.copy(&self.tensors[i], &tensor);
                (self.blocks[i], self.tensors[i]) = (block, tensor);
            }
        }
        while self.blocks.len() * layout.block_tokens < tokens {
            let (block, tensor) = pool.take_block(residency, layout)?;
            self.blocks.push(block);
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// Notes that the next `tokens` positions were written by all layers.
    pub fn advance(&mut self, tokens: usize) {
        self.tokens += tokens;
    }

    /// Forgets everything from position `tokens` on, and returns how many are left: `tokens`, or none where the layout has
    /// recurrent states, which hold no earlier position. Rejected drafts go this way.
    pub fn truncate(&mut self, tokens: usize, layout: &StateLayout) -> usize {
        if tokens < self.tokens {
            self.tokens = if layout.recurrent_bytes > 0 { 0 } else { tokens };
        }
        if self.tokens == 0 {
            self.recurrent.clear();
        }
        let blocks = self.tokens.div_ceil(layout.block_tokens);
        self.blocks.truncate(blocks);
        self.tensors.truncate(blocks);
        self.tokens
    }

    /// Undoes a batch that some layers have computed: keys and values behind the end do not count, and recurrent states, which
    /// have moved on, are lost with everything before.
    pub fn abandon(&mut self, layout: &StateLayout) {
        if layout.recurrent_bytes > 0 {
            self.tokens = 0;
            self.truncate(0, layout);
        }
    }

    /// A second sequence with the same past, sharing its blocks; recurrent states are copied.
    ///
    /// # Errors
    /// When the slab has no slot left.
    pub fn fork(
        &self,
        layout: &StateLayout,
        pool: &BlockPool,
        residency: &mut Residency,
        ops: &dyn Ops,
    ) -> Result<State, ModelError> {
        let copy = |(recurrent, layout): (&Option<Recurrent>, &Option<RecurrentLayout>)| {
            let (Some(recurrent), Some(layout)) = (recurrent, layout) else { return Ok(None) };
            let copy = pool.take_recurrent(residency, layout)?;
            ops.copy(&recurrent.tensor, &copy.tensor);
            Ok(Some(copy))
        };
        let recurrent = self.recurrent.iter().zip(&layout.recurrent).map(copy).collect::<Result<_, ModelError>>()?;
        Ok(State { blocks: self.blocks.clone(), tensors: self.tensors.clone(), recurrent, tokens: self.tokens })
    }

    /// What is saved, in order: blocks, then recurrent states.
    fn saved_tensors(&self, layout: &StateLayout) -> impl Iterator<Item = &Tensor> {
        let blocks = self.tokens.div_ceil(layout.block_tokens);
        self.tensors[..blocks].iter().chain(self.recurrent.iter().flatten().map(|recurrent| &recurrent.tensor))
    }

    /// Writes the state: a line of JSON, then the bytes of blocks and recurrent states. `identity` names model and numerics.
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
        let mut bytes = Vec::new();
        for tensor in self.saved_tensors(layout) {
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
        state.tokens = header.tokens;
        let mut bytes = Vec::new();
        for tensor in state.saved_tensors(layout) {
            bytes.resize(tensor.bytes(), 0);
            if let Err(error) = input.read_exact(&mut bytes) {
                return problem(format!("is damaged ({error}): start anew"));
            }
            ops.write(&bytes, tensor);
        }
        Ok(state)
    }
}

const SAVED_FORMAT: &str = "outpour state 2";
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
