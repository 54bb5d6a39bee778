//! What mixes positions in a layer: attention, or a recurrence in its place.

use outpour_kernels::{DType, Tensor};

use crate::state::{KvWidth, LayerKv, RecurrentLayout};
use crate::{Batch, Run, State, StateLayout};

/// Where a mixer computes.
pub struct At<'a> {
    /// Layer of the model.
    pub layer: usize,
    /// Caches of the layer's mixers before this one.
    pub caches_before: usize,
    /// Bytes of recurrent states of what is before this one in the layer.
    pub recurrent_before: usize,
    /// How states are laid out.
    pub layout: &'a StateLayout,
    /// The tokens, and whose they are.
    pub batch: &'a Batch,
    /// What each sequence carries.
    pub states: &'a [State],
}

impl<'a> At<'a> {
    /// Keys and values of the mixer's cache number `cache`, of the batch's state number `state`.
    pub fn kv(&self, state: usize, cache: usize) -> LayerKv<'a> {
        self.states[state].kv(self.layer, self.caches_before + cache, self.layout)
    }

    /// The mixer's recurrent state, of the batch's state number `state`.
    pub fn recurrent(&self, state: usize) -> Tensor {
        let of_layer = self.states[state].recurrent(self.layer);
        of_layer.view(self.recurrent_before, [of_layer.bytes() - self.recurrent_before], DType::U8)
    }
}

/// A layer's first half.
pub trait Mixer: Send + Sync {
    /// `into += mixer(x)`: x and into `[n, hidden]`.
    fn forward(&self, at: &At, x: &Tensor, into: &Tensor, run: &mut Run);

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    fn workspace_bytes(&self, n: usize) -> usize;

    /// What it keeps of each position, in each of its caches.
    fn kv(&self) -> Vec<KvWidth> {
        Vec::new()
    }

    /// Numbers of [`Run::carried`] that it reads or writes.
    fn carried(&self) -> usize {
        0
    }

    /// What it keeps of a sequence, if anything.
    fn recurrent(&self) -> Option<RecurrentLayout> {
        None
    }

    /// A capital for the pattern of layers, and what it stands for.
    fn letter(&self) -> (char, &'static str);
}
