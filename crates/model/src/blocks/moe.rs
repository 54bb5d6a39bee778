//! A sparse layer: the router picks `top_k` experts for each token, and their outputs are summed by its weights.
//!
//! Experts are taken in waves, in ascending order: as many as scratch and slots hold. The next wave's reads fly while
//! a wave is computed, each expert is applied to all its tokens as one matrix product, and within a wave experts are
//! computed as they arrive. Their outputs are added to each token in ascending order of expert, whatever came first,
//! however the waves were cut: so a token's sum has the same bits in a prompt and alone.
//!
//! A prompt leaves memory as its tokens would have done one by one: of each layer those experts are kept that its last
//! tokens chose, and the sweep over all the others passes through what room is left.

use std::ops::Range;

use outpour_kernels::{Contribution, Matrix, Mlp, Ops, RmsNorm, Router, Tensor};
use outpour_store::StoreError;

use super::mlp;
use crate::config::ModelError;
use crate::weights::{ExpertsOf, Weights};
use crate::{Batch, Run, Workspace};

/// Rows of expert output that a wave makes at most, where a batch has fewer tokens than that.
const WAVE_ROWS: usize = 1024;

/// One sparse layer.
pub struct Moe {
    layer: usize,
    hidden: usize,
    width: usize,
    experts: usize,
    router: Router,
    gate: Matrix,
    shared: Option<SharedExpert>,
}

/// An expert that every token goes through, weighted by sigmoid(gate · x).
pub struct SharedExpert {
    mlp: Mlp,
    gate: Matrix, // [1, hidden]
}

impl SharedExpert {
    /// Loads `{prefix}.shared_expert.*` and `{prefix}.shared_expert_gate.weight`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(weights: &mut Weights, prefix: &str, hidden: usize, width: usize) -> Result<Self, ModelError> {
        Ok(SharedExpert {
            mlp: mlp::load(weights, &format!("{prefix}.shared_expert"), hidden, width)?,
            gate: weights.matrix(&format!("{prefix}.shared_expert_gate.weight"), 1, hidden)?.exact(),
        })
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    fn workspace_bytes(n: usize, hidden: usize, width: usize) -> usize {
        mlp::workspace_bytes(n, hidden, width) + Workspace::f32_bytes(n)
    }

    /// `into += sigmoid(gate · x) · mlp(x)`.
    fn forward(&self, x: &Tensor, into: &Tensor, run: &mut Run) {
        let mark = run.workspace.mark();
        let gate = run.workspace.f32([x.dim(0), 1]);
        let out = mlp::apply(&self.mlp, x, run);
        run.ops.linear(x, &self.gate, &gate);
        run.ops.add_gated(&out, &gate, into);
        run.workspace.release(mark);
    }
}

/// A layer's choices, sorted by expert. Kept between layers for its memory.
#[derive(Default)]
pub struct Choices {
    choice: Vec<i32>,
    weight: Vec<f32>,
    /// Experts chosen, ascending.
    experts: Vec<u32>,
    /// Where each one's tokens begin in `tokens`; one more than experts.
    starts: Vec<usize>,
    /// Rows of the batch, by expert, ascending.
    tokens: Vec<u32>,
    /// Weight of each.
    weights: Vec<f32>,
    /// The last row of the batch that chose each expert; for [`Self::kept_from`] only.
    last_rows: Vec<u32>,
    /// For `Ops::combine`.
    contributions: Vec<Contribution>,
}

impl Moe {
    /// Loads the router `{prefix}.gate.weight`, takes the shared expert if there is one, and notes where the experts lie.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        of: &ExpertsOf,
        router: Router,
        shared: Option<SharedExpert>,
    ) -> Result<Self, ModelError> {
        // The router first: its shape confirms the number of experts before tables are made for them.
        let gate = weights.matrix(&format!("{}.gate.weight", of.prefix), of.experts, of.hidden)?.exact();
        weights.experts(of)?;
        Ok(Moe { layer: of.layer, hidden: of.hidden, width: of.width, experts: of.experts, router, gate, shared })
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens, with a shared expert of this width or none (0).
    pub fn workspace_bytes(n: usize, of: &ExpertsOf, top_k: usize, shared_width: usize) -> usize {
        let shared = if shared_width > 0 { SharedExpert::workspace_bytes(n, of.hidden, shared_width) } else { 0 };
        shared
            + Workspace::f32_bytes(n * of.experts)
            + 2 * Workspace::f32_bytes(n * top_k)
            + mlp::scratch_bytes(n, of.hidden, of.width)
            + Workspace::f32_bytes(wave_rows(n, top_k) * of.hidden)
    }

    /// `into += Σ weight · expert(x)`: x and into `[n, hidden]`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn forward(&self, batch: &Batch, x: &Tensor, into: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        let (n, k) = (batch.len(), self.router.top_k);
        let logits = run.workspace.f32([n, self.experts]);
        let choice = run.workspace.i32([n, k]);
        let weights = run.workspace.f32([n, k]);
        run.ops.linear(x, &self.gate, &logits);
        run.ops.route(&logits, &self.router, &choice, &weights);
        let mut choices = std::mem::take(run.choices);
        choices.fetch(run.ops, &choice, &weights);
        run.routes.chosen(self.layer, &batch.positions, &choices.choice, &choices.weight);
        choices.sort(k);
        let done = self.waves(&mut choices, x, into, run);
        *run.choices = choices;
        done
    }

    /// The experts `[n, top_k]` that the router would choose from the residual stream x `[n, hidden]`, behind the norm that
    /// stands before it.
    pub fn guess(&self, norm: &RmsNorm, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        let (n, k) = (x.dim(0), self.router.top_k);
        let mark = workspace.mark();
        let normed = workspace.f32([n, self.hidden]);
        let logits = workspace.f32([n, self.experts]);
        let choice = workspace.i32([n, k]);
        let weights = workspace.f32([n, k]);
        ops.rms_norm(x, norm, &normed);
        ops.linear(&normed, &self.gate, &logits);
        ops.route(&logits, &self.router, &choice, &weights);
        experts.resize(n * k, 0);
        ops.fetch(&choice, bytemuck::cast_slice_mut(experts)).wait();
        workspace.release(mark);
    }

    fn waves(&self, choices: &mut Choices, x: &Tensor, into: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        let n = x.dim(0);
        let rows_max = wave_rows(n, self.router.top_k);
        let scratch = mlp::scratch(run.workspace, n, self.hidden, self.width);
        let parts = run.workspace.f32([rows_max, self.hidden]);
        let slots = run.experts.available(self.layer);
        // Two waves at a time, unless everything fits at once.
        let experts_max = if choices.experts.len() <= slots { slots } else { (slots / 2).max(1) };
        let kept_from = choices.kept_from(run.experts.share(self.layer));
        let mut wave = choices.wave(0, rows_max, experts_max);
        run.experts.request(self.layer, &choices.experts[wave.clone()])?;
        if let Some(shared) = &self.shared {
            // While the first reads fly.
            shared.forward(x, into, run);
        }
        while !wave.is_empty() {
            let next = choices.wave(wave.end, rows_max, experts_max);
            let early = next.len() <= run.experts.available(self.layer);
            if early {
                run.experts.request(self.layer, &choices.experts[next.clone()])?;
            }
            if next.is_empty() && n > 1 {
                run.experts.sweep_on(self.layer, choices.experts.len())?;
            }
            let first_row = choices.starts[wave.start];
            while let Some((i, expert)) = run.experts.next_ready(self.layer, &choices.experts[wave.clone()])? {
                let rows = choices.starts[wave.start + i]..choices.starts[wave.start + i + 1];
                let out = parts.rows(rows.start - first_row..rows.end - first_row);
                let kept = choices.tokens[rows.end - 1] >= kept_from;
                run.ops.mlp(x, &choices.tokens[rows], &expert, &scratch, &out);
                run.experts.release(choices.experts[wave.start + i], kept);
            }
            choices.contribute(&wave);
            run.ops.combine(&parts, &choices.contributions, into);
            if !early {
                run.experts.request(self.layer, &choices.experts[next.clone()])?;
            }
            wave = next;
        }
        run.experts.end_layer(self.layer);
        Ok(())
    }
}

/// Rows of expert output of one wave: every token may choose the same expert.
fn wave_rows(n: usize, top_k: usize) -> usize {
    n.max((n * top_k).min(WAVE_ROWS))
}

impl Choices {
    /// Brings the router's choice to the host.
    fn fetch(&mut self, ops: &dyn Ops, choice: &Tensor, weights: &Tensor) {
        self.choice.resize(choice.elements(), 0);
        self.weight.resize(weights.elements(), 0.0);
        let choice = ops.fetch(choice, bytemuck::cast_slice_mut(&mut self.choice));
        let weight = ops.fetch(weights, bytemuck::cast_slice_mut(&mut self.weight));
        choice.wait();
        weight.wait();
    }

    /// Sorts tokens by expert: a counting sort, stable in the order of rows.
    fn sort(&mut self, top_k: usize) {
        let chosen = self.choice.len();
        self.experts.clear();
        self.experts.extend(self.choice.iter().map(|&expert| expert as u32));
        self.experts.sort_unstable();
        self.experts.dedup();
        self.starts.clear();
        self.starts.resize(self.experts.len() + 1, 0);
        for &expert in &self.choice {
            self.starts[position(&self.experts, expert) + 1] += 1;
        }
        for i in 1..self.starts.len() {
            self.starts[i] += self.starts[i - 1];
        }
        self.tokens.resize(chosen, 0);
        self.weights.resize(chosen, 0.0);
        for (i, (&expert, &weight)) in self.choice.iter().zip(&self.weight).enumerate() {
            let start = &mut self.starts[position(&self.experts, expert)];
            self.tokens[*start] = (i / top_k) as u32;
            self.weights[*start] = weight;
            *start += 1;
        }
        // Every start has moved to its own end, which is the next one's beginning.
        self.starts.rotate_right(1);
        self.starts[0] = 0;
    }

    /// What was chosen, `[tokens, top_k]`, in descending order of weight.
    pub fn chosen(&self) -> &[i32] {
        &self.choice
    }

    /// The row from which on a choice keeps an expert in memory, so that at most `share` of them, the last used, stay;
    /// those of the last row always do.
    fn kept_from(&mut self, share: usize) -> u32 {
        if self.experts.len() <= share {
            return 0;
        }
        self.last_rows.clear();
        self.last_rows.extend(self.starts[1..].iter().map(|&end| self.tokens[end - 1]));
        let last = self.last_rows.iter().max().copied().unwrap_or(0);
        // The first of those, by row descending, that do not fit: whatever is as old as it goes too.
        let (_, first_out, _) = self.last_rows.select_nth_unstable_by(share, |a, b| b.cmp(a));
        last.min(*first_out + 1)
    }

    /// The experts of the wave that begins at `first`.
    fn wave(&self, first: usize, rows_max: usize, experts_max: usize) -> Range<usize> {
        let last = self.experts.len().min(first + experts_max);
        let mut end = first;
        while end < last && self.starts[end + 1] - self.starts[first] <= rows_max {
            end += 1;
        }
        first..end
    }

    fn contribute(&mut self, wave: &Range<usize>) {
        let rows = self.starts[wave.start]..self.starts[wave.end];
        self.contributions.clear();
        self.contributions.extend(
            self.tokens[rows.clone()]
                .iter()
                .zip(&self.weights[rows])
                .enumerate()
                .map(|(row, (&token, &weight))| Contribution { token, row: row as u32, weight }),
        );
    }
}

fn position(experts: &[u32], expert: i32) -> usize {
    experts.binary_search(&(expert as u32)).expect("invariant: the list was made from the same choices")
}
