//! From what a model needs and what `--ram` gives: the size of every buffer, before anything is allocated.

use crate::bytes::Bytes;
use crate::slab::{PIECE_BYTES_MAX, SLOT_BYTES_MAX};
use crate::{Result, StoreError};

/// Prompt tokens computed together at least, and at most.
const CHUNK: std::ops::RangeInclusive<usize> = 16..=4096;
/// Context that must fit when the user names none.
const CONTEXT_MIN: usize = 512;
/// Context offered at most when the user names none.
const CONTEXT_DEFAULT_MAX: usize = 32 * 1024;
/// A slab has about this many pieces, so that a growing context takes memory from the experts in small steps.
const PIECES: usize = 64;

/// What a model needs. All sizes in bytes.
pub struct Needs<'a> {
    /// What the process holds beside its buffers: code, tokenizer, tables, stacks.
    pub process: usize,
    /// Weights outside the experts.
    pub trunk: TrunkNeeds,
    /// Activations for a chunk of so many tokens.
    pub scratch: &'a dyn Fn(usize) -> usize,
    /// Tokens that one read of a layer's experts serves by chunks of so many, where memory holds them all.
    pub sweep: &'a dyn Fn(usize) -> usize,
    /// Experts by slot size.
    pub classes: Vec<ClassNeeds>,
    /// Slots of a sequence of so many tokens, given how many it grows by at a time: their sizes, and how many of each.
    pub sequence: &'a dyn Fn(usize, usize) -> Vec<(usize, usize)>,
    /// The model's longest context.
    pub context_max: usize,
}

/// Bytes of the weights outside the experts, each a multiple of [`TRUNK_ALIGN`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrunkNeeds {
    /// Of no layer: head, last norm.
    pub fixed: usize,
    /// By layer.
    pub layers: Vec<usize>,
    /// The embedding, of which a token needs one row, where it is not the head too.
    pub embedding: usize,
    /// The window through which its rows pass where it stays on the drive; 0 where it cannot be read by row.
    pub rows: usize,
    /// The windows through which rows of further tables pass, which are larger than any memory and always stay on the drive.
    pub tables: usize,
}

/// What a layer of the trunk begins at a multiple of.
pub const TRUNK_ALIGN: usize = 4096;
/// Layers of a trunk that does not fit, that are in memory at one time: one is computed while the next one is read.
pub const WINDOW_LAYERS: usize = 2;

impl TrunkNeeds {
    /// All of it.
    pub fn bytes(&self) -> usize {
        self.fixed + self.embedding + self.tables + self.layers.iter().sum::<usize>()
    }

    /// As many layers in memory as fit in so many bytes, which hold at least the window and what is of no layer.
    fn pinned_within(&self, bytes: usize, by_row: bool) -> TrunkPlan {
        let plans = (0..=self.layers.len()).map(|count| self.streaming(count, by_row));
        let all = self.streaming(self.layers.len(), by_row);
        plans.into_iter().find(|plan| plan.bytes() <= bytes).unwrap_or(all)
    }

    /// So many layers streamed, evenly among the others, so that one can be read while others are computed; and the embedding on
    /// the drive, or in memory.
    fn streaming(&self, count: usize, by_row: bool) -> TrunkPlan {
        let layers = self.layers.len();
        let is_streamed = |layer: &usize| (layer + 1) * count / layers > layer * count / layers;
        let streamed: Vec<usize> = (0..layers).filter(is_streamed).collect();
        let bytes: usize = streamed.iter().map(|&layer| self.layers[layer]).sum();
        let slot_bytes = streamed.iter().map(|&layer| self.layers[layer]).max().unwrap_or(0);
        let (embedding, rows) = if by_row { (self.embedding, self.rows) } else { (0, 0) };
        let resident = self.bytes() - bytes - embedding - self.tables;
        TrunkPlan { resident, slot_bytes, streamed, rows, tables: self.tables }
    }

    /// The least that it takes in memory.
    fn bytes_min(&self) -> usize {
        let by_row = self.has_rows();
        self.streaming(0, by_row).bytes().min(self.streaming(self.layers.len(), by_row).bytes())
    }

    /// Whether less memory is needed where the embedding stays on the drive.
    fn has_rows(&self) -> bool {
        (1..self.embedding).contains(&self.rows)
    }
}

/// Where the weights outside the experts are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrunkPlan {
    /// Bytes that stay in memory.
    pub resident: usize,
    /// Layers whose weights are read anew each time that they are computed, ascending: none where the trunk fits.
    pub streamed: Vec<usize>,
    /// Bytes of each of the [`WINDOW_LAYERS`] places that they pass through.
    pub slot_bytes: usize,
    /// Bytes of the window through which rows of the embedding pass; 0 where all of it stays in memory.
    pub rows: usize,
    /// Bytes of the windows through which rows of further tables pass.
    pub tables: usize,
}

impl TrunkPlan {
    /// Bytes of those places.
    pub fn window(&self) -> usize {
        WINDOW_LAYERS * self.slot_bytes
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.resident + self.window() + self.rows + self.tables
    }
}

/// Experts of one slot size.
#[derive(Clone, Copy, Debug)]
pub struct ClassNeeds {
    /// Bytes of a slot.
    pub slot_bytes: usize,
    /// Experts of this size.
    pub experts: usize,
    /// The most that one layer has.
    pub of_layer: usize,
    /// Layers that have such.
    pub layers: usize,
    /// Experts that one token needs at once: the router's k.
    pub at_once: usize,
}

/// What the user asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The whole memory of the process.
    pub ram: usize,
    /// Context length; by default what the model allows, at most 32,768, and no more than an eighth of the slab holds.
    pub ctx: Option<usize>,
    /// Prompt tokens computed together; by default as many as a quarter of the memory beside the trunk can work on.
    pub chunk: Option<usize>,
}

/// A buffer of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it holds.
    pub name: &'static str,
    /// Its size.
    pub bytes: usize,
}

/// The size of every buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The memory given.
    pub ram: usize,
    /// The least that would do for this context and chunk, or for the smallest ones where none was asked for.
    pub minimum_ram: usize,
    /// Every buffer; their sum is at most `ram`.
    pub buffers: Vec<Line>,
    /// Where the weights outside the experts are.
    pub trunk: TrunkPlan,
    /// Bytes of each piece of the slab.
    pub piece_bytes: usize,
    /// Pieces of the slab.
    pub pieces: usize,
    /// How many of them each size class begins with, in the order of [`Needs::classes`].
    pub class_pieces: Vec<usize>,
    /// Experts that fit while no context has grown.
    pub expert_slots: usize,
    /// Context length.
    pub ctx: usize,
    /// Prompt tokens computed together.
    pub chunk: usize,
    /// Bytes of the slab that the whole context takes from the experts.
    pub context_bytes: usize,
}

impl Plan {
    /// Divides `ask.ram`.
    ///
    /// # Errors
    /// When it is too small (with the minimum and what uses it), or the context is longer than the model's.
    pub fn new(needs: &Needs, ask: Ask) -> Result<Plan> {
        let ctx_min = match ask.ctx {
            Some(ctx) if ctx > needs.context_max => {
                let max = needs.context_max;
                return Err(StoreError::Other(format!(
                    "--ctx {ctx} is longer than this model's context of {max}; give at most {max}"
                )));
            }
            Some(0) => return Err(StoreError::Other("--ctx 0 holds no token; give at least 1".into())),
            Some(ctx) => ctx,
            None => CONTEXT_MIN.min(needs.context_max),
        };
        let chunk_min = ask.chunk.unwrap_or(*CHUNK.start()).clamp(1, ctx_min.max(1));
        let piece_min = needs.piece_min();
        if piece_min > SLOT_BYTES_MAX {
            let problem = format!(
                "one expert or KV block takes {}, more than the {} that can be read as one: take a file of fewer bits",
                Bytes(piece_min as u64),
                Bytes(SLOT_BYTES_MAX as u64)
            );
            return Err(StoreError::Other(problem));
        }
        let slab_min = needs.pieces_min(piece_min, ctx_min, chunk_min) * piece_min;
        let least = needs.process + (needs.scratch)(chunk_min) + slab_min;
        // Where memory does not hold the whole model, the embedding's is better used for experts.
        let experts: usize = needs.classes.iter().map(|class| class.slot_bytes * class.experts).sum();
        let short = ask.ram < least + needs.trunk.bytes() + experts;
        let by_row = short && needs.trunk.has_rows();
        let whole = needs.trunk.streaming(0, by_row);
        let all_streamed = needs.trunk.streaming(needs.trunk.layers.len(), by_row);
        let minimum_ram = least + needs.trunk.bytes_min();
        if ask.ram < minimum_ram {
            let show = |bytes: usize| Bytes(bytes as u64);
            return Err(StoreError::RamTooSmall {
                ram: show(ask.ram).to_string(),
                minimum: format!("{minimum_ram} bytes, {}", show(minimum_ram)),
                uses: format!(
                    "trunk {}, one layer's experts and {ctx_min} tokens of context {}, scratch {}, process {}",
                    show(needs.trunk.bytes_min()),
                    show(slab_min),
                    show((needs.scratch)(chunk_min)),
                    show(needs.process)
                ),
            });
        }
        // Larger chunks and contexts are offered from what the minimum leaves. Where not all of the trunk fits, each chunk of a
        // prompt reads its rest anew, and chunks come first.
        let fits = ask.ram >= least + whole.bytes();
        let beside_trunk = ask.ram - needs.process - if fits { whole.bytes() } else { all_streamed.bytes() };
        let affordable = |&chunk: &usize| {
            let scratch = (needs.scratch)(chunk);
            match fits {
                true => scratch <= beside_trunk / 4 && beside_trunk - scratch >= slab_min,
                false => scratch <= (beside_trunk - slab_min) / 2,
            }
        };
        let chunk_max =
            if ask.chunk.is_some() { chunk_min } else { (*CHUNK.end()).min((2 * needs.context_max).saturating_sub(1)) };
        let chunks = || (0..16).map(|i| chunk_min << i).take_while(|&chunk| chunk <= chunk_max);
        let largest = chunks().filter(affordable).last().unwrap_or(chunk_min);
        let trunk = |chunk: usize| match fits {
            true => whole.clone(),
            false => {
                let bytes = ask.ram - needs.process - (needs.scratch)(chunk) - slab_min;
                needs.trunk.pinned_within(bytes, by_row)
            }
        };
        let slab = |chunk: usize| ask.ram - needs.process - trunk(chunk).bytes() - (needs.scratch)(chunk);
        let ctx = ask.ctx.unwrap_or_else(|| needs.default_context(slab(largest), ctx_min, largest));
        let chunk = match fits {
            true => needs.best_chunk(chunks(), beside_trunk, piece_min, ctx, largest),
            // None that is longer than a context is of use.
            false => chunks().find(|&chunk| chunk >= ctx.min(largest)).unwrap_or(largest),
        };
        let (scratch, trunk, slab) = ((needs.scratch)(chunk), trunk(chunk), slab(chunk));
        needs.divide(ask.ram, minimum_ram, (ctx, chunk), scratch, trunk, slab)
    }

    /// Sum of all buffers.
    pub fn total(&self) -> usize {
        self.buffers.iter().map(|line| line.bytes).sum()
    }
}

impl Needs<'_> {
    /// Of those that memory has room for beside a context, the chunk by which one read of a layer's experts serves the most tokens: a
    /// sweep's where memory holds a layer's, else its own.
    fn best_chunk(
        &self,
        chunks: impl Iterator<Item = usize>,
        beside_trunk: usize,
        piece_min: usize,
        ctx: usize,
        largest: usize,
    ) -> usize {
        let layer = self.classes.iter().map(|class| class.slot_bytes * class.of_layer).max().unwrap_or(0);
        let token: usize = self.classes.iter().map(|class| class.slot_bytes * class.layers * class.at_once).sum();
        // What holds no more than one token's experts is of no use to the next one.
        let within = (beside_trunk / 4).max((beside_trunk / 2).min(token * 2 / 3));
        let room = |chunk: usize| beside_trunk.saturating_sub((self.scratch)(chunk));
        let state = |chunk: usize| self.pieces_min(piece_min, ctx, chunk) * piece_min;
        let allowed = chunks.filter(|&chunk| {
            chunk <= ctx.max(largest) && (self.scratch)(chunk) <= within && room(chunk) >= state(chunk)
        });
        let worth = |chunk: usize| {
            // Pieces hold whole experts, and leave some of the memory over.
            let holds = room(chunk) - room(chunk) / 32 >= layer + state(chunk);
            (if holds { (self.sweep)(chunk) } else { chunk }, holds, chunk)
        };
        allowed.max_by_key(|&chunk| worth(chunk)).unwrap_or(largest)
    }

    /// The smallest piece that holds any one slot.
    fn piece_min(&self) -> usize {
        self.classes
            .iter()
            .map(|class| class.slot_bytes)
            .chain((self.sequence)(1, 1).into_iter().map(|(bytes, _)| bytes))
            .max()
            .unwrap_or(0)
    }

    /// Pieces of one sequence of `ctx` tokens.
    fn context_pieces(&self, piece_bytes: usize, ctx: usize, chunk: usize) -> usize {
        (self.sequence)(ctx, chunk).into_iter().map(|(bytes, count)| count.div_ceil(piece_bytes / bytes)).sum()
    }

    /// Pieces without which one token cannot be computed at the end of the context.
    fn pieces_min(&self, piece_bytes: usize, ctx: usize, chunk: usize) -> usize {
        let experts: usize =
            self.classes.iter().map(|class| class.at_once.div_ceil(piece_bytes / class.slot_bytes)).sum();
        experts + self.context_pieces(piece_bytes, ctx, chunk)
    }

    /// Pieces beyond which nothing more could be held.
    fn pieces_max(&self, piece_bytes: usize, ctx: usize, chunk: usize) -> usize {
        let experts: usize =
            self.classes.iter().map(|class| class.experts.div_ceil(piece_bytes / class.slot_bytes)).sum();
        experts + self.context_pieces(piece_bytes, ctx, chunk)
    }

    /// What an eighth of the slab holds, and no more than the experts of one token leave.
    fn default_context(&self, slab: usize, ctx_min: usize, chunk: usize) -> usize {
        let piece_min = self.piece_min();
        let beside_experts = slab / piece_min - self.pieces_min(piece_min, 0, chunk);
        let fits = |ctx: usize| {
            let bytes: usize = (self.sequence)(ctx, chunk).into_iter().map(|(bytes, count)| bytes * count).sum();
            bytes <= slab / 8 && self.context_pieces(piece_min, ctx, chunk) <= beside_experts
        };
        let (mut ctx, most) = (ctx_min, CONTEXT_DEFAULT_MAX.min(self.context_max));
        let mut step = most.next_power_of_two();
        while step > 0 {
            if ctx + step <= most && fits(ctx + step) {
                ctx += step;
            }
            step /= 2;
        }
        ctx
    }

    fn divide(
        &self,
        ram: usize,
        minimum_ram: usize,
        (ctx, chunk): (usize, usize),
        scratch: usize,
        trunk: TrunkPlan,
        slab: usize,
    ) -> Result<Plan> {
        let (piece_bytes, pieces) = self.pieces(slab, ctx, chunk);
        let pieces = pieces.min(self.pieces_max(piece_bytes, ctx, chunk));
        let mut class_pieces: Vec<usize> =
            self.classes.iter().map(|class| class.at_once.div_ceil(piece_bytes / class.slot_bytes)).collect();
        let context = self.context_pieces(piece_bytes, ctx, chunk);
        let spare = pieces - context - class_pieces.iter().sum::<usize>();
        for _ in 0..spare {
            // To the class of whose experts the smallest share fits.
            let share = |class: usize| {
                let ClassNeeds { slot_bytes, experts, .. } = self.classes[class];
                class_pieces[class] * (piece_bytes / slot_bytes) * 10_000 / experts.max(1)
            };
            if let Some(class) = (0..self.classes.len()).min_by_key(|&class| share(class)) {
                class_pieces[class] += 1;
            }
        }
        // The class with the most experts lends to the context as it grows.
        if let Some(largest) = (0..self.classes.len()).max_by_key(|&class| self.classes[class].experts) {
            class_pieces[largest] += context;
        }
        let slots =
            |(pieces, class): (&usize, &ClassNeeds)| (pieces * (piece_bytes / class.slot_bytes)).min(class.experts);
        let expert_slots = class_pieces.iter().zip(&self.classes).map(slots).sum();
        let line = |name, bytes| Line { name, bytes };
        let mut buffers = vec![line("process", self.process), line("trunk", trunk.resident)];
        if trunk.window() > 0 {
            buffers.push(line("trunk window", trunk.window()));
        }
        if trunk.rows > 0 {
            buffers.push(line("embedding rows", trunk.rows));
        }
        if trunk.tables > 0 {
            buffers.push(line("n-gram rows", trunk.tables));
        }
        buffers.extend([line("scratch", scratch), line("slab", pieces * piece_bytes)]);
        let context_bytes = self.context_pieces(piece_bytes, ctx, chunk) * piece_bytes;
        Ok(Plan {
            ram,
            minimum_ram,
            buffers,
            trunk,
            piece_bytes,
            pieces,
            class_pieces,
            expert_slots,
            ctx,
            chunk,
            context_bytes,
        })
    }

    /// Piece size and number of pieces for a slab of so many bytes: about [`PIECES`] of them, whole experts in each,
    /// down to one slot a piece where memory is short.
    fn pieces(&self, slab: usize, ctx: usize, chunk: usize) -> (usize, usize) {
        let piece_min = self.piece_min();
        let common = self.classes.iter().max_by_key(|class| class.experts);
        let unit = common.map_or(piece_min, |class| class.slot_bytes);
        // The smallest piece that wastes nothing on the commonest class.
        let whole_min = piece_min.div_ceil(unit) * unit;
        let mut piece = (slab / PIECES).clamp(whole_min, PIECE_BYTES_MAX.max(whole_min)) / unit * unit;
        while piece > whole_min && slab / piece < self.pieces_min(piece, ctx, chunk) {
            piece = (piece / 2).max(whole_min) / unit * unit;
        }
        if piece > PIECE_BYTES_MAX.max(piece_min) || slab / piece < self.pieces_min(piece, ctx, chunk) {
            piece = piece_min;
        }
        (piece, slab / piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn needs(scratch: &dyn Fn(usize) -> usize) -> Needs<'_> {
        Needs {
            process: 16 * MIB,
            trunk: TrunkNeeds { fixed: 20 * MIB, layers: vec![8 * MIB; 10], ..TrunkNeeds::default() },
            scratch,
            sweep: &|chunk| (4 * chunk).min(4096).max(chunk),
            classes: vec![
                ClassNeeds { slot_bytes: 2 * MIB, experts: 1000, of_layer: 100, layers: 10, at_once: 8 },
                ClassNeeds { slot_bytes: 3 * MIB, experts: 100, of_layer: 100, layers: 1, at_once: 8 },
            ],
            sequence: &|ctx, _| vec![(MIB, ctx.div_ceil(64))],
            context_max: 40_960,
        }
    }

    fn plan(ram: usize, ctx: Option<usize>) -> Result<Plan> {
        Plan::new(&needs(&|chunk| chunk * 20_000), Ask { ram, ctx, chunk: None })
    }

    #[test]
    fn every_budget_from_the_minimum_on_is_kept() {
        let minimum = match plan(0, None) {
            Err(StoreError::RamTooSmall { minimum, .. }) => minimum.split(' ').next().and_then(|n| n.parse().ok()),
            _ => None,
        };
        let minimum: usize = minimum.expect("the refusal names the minimum");
        assert!(plan(minimum - 1, None).is_err());
        let (mut slots, mut useful) = (0, 0);
        for extra in (0..3000).step_by(7) {
            let ram = minimum + extra * MIB;
            let plan = plan(ram, None).expect("above the minimum");
            assert_eq!(plan.minimum_ram, minimum);
            assert!(plan.total() <= ram, "{} of {ram}", plan.total());
            let per_piece = [plan.piece_bytes / (2 * MIB), plan.piece_bytes / (3 * MIB)];
            let context = plan.context_bytes / plan.piece_bytes;
            assert!((plan.class_pieces[0] - context) * per_piece[0] >= 8 && plan.class_pieces[1] * per_piece[1] >= 8);
            // What a larger chunk takes from the experts is no more than its scratch.
            let now = plan.expert_slots * 2 * MIB + plan.buffers[2].bytes;
            assert!(now + plan.piece_bytes + 16 * MIB >= useful, "{extra}: {now} after {useful}");
            (slots, useful) = (plan.expert_slots, now.max(useful));
        }
        assert_eq!(slots, 1100, "in the end all experts fit");
    }

    /// As of Mixtral in 16 bits.
    #[test]
    fn an_expert_may_be_larger_than_a_piece_of_several() {
        let scratch = |chunk| chunk * 20_000;
        let of = |slot_bytes| {
            let classes = vec![ClassNeeds { slot_bytes, experts: 256, of_layer: 8, layers: 32, at_once: 8 }];
            Plan::new(&Needs { classes, ..needs(&scratch) }, Ask { ram: 24_000 * MIB, ctx: None, chunk: None })
        };
        let plan = of(336 * MIB).expect("it fits");
        assert_eq!(plan.piece_bytes, 336 * MIB);
        assert!(plan.expert_slots > 60, "{} slots", plan.expert_slots);
        let refused = of(SLOT_BYTES_MAX + MIB).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(refused.contains("fewer bits"), "{refused}");
    }

    /// Of a whole model: a layer's experts are more than a token's by little.
    #[test]
    fn more_memory_never_has_a_prompt_read_much_more() {
        let scratch = |chunk| chunk * 60_000 + MIB;
        let (layer, trunk) = (128 * 2 * MIB, TrunkNeeds { fixed: 250 * MIB, ..TrunkNeeds::default() });
        let classes = vec![ClassNeeds { slot_bytes: 2 * MIB, experts: 1280, of_layer: 128, layers: 10, at_once: 8 }];
        let needs = Needs { classes, trunk, ..needs(&scratch) };
        let (mut before, mut most) = (0, 0);
        for ram in (330..4000).step_by(3) {
            let ask = Ask { ram: ram * MIB, ctx: Some(2048), chunk: None };
            let Ok(plan) = Plan::new(&needs, ask) else { continue };
            let room = plan.class_pieces[0] * plan.piece_bytes - plan.context_bytes;
            let serves = if room >= layer { (needs.sweep)(plan.chunk) } else { plan.chunk };
            // At the border of a layer it is pieces that decide.
            assert!(2 * serves >= before, "{ram}: {serves} after {before}");
            (before, most) = (serves.max(before), plan.chunk.max(most));
        }
        assert!(before == 4096 && most >= 2048, "{before}, {most}");
        // Where memory holds no more than a token's experts, half of it is scratch.
        let plan = Plan::new(&needs, Ask { ram: 440 * MIB, ctx: Some(2048), chunk: None }).expect("it fits");
        assert!((needs.scratch)(plan.chunk) > (440 - 266) * MIB / 4, "{}", plan.chunk);
        // Nor are chunks longer than a context.
        let plan = Plan::new(&needs, Ask { ram: 440 * MIB, ctx: Some(256), chunk: None }).expect("it fits");
        assert!(plan.chunk <= 512, "{}", plan.chunk);
    }

    #[test]
    fn where_the_trunk_does_not_fit_chunks_are_as_long_as_a_context() {
        let scratch = |chunk| chunk * 20_000 + MIB;
        let trunk = TrunkNeeds { fixed: 20 * MIB, layers: vec![100 * MIB; 10], ..TrunkNeeds::default() };
        let needs = Needs { trunk, ..needs(&scratch) };
        let plan = |ctx| Plan::new(&needs, Ask { ram: 700 * MIB, ctx, chunk: None }).expect("it fits");
        assert!(!plan(None).trunk.streamed.is_empty());
        let Plan { ctx, chunk, .. } = plan(None);
        assert!(ctx < 2000 && (ctx..2 * ctx).contains(&chunk), "{ctx}, {chunk}");
        assert_eq!(plan(Some(2000)).chunk, 2048);
        // What longer chunks would take has room for layers.
        assert!(plan(None).trunk.streamed.len() < plan(Some(4096)).trunk.streamed.len());
    }

    #[test]
    fn a_longer_context_needs_more() {
        assert!(plan(300 * MIB, Some(512)).is_ok());
        assert!(plan(300 * MIB, Some(40_960)).is_err());
        assert!(plan(3000 * MIB, Some(40_960)).is_ok());
        assert!(plan(3000 * MIB, Some(40_961)).is_err());
        assert!(plan(3000 * MIB, Some(0)).is_err());
    }
}
