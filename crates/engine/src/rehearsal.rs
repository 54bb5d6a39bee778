//! How long a model computes where nothing waits for a drive: its own layers, at their shapes and in their formats, over
//! noise. `plan` asks this before any weight is there.
//!
//! Nothing is read. The trunk is folded into one buffer of noise ([`Weights::fold`]) that no cache holds, and experts come at
//! once from a reader that brings nothing. The residual stream is fresh noise before each layer, so that tokens choose
//! their experts independently of each other. Layers of one kind cost the same, so a few of each are timed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outpour_kernels::cpu::last_level_cache_bytes;
use outpour_kernels::{Buffer, DType, Ops, Tensor};
use outpour_model::blocks::moe::Choices;
use outpour_model::state::BlockPool;
use outpour_model::weights::{BackendRegion, Weights, allocate_region};
use outpour_model::{Batch, ExpertStream, Model, Run, State};
use outpour_store::layout::ExpertId;
use outpour_store::plan::{Ask, Plan, TrunkNeeds};
use outpour_store::read::{Completion, Read, Reader, ReaderCounts, Region};
use outpour_store::residency::Residency;
use outpour_store::slab::Slab;

use crate::error::EngineError;
use crate::inspection::{Inspection, Options};
use crate::sample::{Sampler, Sampling};
use crate::scratch::{Scratch, Stream, sweep_rows};

/// What is timed.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Tokens of a prompt.
    pub prompt_tokens: usize,
    /// How many of them are computed together; at most [`PROMPT_ROWS_MAX`] of them are rehearsed.
    pub prompt_chunk: usize,
    /// Tokens before a single one.
    pub context: usize,
    /// How long each kind of pass may take, once each kind of layer was timed.
    pub budget: Duration,
}

/// Rows of a prompt that are rehearsed at most; more rows take as much longer.
pub const PROMPT_ROWS_MAX: usize = 1024;

/// Seconds of computing.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Of one token of an answer, at the end of a context.
    pub token: Pass,
    /// Of a prompt's chunk.
    pub prompt: Pass,
}

/// Seconds of computing some rows through the whole model.
#[derive(Clone, Debug)]
pub struct Pass {
    /// Rows that were rehearsed.
    pub rows: usize,
    /// By layer.
    pub layers: Vec<LayerSeconds>,
    /// Embedding, head and the choice of a token.
    pub head: f64,
}

/// Seconds of computing a layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerSeconds {
    /// Outside the experts.
    pub trunk: f64,
    /// Experts, the shared one included.
    pub experts: f64,
}

impl Inspection {
    /// Rehearses a token and a prompt.
    ///
    /// # Errors
    /// When there is no memory for it, or no backend.
    pub fn rehearse(&self, options: &Options, extent: Extent) -> Result<Rehearsal, EngineError> {
        let tokens = extent.prompt_tokens.clamp(1, self.facts().context_max);
        let rows = extent.prompt_chunk.clamp(1, PROMPT_ROWS_MAX).min(tokens);
        // Attention costs in proportion to the past, so those in the middle of the prompt cost as much as all do on average.
        let past = (tokens - rows) / 2;
        let rehearsed_past = self.past_that_fits(past, rows);
        let mut stage = Stage::set(self, options, rows, extent.context.max(rehearsed_past))?;
        let token = stage.pass(1, extent.context, extent.budget, SAMPLES_MIN)?;
        let mut prompt = stage.pass(rows, rehearsed_past, extent.budget, 1)?;
        if rehearsed_past < past {
            let without = stage.pass(rows, 0, extent.budget, 1)?;
            let longer = past as f64 / rehearsed_past.max(1) as f64;
            for (layer, without) in prompt.layers.iter_mut().zip(&without.layers) {
                layer.trunk = without.trunk + longer * (layer.trunk - without.trunk).max(0.0);
            }
        }
        Ok(Rehearsal { token, prompt })
    }

    /// As much of a past as takes no more than [`PAST_BYTES`].
    fn past_that_fits(&self, past: usize, rows: usize) -> usize {
        let bytes = |tokens: usize| -> usize {
            self.model().state_layout().slots(tokens, rows).into_iter().map(|(bytes, count)| bytes * count).sum()
        };
        let fits = |past: &usize| bytes(past + rows) <= bytes(rows) + PAST_BYTES;
        std::iter::successors(Some(past), |past| (*past > 0).then_some(past / 2)).find(fits).unwrap_or(0)
    }
}

/// Times of each kind of layer at least, where they are short.
const SAMPLES_MIN: usize = 3;
/// Bytes of keys, values and states of the past that a prompt is rehearsed behind: with more, it is measured without and with
/// that much.
const PAST_BYTES: usize = 256 << 20;
/// Bytes of experts among which a token finds its own: no cache holds them.
const EXPERT_BYTES: usize = 256 << 20;
/// Multiples of a token's experts that the slab holds.
const EXPERTS_OF_TOKENS: usize = 8;

/// A model without its weights.
struct Stage {
    ops: Box<dyn Ops>,
    model: Box<dyn Model>,
    experts: ExpertStream,
    scratch: Scratch,
    choices: Choices,
    blocks: BlockPool,
    /// The kind of each layer.
    kinds: Vec<usize>,
    noise: Noise,
}

impl Stage {
    fn set(inspection: &Inspection, options: &Options, rows: usize, context: usize) -> Result<Stage, EngineError> {
        let ops = options.open_backend()?;
        let mut noise = Noise(1);
        let trunk_bytes = inspection.trunk.bytes().min((4 * last_level_cache_bytes()).max(EXPERT_BYTES));
        let trunk = ops.alloc_host(trunk_bytes.max(inspection.largest_tensor_bytes))?;
        noise.fill(&*ops, &trunk);
        let mut weights = Weights::fold(&inspection.checkpoint, trunk.clone());
        let model = inspection.build(&mut weights)?;
        let tables = weights.tables_only(&*ops)?;

        let plan = slab_plan(inspection, options, &*model, trunk.bytes(), rows, context + rows)?;
        let layout = inspection.layout.clone();
        let mut sizes = layout.classes().to_vec();
        sizes.extend(model.state_layout().slot_bytes());
        let slab = Slab::new(plan.pieces, plan.piece_bytes, &sizes, |bytes| allocate_region(&*ops, bytes))?;
        for region in slab.regions() {
            let region = region.memory().downcast_ref::<BackendRegion>();
            noise.fill(&*ops, region.expect("invariant: allocated just now").buffer());
        }
        let residency = Residency::new(slab, layout.clone(), &plan.class_pieces, inspection.facts().top_k);
        let (checkpoint, shapes) = (inspection.checkpoint.clone(), inspection.shapes.clone());
        let scratch = Scratch::new(&*model, rows, &*ops)?;
        Ok(Stage {
            experts: ExpertStream::new(checkpoint, layout, shapes, residency, tables, Box::new(Nothing::default())),
            choices: Choices::default(),
            blocks: BlockPool::default(),
            kinds: kinds(inspection),
            ops,
            model,
            scratch,
            noise,
        })
    }

    /// Times `rows` rows behind `context` tokens: layers in turn until each kind was timed `samples_min` times and the budget
    /// is over.
    fn pass(&mut self, rows: usize, context: usize, budget: Duration, samples_min: usize) -> Result<Pass, EngineError> {
        let mut state = State::default();
        let residency = self.experts.residency();
        state.reserve(context + rows, self.model.state_layout(), &self.blocks, residency, &*self.ops)?;
        let mut states = [state];
        let mut batch = Batch::default();
        let vocab = self.model.facts().vocab;
        let tokens: Vec<u32> = (0..rows).map(|_| (self.noise.next() % vocab as u64) as u32).collect();
        batch.push(0, context, &tokens);

        let kinds = self.kinds.iter().max().map_or(0, |last| last + 1);
        let mut samples = vec![Vec::new(); kinds];
        // Memory that is touched for the first time is slow.
        self.layer(0, &batch, &mut states)?;
        let began = Instant::now();
        for layer in (0..self.kinds.len()).cycle() {
            let enough = |samples: &Vec<LayerSeconds>| samples.len() >= samples_min;
            let over = began.elapsed() >= budget;
            if over && samples.iter().all(enough) {
                break;
            }
            if over && enough(&samples[self.kinds[layer]]) {
                continue;
            }
            let seconds = self.layer(layer, &batch, &mut states)?;
            samples[self.kinds[layer]].push(seconds);
        }
        let head = (0..samples_min).map(|_| self.head(&batch)).collect();
        let typical: Vec<LayerSeconds> = samples
            .iter()
            .map(|samples| LayerSeconds {
                trunk: median(samples.iter().map(|sample| sample.trunk).collect()),
                experts: median(samples.iter().map(|sample| sample.experts).collect()),
            })
            .collect();
        let [state] = states;
        drop(state);
        self.blocks.reclaim(self.experts.residency());
        Ok(Pass { rows, layers: self.kinds.iter().map(|&kind| typical[kind]).collect(), head: median(head) })
    }

    /// Times a layer.
    fn layer(&mut self, layer: usize, batch: &Batch, states: &mut [State]) -> Result<LayerSeconds, EngineError> {
        let Stream { x, carried } = self.scratch.prompt.first(batch.len());
        let numbers: Vec<f32> = (0..x.elements()).map(|_| self.noise.number()).collect();
        self.ops.write(bytemuck::cast_slice(&numbers), &x);
        let before = self.experts.stats();
        let began = Instant::now();
        let mut run = Run {
            ops: &*self.ops,
            workspace: &mut self.scratch.workspace,
            experts: &mut self.experts,
            choices: &mut self.choices,
            carried,
            routes: &mut (),
        };
        self.model.layer(layer, batch, states, &x, &mut run)?;
        let seconds = began.elapsed().as_secs_f64();
        let experts = self.experts.stats().since(&before).computing.as_secs_f64();
        Ok(LayerSeconds { trunk: seconds - experts, experts })
    }

    /// Times what is outside the layers.
    fn head(&mut self, batch: &Batch) -> f64 {
        let vocab = self.model.facts().vocab;
        let began = Instant::now();
        let x = self.scratch.prompt.x.rows(0..batch.len());
        self.model.embed(&*self.ops, self.model.embedding(), &batch.tokens, &x);
        let (x, logits) = (self.scratch.head_x.rows(0..1), self.scratch.logits.rows(0..1));
        self.ops.gather(&self.scratch.prompt.x, &[batch.len() as u32 - 1], &x);
        self.model.head(&*self.ops, &mut self.scratch.workspace, &x, &logits);
        let host = &mut self.scratch.logits_host[..vocab];
        self.ops.fetch(&logits, bytemuck::cast_slice_mut(host)).wait();
        let embedded_and_projected = began.elapsed();
        // Random logits as wide as a model's, whatever the noise made of them.
        host.iter_mut().for_each(|logit| *logit = 3.0 * self.noise.number() / NUMBER_MAX);
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let mut sampler = Sampler::new(sampling, vocab);
        let began = Instant::now();
        sampler.choose(&self.scratch.logits_host[..vocab], 0);
        (embedded_and_projected + began.elapsed()).as_secs_f64()
    }
}

/// A slab that holds experts of several tokens, and a context.
fn slab_plan(
    inspection: &Inspection,
    options: &Options,
    model: &dyn Model,
    trunk: usize,
    rows: usize,
    context: usize,
) -> Result<Plan, EngineError> {
    let scratch = |chunk| Scratch::bytes(model, chunk);
    let sequence = |ctx, chunk| model.state_layout().slots(ctx, sweep_rows(model, chunk));
    let folded = TrunkNeeds { fixed: trunk, ..TrunkNeeds::default() };
    let sweep = |chunk| sweep_rows(model, chunk);
    let needs = inspection.needs(options, folded, &scratch, &sweep, &sequence);
    let experts: usize = needs
        .classes
        .iter()
        .map(|class| (EXPERTS_OF_TOKENS * class.at_once * class.slot_bytes).max(EXPERT_BYTES))
        .sum();
    let slots = sequence(context, rows);
    let states: usize = slots.iter().map(|(bytes, count)| bytes * count).sum();
    let largest = needs.classes.iter().map(|class| class.slot_bytes).max().unwrap_or(0);
    let each: usize = slots.iter().map(|(bytes, _)| bytes).sum();
    // Pieces hold whole slots only: at worst half of each is wasted.
    let slab = experts + 2 * states + 8 * (largest + each);
    let ram = needs.process + trunk + scratch(rows) + slab;
    Ok(Plan::new(&needs, Ask { ram, ctx: Some(context), chunk: Some(rows) })?)
}

/// Numbers the kinds of layers: those with the same letter in the family's pattern, bytes of weights and bytes of an expert
/// cost the same.
fn kinds(inspection: &Inspection) -> Vec<usize> {
    let facts = inspection.facts();
    let mut trunk_bytes = vec![0; facts.layers];
    for (name, stored) in &inspection.matrices {
        let layer = name.split('.').find_map(|part| part.parse::<usize>().ok());
        if let Some(bytes) = layer.and_then(|layer| trunk_bytes.get_mut(layer)) {
            *bytes += stored.bytes();
        }
    }
    let mut known = HashMap::new();
    let mut letters = facts.pattern.chars();
    let of_layer = |(layer, trunk_bytes): (usize, &usize)| {
        let sparse = inspection.layout.experts(layer) > 0;
        let id = ExpertId { layer: layer as u32, expert: 0 };
        let expert_bytes = if sparse { inspection.layout.expert_bytes(id) } else { 0 };
        let next = known.len();
        *known.entry((letters.next(), *trunk_bytes, expert_bytes)).or_insert(next)
    };
    trunk_bytes.iter().enumerate().map(of_layer).collect()
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(0.0)
}

/// Random bits (xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
struct Noise(u64);

/// Numbers of the residual stream are as large at most, so that what a layer adds to them hardly counts.
const NUMBER_MAX: f32 = 1e6;

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn number(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 * NUMBER_MAX - NUMBER_MAX
    }

    /// Fills a buffer with bits that as bf16, f16 and f32 are numbers of either sign between 1/32 and 1.9, and as packed
    /// integers any: nothing overflows, and nothing is so small that a processor computes it slowly.
    fn fill(&mut self, ops: &dyn Ops, buffer: &Buffer) {
        const KEPT: u64 = 0x80FF_80FF_80FF_80FF;
        const EXPONENTS: u64 = 0x3D00_3D00_3D00_3D00;
        let mut block = vec![0u64; (1 << 20) / 8];
        for at in (0..buffer.bytes()).step_by(1 << 20) {
            block.iter_mut().for_each(|word| *word = self.next() & KEPT | EXPONENTS);
            let bytes = (buffer.bytes() - at).min(1 << 20);
            let part = Tensor::new(buffer.clone(), at, [bytes], DType::U8);
            ops.write(&bytemuck::cast_slice(&block)[..bytes], &part);
        }
    }
}

/// A reader that brings nothing, at once: what lies in memory stays.
#[derive(Default)]
struct Nothing {
    done: Vec<Completion>,
}

impl Reader for Nothing {
    fn describe(&self) -> String {
        "nothing".into()
    }

    fn register(&mut self, _: &Arc<Region>) {}

    fn unregister(&mut self, _: &Arc<Region>) {}

    fn submit(&mut self, reads: &[Read]) -> io::Result<()> {
        self.done.extend(reads.iter().map(|read| Completion { tag: read.tag, result: Ok(read.bytes) }));
        Ok(())
    }

    fn collect(&mut self, _wait: bool, done: &mut Vec<Completion>) -> io::Result<()> {
        done.append(&mut self.done);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn counts(&self) -> ReaderCounts {
        ReaderCounts::default()
    }
}
