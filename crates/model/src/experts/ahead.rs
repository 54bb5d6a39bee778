//! What is read before a router has asked for it: guesses of the next layer, and the sweep of a prompt.

use outpour_store::Result;
use outpour_store::layout::ExpertId;
use outpour_store::residency::Place;

use super::{EARLY_SHARE, Early, EarlyLimits, ExpertStream, GUESS_SHARE, PartOf, SWEEP_SHARE};

impl ExpertStream {
    /// Sends out the reads of experts of a layer to come, those first that are likeliest to be asked for. Those that are
    /// there or on their way already are passed over. Nothing that was asked for is evicted before `limits` are reached.
    ///
    /// # Errors
    /// When the reader refuses them.
    pub fn read_early(
        &mut self,
        layer: usize,
        experts: impl IntoIterator<Item = u32>,
        limits: EarlyLimits,
    ) -> Result<()> {
        self.recover()?;
        self.residency.set_spares(layer, limits.slots);
        self.reads.clear();
        let mut bytes = 0;
        for expert in experts {
            let id = ExpertId { layer: layer as u32, expert };
            // Beyond the layer's are those that have no weights.
            let idle = expert as usize >= self.layout.experts(layer);
            if idle || self.residency.locate(id) != Place::Drive || self.early.iter().any(|early| early.id == id) {
                continue;
            }
            bytes += self.layout.expert_bytes(id);
            if bytes > limits.bytes {
                break;
            }
            let Some(slot) = self.residency.begin_early(id) else { break };
            let placement = self.layout.place(id, self.checkpoint.files());
            let tag = self.push_reads(slot, &placement);
            self.early.push(Early { id, slot, placement, tag, reads_left: placement.runs().len(), dropped: false });
            self.stats.early += 1;
        }
        self.send("experts ahead of their use")
    }

    /// Tells which part of a batch comes to the next layer that is computed: what a part uses stays for those that follow, and a sweep
    /// goes on behind the last.
    pub fn come(&mut self, part: PartOf) {
        self.part = part;
    }

    /// Goes on to the next layer as a sweep does, where so many experts of this one are `used` by a chunk of so many `tokens`
    /// that nearly all of the next one's will be: its first experts are read while the last ones of this layer are computed.
    ///
    /// # Errors
    /// When the reader refuses the reads.
    pub fn sweep_on(&mut self, layer: usize, tokens: usize, used: usize) -> Result<()> {
        let before = if self.part.first { (0, 0) } else { self.parts_before };
        let (tokens, used) = (tokens.max(before.0), used.max(before.1));
        if !self.part.last {
            self.parts_before = (tokens, used);
            return Ok(());
        }
        if tokens < 2 {
            return Ok(());
        }
        let nearly_all = used as f64 >= SWEEP_SHARE * self.layout.experts(layer) as f64;
        if self.first_with_experts() == Some(layer) {
            let known = self.sweeping_tokens;
            self.sweeping_tokens = match nearly_all {
                true => Some(known.map_or(tokens, |known| known.min(tokens))),
                false => known.filter(|&known| known > tokens),
            };
        }
        match nearly_all {
            true => self.sweep(layer + 1),
            false => Ok(()),
        }
    }

    /// Begins a sweep with a chunk of so many tokens: where earlier ones of no more used nearly all experts of the first layer
    /// that has any, its first experts are read before its router has chosen.
    ///
    /// # Errors
    /// When the reader refuses the reads.
    pub fn sweep_first(&mut self, tokens: usize) -> Result<()> {
        match self.first_with_experts() {
            Some(layer) if self.sweeping_tokens.is_some_and(|known| tokens >= known) => self.sweep(layer),
            _ => Ok(()),
        }
    }

    fn first_with_experts(&self) -> Option<usize> {
        (0..self.layout.layers()).find(|&layer| self.layout.experts(layer) > 0)
    }

    fn sweep(&mut self, layer: usize) -> Result<()> {
        if !self.sweeps_on || layer >= self.layout.layers() {
            return Ok(());
        }
        let limits = self.sweep_limits(layer);
        self.read_early(layer, 0..self.layout.experts(layer) as u32, limits)
    }

    /// Has [`Self::sweep_on`] and [`Self::sweep_first`] do nothing.
    pub fn never_sweep_on(&mut self) {
        self.sweeps_on = false;
    }

    /// How much of a layer a prompt reads early: a share of what memory holds.
    pub fn sweep_limits(&self, layer: usize) -> EarlyLimits {
        let slots = if self.layout.experts(layer) > 0 { self.residency.slots(layer) / EARLY_SHARE } else { 0 };
        EarlyLimits { bytes: u64::MAX, slots }
    }

    /// How many of a token's experts are read early at most.
    pub fn guess_slots(&self, layer: usize) -> usize {
        self.residency.slots(layer) / GUESS_SHARE
    }

    /// Gives what was set aside for early experts back to the cache.
    pub fn read_none_early(&mut self) {
        for layer in 0..self.layout.layers() {
            if self.layout.experts(layer) > 0 {
                self.residency.set_spares(layer, 0);
            }
        }
    }

    /// Frees the slots of early experts that are of no use and not in flight.
    pub(super) fn sweep_early(&mut self) {
        let residency = &mut self.residency;
        self.early.retain(|early| {
            let over = early.dropped && early.reads_left == 0;
            if over {
                residency.drop_early(early.slot);
            }
            !over
        });
    }
}
