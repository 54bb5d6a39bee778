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

use outpour_kernels::{Activation, Bias, Contribution, Matrix, Mlp, MlpJob, Ops, Router, Tensor};
use outpour_store::StoreError;

use super::mlp;
use super::norm::Norm;
use crate::config::{Config, ModelError};
use crate::weights::{ExpertsOf, Weights};
use crate::{Batch, Run, Workspace};

/// Rows of expert output that a wave makes at most, where a batch has fewer tokens than that.
const WAVE_ROWS: usize = 1024;

/// Rows from which on no further expert joins those that are computed together: with the last one's not more than a backend takes at
/// once, as a rule, and no longer than the reads take that fly meanwhile.
const TOGETHER_ROWS: usize = 256;

/// The config's key for the number of experts chosen for each token, as families spell it.
pub const TOP_K: &[&str] = &["num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k"];

/// Sizes of a sparse layer.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Experts in the layer.
    pub experts: usize,
    /// Experts chosen for each token.
    pub top_k: usize,
    /// Width of an expert.
    pub width: usize,
}

impl Sizes {
    /// Reads the number of experts under the first of `experts` that is there, `num_experts_per_tok`, and the width of an
    /// expert.
    ///
    /// # Errors
    /// When a key is missing, or there are fewer experts than are chosen.
    pub fn read(config: &Config, experts: &[&'static str], width: &str) -> Result<Self, ModelError> {
        let sizes =
            Sizes { experts: config.size_of(experts)?, top_k: config.size_of(TOP_K)?, width: config.size(width)? };
        let Sizes { experts: count, top_k, .. } = sizes;
        match top_k > count {
            true => Err(ModelError::Config(format!(
                "{} {top_k} is more than {} {count}; download it again",
                config.spelling(TOP_K),
                experts[0]
            ))),
            false => Ok(sizes),
        }
    }
}

/// Which layers are sparse: those that `mlp_only_layers` does not name, `decoder_sparse_step` apart (Qwen).
///
/// # Errors
/// When a key has the wrong type.
pub fn sparse_layers(config: &Config) -> Result<impl Fn(usize) -> bool + use<>, ModelError> {
    let (dense, step) = (config.layers("mlp_only_layers")?, config.size_or("decoder_sparse_step", 1)?);
    Ok(move |layer: usize| !dense.contains(&layer) && (layer + 1).is_multiple_of(step))
}

/// One sparse layer.
pub struct Moe {
    layer: usize,
    hidden: usize,
    width: usize,
    experts: usize,
    /// So many more that give what they are given: the router knows them, and they have no weights.
    idle: usize,
    router: Router,
    gate: Matrix,
    gate_bias: Option<Bias>,
    gate_scale: f32,
    biases: Option<[Bias; 3]>,
    /// Whether weights multiply what experts read, and not what they say.
    weighs_input: bool,
    shared: Option<SharedExpert>,
    /// `[latent, hidden]` and `[hidden, latent]`, where experts read and write vectors of another width than the stream.
    latent: Option<[Matrix; 2]>,
    /// `[vocab, 4 · top_k]` or `[vocab, 8 · top_k]` bytes: the experts of each token, where its id chooses them.
    by_token: Option<Tensor>,
}

/// An expert that every token goes through.
pub struct SharedExpert {
    mlp: Mlp,
    /// `[1, hidden]`: its output is weighted by sigmoid(gate · x), where there is one.
    gate: Option<Matrix>,
}

impl SharedExpert {
    /// Loads `{prefix}.shared_expert.*` and `{prefix}.shared_expert_gate.weight` (Qwen).
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn gated(weights: &mut Weights, prefix: &str, hidden: usize, width: usize) -> Result<Self, ModelError> {
        Ok(SharedExpert {
            mlp: mlp::load(weights, &format!("{prefix}.shared_expert"), hidden, width)?,
            gate: Some(weights.matrix(&format!("{prefix}.shared_expert_gate.weight"), 1, hidden)?.exact()),
        })
    }

    /// Loads `{prefix}.shared_experts.*` (DeepSeek).
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn plain(
        weights: &mut Weights,
        prefix: &str,
        hidden: usize,
        width: usize,
        activation: Activation,
    ) -> Result<Self, ModelError> {
        let mlp = mlp::load_with(weights, &format!("{prefix}.shared_experts"), hidden, width, activation)?;
        Ok(SharedExpert::ungated(mlp))
    }

    /// Such an MLP, whose output is added as it is.
    pub fn ungated(mlp: Mlp) -> Self {
        SharedExpert { mlp, gate: None }
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    fn workspace_bytes(&self, n: usize) -> usize {
        mlp::workspace_bytes(n, self.mlp.up.cols(), self.mlp.width()) + Workspace::f32_bytes(n)
    }

    /// `into += mlp(x)`, or `sigmoid(gate · x) · mlp(x)`.
    fn forward(&self, x: &Tensor, into: &Tensor, run: &mut Run) {
        let mark = run.workspace.mark();
        let out = mlp::apply(&self.mlp, x, run);
        match &self.gate {
            None => run.ops.add(&out, into),
            Some(matrix) => {
                let gate = run.workspace.f32([x.dim(0), 1]);
                run.ops.linear(x, matrix, &gate);
                run.ops.add_gated(&out, &gate, into);
            }
        }
        run.workspace.release(mark);
    }
}

/// A layer's choices, sorted by expert. Kept between layers for its memory.
#[derive(Default)]
pub struct Choices {
    choice: Vec<i32>,
    weight: Vec<f32>,
    /// Experts chosen, ascending, but for idle ones.
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
    /// Experts that are computed together, and their places in `experts`.
    jobs: Vec<MlpJob>,
    places: Vec<usize>,
}

impl Moe {
    /// Takes the router's matrix `gate` `[experts, hidden]`, of more rows where there are idle experts (LongCat), and the shared expert if there is one, and notes where the
    /// experts lie. The caller has loaded `gate` before: its shape confirms the number of experts before tables are made
    /// for them.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub fn load(
        weights: &mut Weights,
        of: &ExpertsOf,
        gate: Matrix,
        router: Router,
        shared: Option<SharedExpert>,
    ) -> Result<Self, ModelError> {
        weights.experts(of)?;
        Ok(Moe {
            layer: of.layer,
            hidden: of.hidden,
            width: of.width,
            experts: of.experts,
            idle: gate.rows().saturating_sub(of.experts),
            router,
            gate: gate.exact(),
            gate_bias: None,
            gate_scale: 1.0,
            biases: None,
            weighs_input: false,
            shared,
            latent: None,
            by_token: None,
        })
    }

    /// The same with a bias of the router's matrix, and biases of the experts' gate, up and down, each `[experts, ..]`.
    pub fn biased(self, gate_bias: Bias, biases: [Bias; 3]) -> Self {
        Moe { gate_bias: Some(gate_bias), biases: Some(biases), ..self }
    }

    /// The same with logits multiplied by `gate_scale`.
    pub fn scaled(self, gate_scale: f32) -> Self {
        Moe { gate_scale, ..self }
    }

    /// The same where a token's one expert reads its weight times the token, and what it says is added as it is (Llama 4).
    pub fn weighing_input(self) -> Self {
        assert_eq!(self.router.top_k, 1, "invariant: the caller has refused more experts a token");
        Moe { weighs_input: true, ..self }
    }

    /// The same where `latent[0]` `[latent, hidden]` makes what the experts read, and `latent[1]` `[hidden, latent]` brings the sum
    /// of their outputs back to the stream (Nemotron-3 Super).
    pub fn latent(self, latent: Option<[Matrix; 2]>) -> Self {
        Moe { latent, ..self }
    }

    /// The same where `table` names the experts of each token: see [`Weights::table`].
    pub fn by_token(self, table: Tensor) -> Self {
        Moe { by_token: Some(table), ..self }
    }

    /// What the router chooses from.
    fn logits(&self) -> usize {
        self.experts + self.idle
    }

    /// Experts chosen for each token.
    pub fn top_k(&self) -> usize {
        self.router.top_k
    }

    /// Bytes of workspace of [`Self::forward`] for `n` tokens.
    pub fn workspace_bytes(&self, n: usize) -> usize {
        let top_k = self.router.top_k;
        self.shared.as_ref().map_or(0, |shared| shared.workspace_bytes(n))
            + Workspace::f32_bytes(n * self.logits())
            + 2 * Workspace::f32_bytes(n * top_k)
            + if self.weighs_input { Workspace::f32_bytes(n * self.hidden) } else { 0 }
            + mlp::scratch_bytes(rows_together(n, top_k), self.hidden, self.width)
            + Workspace::f32_bytes(wave_rows(n, top_k) * self.hidden)
            + self
                .latent
                .as_ref()
                .map_or(0, |_| 2 * Workspace::f32_bytes(n * self.hidden) + Workspace::f32_bytes(n * self.gate.cols()))
    }

    /// x `[n, hidden]` → logits `[n, experts]`, and by them, and where that counts by the tokens, choice and weights `[n, top_k]`.
    fn route(&self, ops: &dyn Ops, tokens: &[u32], x: &Tensor, logits: &Tensor, choice: &Tensor, weights: &Tensor) {
        ops.linear(x, &self.gate, logits);
        if let Some(bias) = &self.gate_bias {
            ops.add_bias(logits, bias);
        }
        if self.gate_scale != 1.0 {
            ops.scale(logits, self.gate_scale, None);
        }
        match &self.by_token {
            None => ops.route(logits, &self.router, choice, weights),
            Some(table) => {
                ops.look_up(table, self.experts, tokens, choice);
                ops.weigh(logits, &self.router, choice, weights);
            }
        }
    }

    /// `into += Σ weight · expert(x)`: x and into `[n, hidden]`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn forward(&self, batch: &Batch, x: &Tensor, into: &Tensor, run: &mut Run) -> Result<(), StoreError> {
        self.forward_routed(batch, x, x, into, run)
    }

    /// The same where the router reads something else than the experts: router_x `[n, hidden]`.
    ///
    /// # Errors
    /// When an expert cannot be read.
    pub fn forward_routed(
        &self,
        batch: &Batch,
        router_x: &Tensor,
        x: &Tensor,
        into: &Tensor,
        run: &mut Run,
    ) -> Result<(), StoreError> {
        let (n, k) = (batch.len(), self.router.top_k);
        let logits = run.workspace.f32([n, self.logits()]);
        let choice = run.workspace.i32([n, k]);
        let weights = run.workspace.f32([n, k]);
        self.route(run.ops, &batch.tokens, router_x, &logits, &choice, &weights);
        let mut choices = std::mem::take(run.choices);
        choices.fetch(run.ops, &choice, &weights);
        run.routes.chosen(self.layer, &batch.positions, &choices.choice, &choices.weight);
        choices.sort(k, self.experts);
        let done = match &self.latent {
            None if self.weighs_input => {
                let weighed = run.workspace.f32([n, self.hidden]); // [n, hidden]
                choices.weigh_input();
                run.ops.zero(&weighed);
                run.ops.combine(x, &choices.contributions, &weighed);
                self.waves(&mut choices, [&weighed, into], [x, into], run)
            }
            None => self.waves(&mut choices, [x, into], [x, into], run),
            Some([before, behind]) => {
                let [latent, sum] = [(); 2].map(|()| run.workspace.f32([n, self.hidden])); // [n, latent]
                let out = run.workspace.f32([n, behind.rows()]); // [n, hidden]
                run.ops.linear(x, before, &latent);
                run.ops.zero(&sum);
                let done = self.waves(&mut choices, [&latent, &sum], [x, into], run);
                run.ops.linear(&sum, behind, &out);
                run.ops.add(&out, into);
                done
            }
        };
        *run.choices = choices;
        done
    }

    /// The experts `[n, top_k]` that the router would choose from the residual stream x `[n, hidden]`, behind the norm that
    /// stands before it; none where the token's id chooses.
    pub fn guess(&self, norm: &Norm, ops: &dyn Ops, workspace: &mut Workspace, x: &Tensor, experts: &mut Vec<i32>) {
        if self.by_token.is_some() {
            return experts.clear();
        }
        let (n, k) = (x.dim(0), self.router.top_k);
        let mark = workspace.mark();
        let normed = workspace.f32([n, x.dim(1)]);
        let logits = workspace.f32([n, self.logits()]);
        let choice = workspace.i32([n, k]);
        let weights = workspace.f32([n, k]);
        norm.apply(ops, x, &normed);
        self.route(ops, &[], &normed, &logits, &choice, &weights);
        experts.resize(n * k, 0);
        ops.fetch(&choice, bytemuck::cast_slice_mut(experts)).wait();
        workspace.release(mark);
    }

    /// The experts `[n, top_k]` of tokens whose ids choose them; none where the router does.
    pub fn known(&self, ops: &dyn Ops, workspace: &mut Workspace, tokens: &[u32], experts: &mut Vec<i32>) {
        experts.clear();
        let Some(table) = &self.by_token else { return };
        let mark = workspace.mark();
        let choice = workspace.i32([tokens.len(), self.router.top_k]);
        ops.look_up(table, self.experts, tokens, &choice);
        experts.resize(tokens.len() * self.router.top_k, 0);
        ops.fetch(&choice, bytemuck::cast_slice_mut(experts)).wait();
        workspace.release(mark);
    }

    fn biases_of(&self, expert: u32) -> Option<[Bias; 3]> {
        let row = expert as usize..expert as usize + 1;
        let of = |bias: &Bias| Bias { values: bias.values.rows(row.clone()), ..*bias };
        self.biases.as_ref().map(|biases| biases.each_ref().map(of))
    }

    /// `into += Σ weight · expert(x)` for `[x, into]`, and the shared expert for `shared`.
    fn waves(
        &self,
        choices: &mut Choices,
        [x, into]: [&Tensor; 2],
        shared: [&Tensor; 2],
        run: &mut Run,
    ) -> Result<(), StoreError> {
        let n = x.dim(0);
        let rows_max = wave_rows(n, self.router.top_k);
        let scratch = mlp::scratch(run.workspace, rows_together(n, self.router.top_k), self.hidden, self.width);
        let parts = run.workspace.f32([rows_max, self.hidden]);
        let slots = run.experts.available(self.layer);
        // Two waves at a time, unless everything fits at once.
        let experts_max = if choices.experts.len() <= slots { slots } else { (slots / 2).max(1) };
        let share = run.experts.share(self.layer, choices.experts.len());
        let passing = choices.experts.len() > share;
        let kept_from = choices.kept_from(share);
        let mut wave = choices.wave(0, rows_max, experts_max);
        run.experts.request(self.layer, &choices.experts[wave.clone()], passing)?;
        if let Some(expert) = &self.shared {
            // While the first reads fly.
            expert.forward(shared[0], shared[1], run);
        }
        while !wave.is_empty() {
            let next = choices.wave(wave.end, rows_max, experts_max);
            let early = next.len() <= run.experts.available(self.layer);
            if early {
                run.experts.request(self.layer, &choices.experts[next.clone()], passing)?;
            }
            if next.is_empty() {
                run.experts.sweep_on(self.layer, n, choices.experts.len())?;
            }
            let first_row = choices.starts[wave.start];
            let last_row = choices.starts[wave.end];
            while self.take_ready(choices, &wave, run)? {
                let tokens = &choices.tokens[first_row..last_row];
                run.ops.mlps(x, tokens, &choices.jobs, &scratch, &parts.rows(0..last_row - first_row));
                for &place in &choices.places {
                    let kept = choices.tokens[choices.starts[place + 1] - 1] >= kept_from;
                    run.experts.release(choices.experts[place], kept);
                }
                // They hold on to their slots' memory.
                choices.jobs.clear();
            }
            choices.contribute(&wave);
            run.ops.combine(&parts, &choices.contributions, into);
            if !early {
                run.experts.request(self.layer, &choices.experts[next.clone()], passing)?;
            }
            wave = next;
        }
        if self.idle > 0 {
            choices.contribute_idle();
            run.ops.combine(x, &choices.contributions, into);
        }
        run.experts.end_layer(self.layer);
        Ok(())
    }

    /// Takes those experts of a wave that are there, waiting for the first, but no more than are computed together; `false`
    /// when all have been.
    fn take_ready(&self, choices: &mut Choices, wave: &Range<usize>, run: &mut Run) -> Result<bool, StoreError> {
        let Choices { experts, starts, jobs, places, .. } = choices;
        let (mut rows_taken, first_row) = (0, starts[wave.start]);
        places.clear();
        // As many as may be there at once, so that nothing is allocated later.
        places.reserve(wave.len());
        jobs.reserve(wave.len());
        while rows_taken < TOGETHER_ROWS {
            let next = run.experts.next_ready(self.layer, &experts[wave.clone()], places.is_empty())?;
            let Some((i, mut mlp)) = next else { break };
            let place = wave.start + i;
            mlp.biases = self.biases_of(experts[place]);
            let rows = starts[place] - first_row..starts[place + 1] - first_row;
            rows_taken += rows.len();
            places.push(place);
            jobs.push(MlpJob { mlp, rows });
        }
        Ok(!places.is_empty())
    }
}

/// Rows of experts that are computed together, at most: all of a token's, or the last ones' beyond [`TOGETHER_ROWS`].
fn rows_together(n: usize, top_k: usize) -> usize {
    (n * top_k).min(n + TOGETHER_ROWS)
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

    /// Sorts tokens by expert: a counting sort, stable in the order of rows. Experts from number `experts` on are idle: their
    /// tokens are behind all others'.
    fn sort(&mut self, top_k: usize, experts: usize) {
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
        let busy = self.experts.partition_point(|&expert| (expert as usize) < experts);
        self.experts.truncate(busy);
        self.starts.truncate(busy + 1);
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

    /// What idle experts add: tokens themselves.
    fn contribute_idle(&mut self) {
        let rows = self.starts.last().copied().unwrap_or(0)..self.tokens.len();
        self.contributions.clear();
        self.contributions.extend(
            self.tokens[rows.clone()].iter().zip(&self.weights[rows]).map(|(&token, &weight)| Contribution {
                token,
                row: token,
                weight,
            }),
        );
    }

    /// Makes each token's weight the share of its own that its one expert reads, and that of what the expert says 1.
    fn weigh_input(&mut self) {
        self.contributions.clear();
        let weights = self.weight.iter().enumerate();
        self.contributions.extend(weights.map(|(row, &weight)| Contribution {
            token: row as u32,
            row: row as u32,
            weight,
        }));
        self.weights.fill(1.0);
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
