//! What a sequence carries: keys and values in blocks of positions, reference counted, and the recurrent states of layers
//! that have one; all taken from the slab.
//!
//! Layers that see as much of the past have their blocks together: a block holds the keys and values of those layers for
//! [`BLOCK_TOKENS`] positions, at absolute positions. Blocks that lie wholly behind a window are given back. Forks share
//! blocks; a shared block is copied before it is written to.

mod saved;

use std::sync::{Arc, Mutex};

use outpour_kernels::{Buffer, DType, KvLayout, Ops, Tensor};
use outpour_store::residency::Residency;
use outpour_store::slab::SlotId;

use crate::config::ModelError;
use crate::weights::BackendRegion;

pub use saved::{BlockSource, Saved};

/// Positions in a block.
pub const BLOCK_TOKENS: usize = 64;

/// Positions that a windowed layer keeps beyond its window, so that a sequence can go back a little.
const WINDOW_SLACK: usize = 64;

/// What each layer keeps of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateLayout {
    /// Keys and values by layer, of each cache that it has.
    pub kv: Vec<Vec<KvLayout>>,
    /// In the blocks of which pool they lie, by layer and cache.
    pool_of: Vec<Vec<usize>>,
    /// Kinds of blocks: that of layers which see all of the past first.
    pub pools: Vec<Pool>,
    /// Bytes of recurrent states by layer; `None` for a layer that has none.
    pub recurrent: Vec<Option<usize>>,
    /// Bytes of the largest of them; 0 where there is none.
    pub recurrent_bytes: usize,
}

/// Blocks of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Bytes of a block; 0 where no layer keeps anything in it.
    pub block_bytes: usize,
    /// Positions that its layers see; all of the past where there is none.
    pub window: Option<usize>,
    /// Positions that an entry stands for.
    pub every: usize,
}

impl Pool {
    /// Positions of a block.
    fn span(&self) -> usize {
        BLOCK_TOKENS * self.every
    }

    /// Blocks that hold the entries which have ended after so many tokens.
    fn ended(&self, tokens: usize) -> usize {
        (tokens / self.every).div_ceil(BLOCK_TOKENS)
    }

    /// Blocks that need not be kept of a sequence of `tokens` tokens.
    fn gone(&self, tokens: usize) -> usize {
        let keep = self.window.map_or(usize::MAX, |window| window - 1 + WINDOW_SLACK);
        tokens.saturating_sub(keep) / self.span()
    }

    /// Blocks held at most by a sequence of `ctx` tokens that grows by `chunk` of them at a time.
    pub fn blocks(&self, ctx: usize, chunk: usize) -> usize {
        let held = self.window.map_or(usize::MAX, |window| window - 1 + WINDOW_SLACK + chunk + self.span());
        if self.block_bytes == 0 { 0 } else { self.ended(ctx.min(held)) }
    }
}

/// The recurrent state of one mixer, f32: the convolution's last inputs `[kernel − 1, channels]`, then, at the next multiple
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

    /// The same of one of several convolutions of as many channels each, whose tails lie one behind the other.
    pub fn tail_of(&self, slot: &Tensor, part: usize, parts: usize) -> Tensor {
        let channels = self.channels / parts;
        slot.view(part * 4 * (self.kernel - 1) * channels, [self.kernel - 1, channels], DType::F32)
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
    /// Whether a value is the beginning of its key, and stored once.
    pub v_in_k: bool,
    /// Positions that a query sees; all of the past where there is none.
    pub window: Option<usize>,
    /// Positions that an entry stands for: more than 1 where the past is compressed.
    pub every: usize,
}

impl KvWidth {
    /// Keys and values of each position, all of which a query sees.
    pub fn new(heads: usize, k_dim: usize, v_dim: usize) -> KvWidth {
        KvWidth { heads, k_dim, v_dim, v_in_k: false, window: None, every: 1 }
    }

    /// Vectors that are key and value, or keys alone.
    pub fn shared(dim: usize) -> KvWidth {
        KvWidth { v_in_k: true, ..KvWidth::new(1, dim, dim) }
    }
}

impl StateLayout {
    /// Places the keys and values of all layers in blocks, stored as `dtype`; `recurrent` are the bytes of the
    /// recurrent states of all layers, or empty.
    pub fn new(layers: &[Vec<KvWidth>], recurrent: Vec<Option<usize>>, dtype: DType) -> StateLayout {
        let mut pools = vec![Pool { block_bytes: 0, window: None, every: 1 }];
        let mut place = |width: &KvWidth| {
            let KvWidth { heads, k_dim, v_dim, v_in_k, window, every } = *width;
            let known = pools.iter().position(|pool| (pool.window, pool.every) == (window, every));
            let pool = known.unwrap_or_else(|| {
                pools.push(Pool { block_bytes: 0, window, every });
                pools.len() - 1
            });
            let k_at = pools[pool].block_bytes;
            let v_at = if v_in_k { k_at } else { k_at + heads * BLOCK_TOKENS * dtype.row_bytes(k_dim) };
            let kv = KvLayout { dtype, heads, k_dim, v_dim, block_tokens: BLOCK_TOKENS, k_at, v_at, v_in_k };
            pools[pool].block_bytes = (k_at + kv.bytes()).next_multiple_of(64);
            (kv, pool)
        };
        let (kv, pool_of) = layers.iter().map(|layer| layer.iter().map(&mut place).unzip()).unzip();
        pools.iter_mut().for_each(|pool| pool.block_bytes = pool.block_bytes.next_multiple_of(4096));
        let recurrent_bytes = recurrent.iter().flatten().copied().max().unwrap_or(0);
        StateLayout { kv, pool_of, pools, recurrent, recurrent_bytes: recurrent_bytes.next_multiple_of(4096) }
    }

    /// Slot sizes of states in the slab: of the blocks of each pool, and of a recurrent state. What no layer has is as large as
    /// the largest of the others, so that it makes no slot smaller.
    pub fn slot_bytes(&self) -> impl Iterator<Item = usize> {
        let all = || self.pools.iter().map(|pool| pool.block_bytes).chain([self.recurrent_bytes]);
        let largest = all().max().unwrap_or(0).max(4096);
        all().map(move |bytes| if bytes == 0 { largest } else { bytes })
    }

    /// Bytes that a sequence costs, however short: recurrent states, and what windows hold when they are full.
    pub fn fixed_bytes(&self) -> usize {
        let recurrent: usize = self.recurrent.iter().flatten().sum();
        let windowed = |(kv, pool): (&KvLayout, &Pool)| kv.bytes() / kv.block_tokens * pool.window.unwrap_or(0);
        recurrent + self.caches().map(windowed).sum::<usize>()
    }

    /// Every cache of every layer, and the pool that it lies in.
    fn caches(&self) -> impl Iterator<Item = (&KvLayout, &Pool)> {
        let pools = self.pool_of.iter().flatten().map(|&pool| &self.pools[pool]);
        self.kv.iter().flatten().zip(pools)
    }

    /// Whether a state can go back to any earlier position. One with a recurrent state or a window can not, though a window
    /// lets it go back a little.
    pub fn goes_back(&self) -> bool {
        self.recurrent_bytes == 0 && self.pools.iter().all(|pool| pool.window.is_none())
    }

    /// Bytes that one more token costs, once windows are full.
    pub fn bytes_per_token(&self) -> usize {
        let unbounded = self.caches().filter(|(_, pool)| pool.window.is_none());
        unbounded.map(|(kv, pool)| kv.bytes() / kv.block_tokens / pool.every).sum()
    }

    /// Bytes that each token costs of so many that a sequence grows by at once, beside those that stay: keys and values that windows
    /// drop afterwards.
    pub fn window_bytes_per_token(&self) -> usize {
        let windowed = self.caches().filter(|(_, pool)| pool.window.is_some());
        windowed.map(|(kv, pool)| kv.bytes() / kv.block_tokens / pool.every).sum()
    }

    /// Slots of a sequence of `ctx` tokens that grows by `chunk` of them at a time: size, and how many of them.
    pub fn slots(&self, ctx: usize, chunk: usize) -> Vec<(usize, usize)> {
        let blocks = self.pools.iter().map(|pool| pool.blocks(ctx, chunk));
        let counts = blocks.chain([self.recurrent.iter().flatten().count()]);
        self.slot_bytes().zip(counts).collect()
    }
}

/// Slots that dropped blocks leave behind, to be given back to the slab.
type Returned = Arc<Mutex<Vec<SlotId>>>;

/// Where blocks come from.
#[derive(Clone, Default)]
pub struct BlockPool {
    returned: Returned,
}

/// A slot of the slab: a block of positions, or a layer's recurrent states.
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

    /// A slot of the kind-th size of [`StateLayout::slot_bytes`].
    fn take(&self, kind: usize, residency: &mut Residency) -> Result<(Arc<Block>, Buffer, usize), ModelError> {
        self.reclaim(residency);
        let slot = residency.acquire_state(kind).ok_or(ModelError::NoRoom)?;
        let (region, at) = residency.location(slot);
        let region = region
            .memory()
            .downcast_ref::<BackendRegion>()
            .expect("invariant: the slab's regions come from weights::allocate_region");
        Ok((Arc::new(Block { slot, returned: self.returned.clone() }), region.buffer().clone(), at))
    }

    fn take_block(
        &self,
        residency: &mut Residency,
        layout: &StateLayout,
        pool: usize,
    ) -> Result<(Arc<Block>, Tensor), ModelError> {
        let (block, buffer, at) = self.take(pool, residency)?;
        Ok((block, Tensor::new(buffer, at, [layout.pools[pool].block_bytes], DType::U8)))
    }

    fn take_recurrent(&self, residency: &mut Residency, pools: usize, bytes: usize) -> Result<Recurrent, ModelError> {
        let (slot, buffer, at) = self.take(pools, residency)?;
        Ok(Recurrent { _slot: slot, tensor: Tensor::new(buffer, at, [bytes], DType::U8) })
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
    /// By pool; empty before the first token.
    held: Vec<Held>,
    /// By layer; empty before the first token.
    recurrent: Vec<Option<Recurrent>>,
    tokens: usize,
}

/// The blocks of one pool.
#[derive(Clone, Default)]
struct Held {
    /// Blocks that were given back, before those that are held.
    gone: usize,
    blocks: Vec<Arc<Block>>,
    /// Their memory, in the same order, as operations take it.
    tensors: Vec<Tensor>,
}

impl Held {
    fn end(&self) -> usize {
        self.gone + self.blocks.len()
    }

    /// Gives blocks back until so many are gone.
    fn forget(&mut self, gone: usize) {
        let some = gone.saturating_sub(self.gone).min(self.blocks.len());
        self.blocks.drain(..some);
        self.tensors.drain(..some);
        self.gone += some;
    }
}

/// Keys and values of one layer, for the operations.
pub struct LayerKv<'a> {
    /// Where they lie in a block.
    pub layout: &'a KvLayout,
    /// The blocks that are held.
    pub blocks: &'a [Tensor],
    /// The position that the first of them begins at: operations count from there.
    pub first: usize,
}

impl State {
    /// A layer's recurrent states, of one mixer behind the other.
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
            let take = |layer: &Option<usize>| {
                let &Some(bytes) = layer else { return Ok(None) };
                let recurrent = pool.take_recurrent(residency, layout.pools.len(), bytes)?;
                ops.write(&zeros[..bytes], &recurrent.tensor);
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

    /// A layer's keys and values, of its cache number `cache`.
    ///
    /// # Panics
    /// For a layer that has no such cache.
    pub fn kv<'a>(&'a self, layer: usize, cache: usize, layout: &'a StateLayout) -> LayerKv<'a> {
        let held = &self.held[layout.pool_of[layer][cache]];
        LayerKv { layout: &layout.kv[layer][cache], blocks: &held.tensors, first: held.gone * BLOCK_TOKENS }
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
        self.held.resize_with(layout.pools.len(), Held::default);
        for (index, held) in self.held.iter_mut().enumerate() {
            if layout.pools[index].block_bytes == 0 {
                continue;
            }
            let first_written = self.tokens / layout.pools[index].span();
            for i in first_written.max(held.gone)..held.end() {
                let i = i - held.gone;
                if Arc::strong_count(&held.blocks[i]) > 1 {
                    let (block, tensor) = pool.take_block(residency, layout, index)?;
                    ops.copy(&held.tensors[i], &tensor);
                    (held.blocks[i], held.tensors[i]) = (block, tensor);
                }
            }
            while held.end() < layout.pools[index].ended(tokens) {
                let (block, tensor) = pool.take_block(residency, layout, index)?;
                held.blocks.push(block);
                held.tensors.push(tensor);
            }
        }
        Ok(())
    }

    /// Notes that the next `tokens` positions were written by all layers, and gives back what no window sees any more.
    pub fn advance(&mut self, tokens: usize, layout: &StateLayout) {
        self.tokens += tokens;
        for (held, pool) in self.held.iter_mut().zip(&layout.pools) {
            held.forget(pool.gone(self.tokens));
        }
    }

    /// Forgets everything from position `tokens` on, and returns how many are left: `tokens`, or none where the layout has
    /// recurrent states, which hold no earlier position, or a window's blocks are gone. Rejected drafts go this way.
    pub fn truncate(&mut self, tokens: usize, layout: &StateLayout) -> usize {
        if tokens < self.tokens {
            let seen = |pool: &Pool| pool.window.map_or(0, |window| (tokens + 1).saturating_sub(window));
            let kept = self.held.iter().zip(&layout.pools).all(|(held, pool)| held.gone * BLOCK_TOKENS <= seen(pool));
            self.tokens = if layout.recurrent_bytes == 0 && kept { tokens } else { 0 };
        }
        if self.tokens == 0 {
            self.recurrent.clear();
            self.held.clear();
        }
        for (held, pool) in self.held.iter_mut().zip(&layout.pools) {
            let blocks = pool.ended(self.tokens) - held.gone;
            held.blocks.truncate(blocks);
            held.tensors.truncate(blocks);
        }
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
        let pools = layout.pools.len();
        let copy = |(recurrent, bytes): (&Option<Recurrent>, &Option<usize>)| {
            let (Some(recurrent), &Some(bytes)) = (recurrent, bytes) else { return Ok(None) };
            let copy = pool.take_recurrent(residency, pools, bytes)?;
            ops.copy(&recurrent.tensor, &copy.tensor);
            Ok(Some(copy))
        };
        let recurrent = self.recurrent.iter().zip(&layout.recurrent).map(copy).collect::<Result<_, ModelError>>()?;
        Ok(State { held: self.held.clone(), recurrent, tokens: self.tokens })
    }
}
