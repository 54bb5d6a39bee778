//! Tokens a second before anything is loaded: the arithmetic of a token over the measured speeds of this machine.
//!
//! Decode: `Σ over layers of [trunk + max(read, experts)] + head`. Prompt: the same for a chunk, in which
//! every expert that some token chose is read once. How often an expert is found in memory depends on the text; see
//! [`hit_rate`].

use outpour_model::weights::StoredMatrix;
use outpour_store::layout::ExpertId;
use outpour_store::plan::Plan;

use crate::bound::BoundBy;
use crate::inspection::Inspection;
use crate::profile::Profile;

/// What is predicted.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// Of answers, at a short context.
    pub decode_tokens_per_second: f64,
    /// What bounds that.
    pub decode_bound_by: BoundBy,
    /// Of a prompt of `prompt_tokens`.
    pub prefill_tokens_per_second: f64,
    /// What bounds that.
    pub prefill_bound_by: BoundBy,
    /// Length of that prompt.
    pub prompt_tokens: usize,
    /// Share of a token's experts that is found in memory.
    pub hit_rate: f64,
    /// Bytes that the drive gives for a token of an answer.
    pub read_bytes_per_token: f64,
    /// What the drive is taken to give.
    pub drive_bytes_per_second: f64,
}

/// A pass of some rows through the model, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Pass {
    trunk: f64,
    /// Of layers: the longer of reading and computing, by which of the two.
    by_drive: f64,
    by_experts: f64,
    read_bytes: f64,
}

impl Pass {
    fn seconds(&self) -> f64 {
        self.trunk + self.by_drive + self.by_experts
    }

    fn bound_by(&self) -> BoundBy {
        BoundBy::largest(self.by_drive, self.by_experts, self.trunk)
    }
}

/// Predicts a model's speed under a plan, on a machine of this profile with a drive that gives so much. `hit_rate` is the
/// share of a token's experts found in memory.
pub fn forecast(
    inspection: &Inspection,
    plan: &Plan,
    profile: &Profile,
    drive_bytes_per_second: f64,
    hit_rate: f64,
    prompt_tokens: usize,
) -> Forecast {
    let model = Arithmetic { inspection, profile, drive_bytes_per_second };
    let fits = plan.expert_slots >= inspection.layout.experts_total();
    let decode = model.pass(1, hit_rate);
    // A sweep through all layers finds nothing of the sweep before, unless everything stays.
    let prompt_hit_rate = if fits { hit_rate } else { 0.0 };
    let chunk = prompt_tokens.min(plan.chunk).max(1);
    let prefill = model.pass(chunk, prompt_hit_rate);
    Forecast {
        decode_tokens_per_second: 1.0 / decode.seconds(),
        decode_bound_by: decode.bound_by(),
        prefill_tokens_per_second: chunk as f64 / prefill.seconds(),
        prefill_bound_by: prefill.bound_by(),
        prompt_tokens,
        hit_rate,
        read_bytes_per_token: decode.read_bytes,
        drive_bytes_per_second,
    }
}

/// The share of a token's experts that a memory for `slots` of `experts` holds, of which a token needs `needed`.
///
/// From traces of real models, least recently used first out: nothing while memory holds less than one token needs; 0.57
/// of them where it holds a quarter to a third; all where it holds all.
pub fn hit_rate(slots: usize, experts: usize, needed: usize) -> f64 {
    if slots >= experts {
        return 1.0;
    }
    if slots <= needed {
        return 0.0;
    }
    let share = (slots - needed) as f64 / (experts - needed) as f64;
    share.powf(HIT_RATE_POWER)
}

/// 0.3 of the experts hold 0.57 of the uses.
const HIT_RATE_POWER: f64 = 0.467;

struct Arithmetic<'a> {
    inspection: &'a Inspection,
    profile: &'a Profile,
    drive_bytes_per_second: f64,
}

impl Arithmetic<'_> {
    /// `rows` tokens of a prompt, or one of an answer.
    fn pass(&self, rows: usize, hit_rate: f64) -> Pass {
        let mut pass = Pass { trunk: self.trunk(rows), ..Pass::default() };
        for layer in 0..self.inspection.layout.layers() {
            let (experts, read_bytes) = self.experts(layer, rows, hit_rate);
            let read = read_bytes / self.drive_bytes_per_second;
            pass.read_bytes += read_bytes;
            if read > experts {
                pass.by_drive += read;
            } else {
                pass.by_experts += experts;
            }
        }
        pass
    }

    /// Everything but the routed experts: products, recurrent states, small operations, and the head for one row.
    fn trunk(&self, rows: usize) -> f64 {
        let product = |(name, stored): (&str, &StoredMatrix)| {
            let head = name.ends_with("lm_head.weight") || name.ends_with("embed_tokens.weight");
            self.profile.product_seconds(stored.format, if head { 1 } else { rows }, stored.rows, stored.cols)
        };
        let products: f64 = self.inspection.products().map(product).sum();
        let state = self.inspection.model().state_layout();
        let recurrent: usize = state.recurrent.iter().flatten().map(|layer| layer.bytes()).sum();
        // The output matrix takes what all heads give; keys are as wide as values, or nearly.
        let heads = |(name, stored): (&str, &StoredMatrix)| name.ends_with("o_proj.weight").then_some(stored.cols);
        let flops = 4 * self.inspection.products().filter_map(heads).sum::<usize>();
        let small = self.inspection.facts().layers as f64 * SMALL_OPS_PER_LAYER * self.profile.small_op_seconds;
        products
            + self.profile.delta_seconds(rows, recurrent)
            + self.profile.attention_seconds(rows, flops as f64)
            + small
    }

    /// Seconds of computing a layer's experts, and bytes to read.
    fn experts(&self, layer: usize, rows: usize, hit_rate: f64) -> (f64, f64) {
        let Some(shape) = &self.inspection.shapes[layer] else { return (0.0, 0.0) };
        let (total, chosen) = (self.inspection.layout.experts(layer) as f64, self.inspection.facts().top_k as f64);
        // Experts that at least one row chose, if rows choose independently.
        let used = total * (1.0 - (1.0 - chosen / total).powi(rows as i32));
        let rows_each = (rows as f64 * chosen / used).max(1.0).round() as usize;
        let StoredMatrix { rows: width, cols: hidden, format, .. } = shape.matrices[1];
        let each = self.profile.expert_seconds(format, rows_each, hidden, width);
        let bytes = self.inspection.layout.expert_bytes(ExpertId { layer: layer as u32, expert: 0 }) as f64;
        (used * each, used * (1.0 - hit_rate) * bytes)
    }
}

/// Norms, RoPE, gates, the router's choice and the like.
const SMALL_OPS_PER_LAYER: f64 = 12.0;
