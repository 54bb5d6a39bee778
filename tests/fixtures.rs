//! The forward pass against `transformers` and `mlx-lm`: logits, routes and greedy tokens of the committed fixtures.

mod common;

use std::path::PathBuf;

use common::{Npy, Recorded, engine, fixture, logits, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Backend, Options};
use outpour_store::read::ReaderKind;
use serde_json::{Value, json};

/// Fixtures, and by how much of the logits' deviation they may differ: transformers' own chunked and recurrent forms of the
/// delta rule differ by up to 9e-5.
const FIXTURES: [(&str, f32); 119] = [
    ("qwen2_moe", 2e-4),
    ("olmoe", 2e-4),
    ("dots1", 2e-4),
    ("solar_open", 2e-4),
    ("hy_v3", 2e-4),
    ("ernie4_5_moe", 2e-4),
    ("hunyuan_v1_moe", 2e-4),
    ("glm4_moe_lite", 2e-4),
    ("qwen3_moe", 2e-4),
    ("qwen3_moe_odd", 2e-4),
    ("qwen3_next", 1e-3),
    ("qwen3_5_moe", 1e-3),
    ("qwen3_5_moe_mlx4", 1e-3),
    ("qwen3_5_moe_mlx8", 1e-3),
    ("qwen3_5_moe_mlx_mixed", 1e-3),
    ("qwen3_next_mlx4", 1e-3),
    ("qwen3_next_mlx8", 1e-3),
    ("qwen3_next_mlx_mixed", 1e-3),
    ("mixtral", 2e-4),
    ("glm4_moe", 2e-4),
    ("minimax_m2", 2e-4),
    ("llama", 2e-4),
    ("qwen3", 2e-4),
    ("gpt_oss", 2e-4),
    ("gpt_oss_transposed", 2e-4),
    ("llama4_transposed", 2e-4),
    ("minimax_m3_text", 2e-4),
    ("deepseek_v2", 2e-4),
    ("deepseek_v3", 2e-4),
    ("deepseek_v32", 2e-4),
    ("glm_moe_dsa", 2e-4),
    ("gemma3", 2e-4),
    ("gemma4", 2e-4),
    ("kimi_linear", 1e-3),
    ("minimax", 1e-3),
    ("qwen3moe_gguf", 1e-3),
    ("qwen35moe_gguf", 1e-3),
    ("qwen3next_gguf", 1e-3),
    ("nemotron_h", 1e-3),
    ("qwen3_moe_fp8", 2e-4),
    ("deepseek_v3_fp8", 2e-4),
    ("gpt_oss_mxfp4", 2e-4),
    ("deepseek_v3_int4", 2e-4),
    ("glm4_moe_compressed", 2e-4),
    ("qwen3_moe_gptq", 2e-4),
    ("qwen3_moe_awq", 2e-4),
    ("nemotron_h_nvfp4", 1e-3),
    ("qwen3_moe_nvfp4", 2e-4),
    ("qwen3_moe_mxfp8", 2e-4),
    ("qwen3_moe_w4a8", 2e-4),
    ("qwen3_moe_auto_round", 2e-4),
    ("qwen3_moe_quark", 2e-4),
    ("qwen3_moe_mlx_fp4", 2e-4),
    ("nemotron_h_latent", 1e-3),
    ("ling25", 1e-3),
    ("deepseek_v4", 2e-4),
    ("deepseek_v4_fp8_mxfp4", 2e-4),
    ("mistral4", 2e-4),
    ("deepseek_v3_mlx4", 2e-4),
    ("lfm2_moe_mlx4", 1e-3),
    ("ernie4_5_moe_mlx4", 2e-4),
    ("granitemoehybrid", 1e-3),
    ("granitemoehybrid_dense", 1e-3),
    ("lfm2_moe", 1e-3),
    ("ling3", 1e-3),
    ("jamba", 1e-3),
    ("longcat_flash", 2e-4),
    ("hy_v4", 2e-4),
    ("glm5_next", 1e-3),
    ("minimax_m3", 2e-4),
    ("mistral_large4", 2e-4),
    ("phimoe", 2e-4),
    ("mimo_v2_flash", 2e-4),
    ("llama4", 2e-4),
    ("exaone_moe", 2e-4),
    ("qwen4_exp", 1e-3),
    ("deepseek_v2_gguf", 2e-4),
    ("deepseek_v3_gguf", 2e-4),
    ("deepseek_v32_gguf", 2e-4),
    ("glm4_moe_lite_gguf", 2e-4),
    ("glm_moe_dsa_gguf", 2e-4),
    ("glm4_moe_gguf", 2e-4),
    ("gpt_oss_mxfp4_gguf", 2e-4),
    ("minimax_m2_gguf", 2e-4),
    ("mixtral_gguf", 2e-4),
    ("llama_gguf", 2e-4),
    ("qwen3_gguf", 2e-4),
    ("qwen2_moe_gguf", 2e-4),
    ("ernie4_5_moe_gguf", 2e-4),
    ("hy_v3_gguf", 2e-4),
    ("exaone_moe_gguf", 2e-4),
    ("dots1_gguf", 2e-4),
    ("olmoe_gguf", 2e-4),
    ("llama4_gguf", 2e-4),
    ("qwen3_5_moe_gguf", 1e-3),
    ("gemma3_gguf", 2e-4),
    ("gemma4_gguf", 2e-4),
    ("lfm2_moe_gguf", 1e-3),
    ("jamba_gguf", 1e-3),
    ("kimi_linear_gguf", 1e-3),
    ("solar_open_gguf", 2e-4),
    ("granitemoehybrid_gguf", 1e-3),
    ("granitemoehybrid_dense_gguf", 1e-3),
    ("mimo_v2_flash_gguf", 2e-4),
    ("minimax_m3_gguf", 2e-4),
    ("hunyuan_v1_moe_gguf", 2e-4),
    ("nemotron_h_gguf", 1e-3),
    ("nemotron_h_latent_gguf", 1e-3),
    ("phimoe_gguf", 2e-4),
    ("granite_gguf", 1e-3),
    ("granitemoe_gguf", 1e-3),
    ("nemotron_h_dense_gguf", 1e-3),
    ("deepseek_v4_gguf", 2e-4),
    ("mistral4_gguf", 2e-4),
    ("hy_v4_gguf", 2e-4),
    ("glm5_next_gguf", 1e-3),
    ("ling3_gguf", 1e-3),
    ("minimax_gguf", 1e-3),
    ("qwen4_exp_gguf", 1e-3),
];

/// Where the arrays of a fixture lie: those of a file that llama.cpp's converter made are what it was made of.
fn arrays(name: &str) -> PathBuf {
    match name.strip_suffix("_gguf") {
        Some(original) if !fixture(name).join("logits_full.npy").exists() => fixture(original),
        _ => fixture(name),
    }
}

/// What the reference says of a fixture.
struct Reference {
    ids: Vec<u32>,
    prompt: usize,
    vocab: usize,
    logits: Vec<f32>,
    /// Cached decode: the logits that chose each generated token.
    cached: Vec<f32>,
    /// By sparse layer and position; empty in a dense model.
    routes: Vec<i32>,
    route_weights: Vec<f32>,
    top_k: usize,
}

impl Reference {
    fn read(name: &str) -> Reference {
        let folder = arrays(name);
        let npy = |file: &str| Npy::read(&folder.join(file));
        let mut ids = npy("prompt_ids.npy").ids();
        let prompt = ids.len();
        ids.extend(npy("greedy_ids.npy").ids());
        let full = npy("logits_full.npy");
        assert_eq!(full.shape[0], ids.len());
        let sparse = folder.join("router_idx.npy").exists().then(|| (npy("router_idx.npy"), npy("router_w.npy")));
        let (top_k, routes, route_weights) = match &sparse {
            Some((routes, weights)) => (routes.shape[2], routes.ids(), weights.f32()),
            None => (0, Vec::new(), Vec::new()),
        };
        Reference {
            ids,
            prompt,
            vocab: full.shape[1],
            logits: full.f32(),
            cached: npy("logits_cached.npy").f32(),
            top_k,
            routes: routes.iter().map(|&expert| expert as i32).collect(),
            route_weights,
        }
    }

    fn std(&self) -> f32 {
        let mean = self.logits.iter().sum::<f32>() / self.logits.len() as f32;
        (self.logits.iter().map(|l| (l - mean).powi(2)).sum::<f32>() / self.logits.len() as f32).sqrt()
    }

    /// Whether the experts at each position are the reference's; asserts close weights where they are. Both are taken in the
    /// order of experts: a choice by score and bias has another order than its weights.
    fn same_routes(&self, recorded: &Recorded, weight_tolerance: f32) -> Vec<bool> {
        let mut sparse: Vec<usize> = recorded.routes.iter().map(|route| route.0).collect();
        sparse.sort_unstable();
        sparse.dedup();
        let mut same = vec![true; self.ids.len()];
        assert_eq!(
            recorded.routes.len() * self.top_k,
            self.routes.len(),
            "a choice for each sparse layer and position"
        );
        for (layer, position, experts, weights) in &recorded.routes {
            let place = sparse.iter().position(|l| l == layer).expect("a sparse layer");
            let at = (place * self.ids.len() + position) * self.top_k;
            let sorted = |experts: &[i32], weights: &[f32]| {
                let mut both: Vec<(i32, f32)> = experts.iter().copied().zip(weights.iter().copied()).collect();
                both.sort_by_key(|(expert, _)| *expert);
                both
            };
            let range = at..at + self.top_k;
            let reference = sorted(&self.routes[range.clone()], &self.route_weights[range]);
            let chosen = sorted(experts, weights);
            if chosen.iter().zip(&reference).any(|(a, b)| a.0 != b.0) {
                same[*position] = false;
            } else if same[*position] {
                let off = chosen.iter().zip(&reference).map(|(a, b)| (a.1 - b.1).abs()).fold(0.0, f32::max);
                assert!(off <= weight_tolerance, "layer {layer}, position {position}: router weights are {off} off");
            }
        }
        same
    }
}

fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// By how much router weights, which are some tenths, may differ where logits may by `tolerance` of their deviation.
fn weight_tolerance(name: &str, tolerance: f32) -> f32 {
    match name.trim_end_matches("_gguf") {
        // Its attention does not scale its scores down, so that rounding doubles from layer to layer: of the last router's
        // weights transformers' own are 6.5e-6 off in f32 from what they are in f64, and ours are as much the other way.
        "gemma4" => tolerance / 10.0,
        _ => tolerance / 20.0,
    }
}

/// Checks one way of computing a fixture in f32.
fn check_precise((name, tolerance): (&str, f32), backend: Backend, chunk: Option<usize>, step_from: Option<usize>) {
    let reference = Reference::read(name);
    let options = Options { precise: true, backend, prefill_chunk: chunk, ..roomy() };
    let mut engine = engine(&fixture(name), &options, ReaderKind::Auto);
    let recorded = logits(&mut engine, &reference.ids, step_from.unwrap_or(reference.ids.len()));
    let way = format!("{name}, {backend:?}, chunk {chunk:?}, step from {step_from:?}");
    let weight_tolerance = weight_tolerance(name, tolerance);
    let tolerance = tolerance * reference.std();
    let off = difference(&recorded.logits, &reference.logits);
    assert!(off <= tolerance, "{way}: logits are {off} off, more than {tolerance}");
    let decoded = (reference.prompt - 1) * reference.vocab;
    let off = difference(&recorded.logits[decoded..][..reference.cached.len()], &reference.cached);
    assert!(off <= tolerance, "{way}: logits of cached decoding are {off} off, more than {tolerance}");
    assert!(
        reference.same_routes(&recorded, weight_tolerance).iter().all(|&same| same),
        "{way}: other experts were chosen"
    );
    for (i, row) in recorded
        .logits
        .chunks(reference.vocab)
        .enumerate()
        .skip(reference.prompt - 1)
        .take(reference.ids.len() - reference.prompt)
    {
        assert_eq!(argmax(row), reference.ids[i + 1], "{way}: greedy token after position {i}");
    }
}

#[test]
fn precise_logits_are_those_of_transformers() {
    for fixture in FIXTURES {
        for chunk in [None, Some(1), Some(7), Some(64)] {
            check_precise(fixture, Backend::Cpu, chunk, None);
        }
        for step_from in [1, 33] {
            check_precise(fixture, Backend::Cpu, None, Some(step_from));
        }
        check_precise(fixture, Backend::Cpu, Some(7), Some(20));
    }
}

/// Cut in two ways only: it is slow, and families cut their prompts without knowing who computes.
#[test]
fn the_reference_backend_gives_the_logits_of_transformers() {
    for fixture in FIXTURES {
        check_precise(fixture, Backend::Reference, None, None);
        check_precise(fixture, Backend::Reference, Some(7), Some(20));
    }
}

/// Kullback-Leibler divergence of two rows of logits, in nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |row: &[f32]| -> Vec<f64> {
        let max = row.iter().copied().fold(f32::MIN, f32::max) as f64;
        let sum: f64 = row.iter().map(|&l| (l as f64 - max).exp()).sum();
        row.iter().map(|&l| l as f64 - max - sum.ln()).collect()
    };
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// By how much more the int8 activations of quantised models may cost than the bf16 ones of plain models: these fixtures are
/// random and 64 wide, where a rounding error is not averaged out as in a model of thousands.
fn allowance(name: &str) -> f64 {
    let by_int8 = ["mlx", "gguf", "mxfp4", "int4", "compressed", "gptq", "awq", "nvfp4"]
        .iter()
        .any(|format| name.contains(format));
    if by_int8 { 3.0 } else { 1.0 }
}

/// By how much of the logits' deviation the most likely token has to lead, to be the one that is clearly most likely.
const LEAD: f32 = 0.1;

/// Where rounding turns a choice that was nearly even, another expert is used, and later positions see what came of it. So
/// what rounding itself costs is the mean over the positions before the first such choice; and of the positions after it
/// that made the same choices themselves, the median. (Of two indexers one also turns a choice of positions, which no route
/// shows: the KL there is a hundred times that of its neighbours.)
#[test]
fn default_rounding_costs_little() {
    for (name, _) in FIXTURES {
        let reference = Reference::read(name);
        let mut engine = engine(&fixture(name), &roomy(), ReaderKind::Auto);
        let recorded = logits(&mut engine, &reference.ids, reference.prompt);
        let followed = reference.same_routes(&recorded, f32::INFINITY);
        let rows = recorded.logits.chunks(reference.vocab).zip(reference.logits.chunks(reference.vocab));
        let rows: Vec<_> = rows.zip(&followed).filter(|(_, same)| **same).map(|(row, _)| row).collect();
        let clear = |row: &[f32]| {
            let best = row[argmax(row) as usize];
            row.iter().filter(|&&logit| logit > best - LEAD * reference.std()).count() == 1
        };
        let differ = rows.iter().filter(|(a, b)| argmax(a) != argmax(b) && clear(b)).count();
        let mut kls: Vec<f64> = rows.iter().map(|(a, b)| kl(b, a)).collect();
        let until = followed.iter().position(|same| !same).unwrap_or(followed.len());
        let mean = kls[..until].iter().sum::<f64>() / until.max(1) as f64;
        kls.sort_by(f64::total_cmp);
        let median = kls[kls.len() / 2];
        let allowance = allowance(name);
        let limit = allowance * 1e-3 * (reference.std() as f64).powi(2);
        println!(
            "{name}: routes followed at {} of {} positions; of these top-1 is clear and differs at {differ}, median KL {median:.2e}, mean \
             of the first {until} {mean:.2e} (limit {limit:.2e})",
            kls.len(),
            followed.len(),
        );
        assert!(kls.len() * 4 >= followed.len() * 3, "{name}: routes differ at more than a quarter of positions");
        assert!(median.max(mean) <= limit, "{name}: median KL {median} or mean {mean} is above {limit}");
        assert!(
            differ as f64 <= allowance * 0.05 * kls.len() as f64,
            "{name}: another token than a clear top-1 at {differ}"
        );
    }
}

/// What transformers' newer releases say in other words is the same model to the last bit.
#[test]
fn both_spellings_of_a_config_are_one_model() {
    let spelled = |name: &str, change: fn(&mut serde_json::Map<String, Value>)| {
        let dir = tempfile::tempdir().expect("a folder");
        for file in std::fs::read_dir(fixture(name)).expect("a fixture").map(|file| file.expect("a file")) {
            std::fs::copy(file.path(), dir.path().join(file.file_name())).expect("a copy");
        }
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("a config")).expect("JSON");
        change(config.as_object_mut().expect("an object"));
        std::fs::write(path, config.to_string()).expect("written");
        let ids: Vec<u32> = (0..40).map(|i| (i * i * 31 + 7) % 60).collect();
        [fixture(name).as_path(), dir.path()].map(|model| {
            let mut engine = engine(model, &Options { precise: true, ..roomy() }, ReaderKind::Auto);
            logits(&mut engine, &ids, 30).logits
        })
    };
    let [old, new] = spelled("gemma3", |config| {
        let theta = |key: &str| config[key].clone();
        let (full, local) = (theta("rope_theta"), theta("rope_local_base_freq"));
        let rope = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": full},
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        });
        ["rope_theta", "rope_local_base_freq", "rope_scaling"].into_iter().for_each(|key| drop(config.remove(key)));
        config.insert("rope_parameters".into(), rope);
    });
    assert!(old == new, "gemma3: logits are {} off", difference(&old, &new));
    let [old, new] = spelled("nemotron_h", |config| {
        config.remove("hybrid_override_pattern");
        let kinds = ["linear_attention", "moe", "linear_attention", "full_attention", "moe", "mlp"];
        config.insert("layers_block_type".into(), json!(kinds));
    });
    assert!(old == new, "nemotron_h: logits are {} off", difference(&old, &new));
}

/// DeepSeek-V3's fixture as Kimi-K2.5 is released: within a wrapper, every tensor behind `language_model.`.
#[test]
fn a_wrapper_changes_nothing() {
    let (from, to) = (fixture("deepseek_v3"), tempfile::tempdir().expect("a folder"));
    let weights = std::fs::read(from.join("model.safetensors")).expect("weights");
    let (length, rest) = weights.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: serde_json::Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let wrapped = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let wrapped: serde_json::Map<_, _> = wrapped.map(|(name, of)| (format!("language_model.{name}"), of)).collect();
    let header = Value::from(wrapped).to_string();
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat();
    std::fs::write(to.path().join("model.safetensors"), weights).expect("written");
    let text = std::fs::read(from.join("config.json")).expect("a config");
    let text: Value = serde_json::from_slice(&text).expect("a config is JSON");
    let config = json!({"model_type": "kimi_k25", "text_config": text});
    std::fs::write(to.path().join("config.json"), config.to_string()).expect("written");

    let reference = Reference::read("deepseek_v3");
    for (backend, step_from) in [(Backend::Cpu, reference.ids.len()), (Backend::Cpu, 1), (Backend::Reference, 33)] {
        let mut engine = engine(to.path(), &Options { precise: true, backend, ..roomy() }, ReaderKind::Auto);
        let recorded = logits(&mut engine, &reference.ids, step_from);
        let off = difference(&recorded.logits, &reference.logits) / reference.std();
        assert!(off <= 2e-4, "{backend:?}, step from {step_from}: {off} of the logits' deviation");
        assert!(reference.same_routes(&recorded, weight_tolerance("deepseek_v3", 2e-4)).into_iter().all(|same| same));
    }
}
