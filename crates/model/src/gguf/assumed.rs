//! Keys of GGUF files (`gguf-py/gguf/constants.py`, llama.cpp `llama-arch.cpp`) that change what is computed and that a family does not
//! read, and the value that it takes for them: what a file says otherwise would not be computed.

use outpour_store::checkpoint::gguf::ROPE_FACTORS;
use serde_json::Value;

use super::architectures::Architecture;
use super::config::KEYS;
use super::said::Said;
use crate::config::ModelError;

/// What a key has to be.
enum Needs {
    /// One of these numbers; switches are 0 and 1. The first is what is said of it.
    Any(&'static [f64]),
    /// How scores are made of a router's logits: llama.cpp's numbers for it, 0 where it is not said.
    Gating,
    /// Whether the weights of chosen experts are made to sum to 1.
    Norm,
    /// What another key says.
    Same(&'static str),
    /// No window, or one that holds the whole context.
    Window,
    /// 1 / √(width of a head).
    HeadScale,
    /// The width of a head.
    HeadWidth,
}

/// Architectures that a rule is for.
enum Of {
    All,
    /// All but these, which read the key or have no use for it.
    But(&'static [&'static str]),
    Only(&'static [&'static str]),
}

use Needs::{Any, Gating, HeadScale, HeadWidth, Norm, Same, Window};
use Of::{All, But, Only};

/// Latent attention.
const LATENT: &[&str] =
    &["deepseek2", "deepseek32", "mistral4", "glm-dsa", "kimi-linear", "hy_v4", "glm5-next", "bailingmoe3"];
const NO_SHARED: &[&str] = &[
    "qwen3moe",
    "olmoe",
    "llama",
    "gpt-oss",
    "lfm2moe",
    "phimoe",
    "minimax-m2",
    "gemma4",
    "jamba",
    "mimo2",
    "minimax-01",
];
/// Layers that see a window beside layers that do not, under keys of which the family reads the common ones.
const WINDOWED: &[&str] = &["gemma3", "gpt-oss", "exaone-moe", "phimoe"];
/// Heads of which RoPE turns a part.
const PARTLY_TURNED: &[&str] =
    &["qwen3next", "qwen35moe", "qwen4exp", "glm4moe", "mimo2", "jamba", "nemotron_h", "nemotron_h_moe"];
const OFF: Needs = Any(&[0.0]);
const ONE: Needs = Any(&[1.0, 0.0]);

/// Keys, whose they are, and what they need to be. An architecture that has the key among its own is left out.
const RULES: [(&str, Of, Needs); 49] = [
    ("expert_gating_func", All, Gating),
    ("expert_weights_norm", All, Norm),
    ("expert_weights_scale", All, ONE),
    ("expert_group_count", All, ONE),
    ("expert_group_used_count", All, ONE),
    ("expert_group_scale", All, ONE),
    ("experts_per_group", All, ONE),
    ("expert_shared_count", Only(NO_SHARED), OFF),
    ("expert_shared_feed_forward_length", Only(NO_SHARED), OFF),
    ("moe_every_n_layers", But(&["llama4", "ernie4_5-moe"]), ONE),
    ("interleave_moe_layer_step", All, ONE),
    ("moe_latent_size", All, OFF),
    ("router_logit_softcapping", All, OFF),
    ("attn_logit_softcapping", All, OFF),
    ("final_logit_softcapping", All, OFF),
    ("logit_scale", All, ONE),
    ("residual_scale", All, ONE),
    ("embedding_scale", All, ONE),
    ("activation_sparsity_scale", All, OFF),
    ("swiglu_clamp_exp", But(&["deepseek4", "hy_v4", "glm5-next"]), OFF),
    ("swiglu_clamp_shexp", But(&["deepseek4", "glm5-next"]), OFF),
    ("swiglu_clamp_shexp", Only(&["deepseek4", "glm5-next"]), Same("swiglu_clamp_exp")),
    ("use_parallel_residual", All, OFF),
    ("rescale_every_n_layers", All, OFF),
    ("embedding_length_per_layer_input", All, OFF),
    ("attention.scale", But(&["gemma4"]), HeadScale),
    ("attention.scale", Only(&["gemma4"]), ONE),
    ("attention.output_scale", All, ONE),
    ("attention.value_scale", But(&["mimo2"]), ONE),
    ("attention.causal", All, Any(&[1.0])),
    ("attention.clamp_kqv", All, OFF),
    ("attention.max_alibi_bias", All, OFF),
    ("attention.shared_kv_layers", All, OFF),
    ("attention.temperature_scale", But(&["llama4"]), OFF),
    ("attention.temperature_scale", Only(&["llama4"]), Any(&[0.1])),
    ("attention.temperature_length", Only(&["llama4"]), Any(&[8192.0])),
    ("attention.sliding_window", But(&["exaone-moe", "mimo2", "llama4"]), Window),
    ("attention.sliding_window", Only(&["llama4"]), Any(&[8192.0])),
    ("attention.key_length_swa", Only(WINDOWED), Same("attention.key_length")),
    ("attention.key_length_swa", Only(&["mimo2"]), Same("attention.key_length")),
    ("attention.value_length_swa", Only(WINDOWED), Same("attention.value_length")),
    ("attention.value_length_swa", Only(&["gemma4"]), Same("attention.key_length_swa")),
    ("attention.layer_norm_epsilon", But(&["glm5-next"]), Same("attention.layer_norm_rms_epsilon")),
    // Of its indexer's keys.
    ("attention.layer_norm_epsilon", Only(&["glm5-next"]), Any(&[1e-6])),
    ("rope.freq_base_swa", Only(WINDOWED), Same("rope.freq_base")),
    ("rope.dimension_count", But(PARTLY_TURNED), HeadWidth),
    ("rope.dimension_count_swa", Only(&["gemma4"]), Same("attention.key_length_swa")),
    ("rope.scaling.alpha", All, ONE),
    ("ssm.dt_b_c_rms", But(&["jamba"]), OFF),
];

/// Refuses the first key that says something else than the family takes.
///
/// # Errors
/// Names the key, its value, and the one that it would need.
pub fn check(said: &Said, architecture: &Architecture, family: &str) -> Result<(), ModelError> {
    let name = said.architecture;
    for (key, of, needs) in &RULES {
        let is_read = architecture.keys.iter().chain(&KEYS).any(|(own, _)| own == key)
            && !matches!((needs, reads_norm(name)), (Norm, false));
        let applies = match of {
            All => true,
            But(others) => !others.contains(&name),
            Only(these) => these.contains(&name),
        };
        if !is_read && applies {
            refuse(said, key, &needs.values(said, family), matches!(needs, Window))?;
        }
    }
    scaling(said)?;
    pattern(said)
}

/// How RoPE is scaled: what no type is said of, and what the type does not have.
fn scaling(said: &Said) -> Result<(), ModelError> {
    let kind = said.get("rope.scaling.type").and_then(Value::as_str);
    let fixed = said.architecture == "gemma4"
        || said.architecture != "phimoe" && said.checkpoint.tensor(ROPE_FACTORS).is_some();
    if let Some(kind) = kind.filter(|kind| fixed && *kind != "none") {
        return Err(refused(said, "rope.scaling.type", &format!("{kind:?}"), "\"none\""));
    }
    let ignored: &[&str] = match kind {
        // llama.cpp takes it for linear.
        None => &["rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"],
        Some("yarn") => &[],
        Some(_) => &["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"],
    };
    let ignored = ignored.iter().filter(|key| said.architecture != "phimoe" || !key.ends_with("attn_factor"));
    ignored.into_iter().try_for_each(|key| refuse(said, key, &[1.0, 0.0], false))?;
    if kind == Some("yarn") {
        refuse(said, "rope.scaling.yarn_ext_factor", &[1.0, -1.0], false)?;
        if !LATENT.contains(&said.architecture) {
            refuse(said, "rope.scaling.yarn_log_multiplier", &[0.0], false)?;
        }
    }
    Ok(())
}

/// Which layers see a window, or have a recurrence, where the family knows it and reads no list.
fn pattern(said: &Said) -> Result<(), ModelError> {
    let layers = said.layers()? as usize;
    let every = |period: usize| (0..layers).map(|layer| (layer + 1) % period != 0).collect::<Vec<_>>();
    let (key, period) = match said.architecture {
        "gemma3" => ("attention.sliding_window_pattern", 6),
        "qwen3next" | "qwen35moe" | "qwen4exp" => {
            let interval = said.number("full_attention_interval").unwrap_or(4).max(1);
            ("attention.recurrent_layers", interval as usize)
        }
        // Its first layer has a window, its second has none.
        "gpt-oss" => ("attention.sliding_window_pattern", 2),
        _ => return Ok(()),
    };
    let fits = match said.get(key) {
        None => true,
        Some(Value::Array(_)) => said.marked(key)? == every(period),
        Some(number) => number.as_u64() == Some(period as u64),
    };
    let needs = format!("all layers but every one of {period}");
    if fits { Ok(()) } else { Err(refused(said, key, "of other layers", &needs)) }
}

/// Whether a family reads whether weights of experts are made to sum to 1.
fn reads_norm(architecture: &str) -> bool {
    !NEVER_NORM.contains(&architecture) && !ALWAYS_NORM.contains(&architecture)
}

const NEVER_NORM: [&str; 3] = ["llama4", "phimoe", "jamba"];
const ALWAYS_NORM: [&str; 11] = [
    "llama",
    "gemma4",
    "minimax-01",
    "minimax-m2",
    "minimax-m3",
    "ernie4_5-moe",
    "hunyuan-moe",
    "granitehybrid",
    "granitemoe",
    "granite",
    "gpt-oss",
];

impl Needs {
    /// The numbers that a key may have.
    fn values(&self, said: &Said, family: &str) -> Vec<f64> {
        let number = |key: &str| said.get(key).and_then(|value| numbers(value).first().copied());
        let head = || {
            let share = number("embedding_length").zip(number("attention.head_count")).map(|(all, heads)| all / heads);
            let widths = ["attention.key_length", "attention.key_length_mla"].iter().filter_map(|key| number(key));
            let widths = widths.chain(share.filter(|_| said.get("attention.key_length").is_none()));
            widths.collect::<Vec<f64>>()
        };
        match self {
            Any(values) => values.to_vec(),
            Gating => gating(said.architecture, family).to_vec(),
            Norm => vec![f64::from(u8::from(ALWAYS_NORM.contains(&said.architecture)))],
            Same(other) => number(other).into_iter().collect(),
            Window => vec![0.0],
            HeadScale => head().into_iter().map(|width| width.sqrt().recip()).chain([0.0]).collect(),
            // Of latent attention a part is turned, whose width is its own.
            HeadWidth if LATENT.contains(&said.architecture) => Vec::new(),
            HeadWidth => head(),
        }
    }
}

/// llama.cpp's numbers: 1 softmax, 2 sigmoid, 3 softmax of the chosen, 4 √softplus. Softmax of the chosen is softmax whose weights are
/// made to sum to 1.
fn gating(architecture: &str, family: &str) -> &'static [f64] {
    match architecture {
        "deepseek2" if family == "deepseek_v2" => &[1.0, 0.0],
        "llama" | "gpt-oss" | "granitehybrid" | "granitemoe" | "granite" | "hunyuan-moe" | "gemma4" => &[1.0, 3.0, 0.0],
        "qwen3moe" | "qwen3next" | "qwen35moe" | "qwen4exp" | "qwen2moe" | "olmoe" | "mistral4" | "ernie4_5-moe"
        | "phimoe" | "jamba" | "minimax-01" => &[1.0, 0.0],
        "deepseek4" => &[4.0, 0.0],
        _ => &[2.0, 0.0],
    }
}

/// The numbers of a value; a switch is 0 or 1.
fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        Value::Bool(on) => vec![f64::from(u8::from(*on))],
        one => one.as_f64().into_iter().collect(),
    }
}

/// Refuses a key that has a number other than these; of a window, one that is shorter than the context.
fn refuse(said: &Said, key: &str, values: &[f64], window: bool) -> Result<(), ModelError> {
    let Some(value) = said.get(key) else { return Ok(()) };
    let context = said.number("context_length").map_or(f64::INFINITY, |context| context as f64);
    // Files have numbers in f32.
    let fits = |number: f64| {
        values.iter().any(|value| (number - value).abs() <= 1e-6 * value.abs()) || window && number >= context
    };
    let other = numbers(value).into_iter().find(|&number| !values.is_empty() && !fits(number));
    match (other, values.first()) {
        (Some(other), Some(needed)) if value.is_boolean() => {
            Err(refused(said, key, &(other != 0.0).to_string(), &(*needed != 0.0).to_string()))
        }
        (Some(other), Some(needed)) => {
            Err(refused(said, key, &(other as f32).to_string(), &(*needed as f32).to_string()))
        }
        _ => Ok(()),
    }
}

fn refused(said: &Said, key: &str, value: &str, needed: &str) -> ModelError {
    let name = said.architecture;
    said.malformed(format!(
        "has {name}.{key} {value}, and {name} is computed with {needed} only; take the model's safetensors, or files that do not say it"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::architectures::ARCHITECTURES;
    use super::*;

    /// Names in the rules are those of architectures, so that none is passed over for a typo.
    #[test]
    fn rules_are_of_known_architectures() {
        let known = |name: &&str| ARCHITECTURES.iter().any(|architecture| architecture.name == *name);
        let of = RULES.iter().flat_map(|(_, of, _)| match of {
            All => &[][..],
            But(names) | Only(names) => names,
        });
        let all = of.chain(&NEVER_NORM).chain(&ALWAYS_NORM).chain(LATENT);
        let unknown: Vec<_> = all.filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
