//! What the tests share: fixtures, NumPy files, engines over small models.

#![allow(dead_code, reason = "each test uses its own part")]

pub mod cli;
pub mod damage;
pub mod group;
pub mod http;
pub mod random;
pub mod schemas;
pub mod tmux;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use outpour_engine::{Engine, Inspection, Observer, Options, SequenceId, Session, Work};
use outpour_store::read::{self, ReaderKind};
use serde_json::{Value, json};

/// A folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name)
}

/// Fixtures of every kind of attention: windows, latent attention, an indexer's choice, compressed entries, recurrences of four
/// kinds; and of experts beside an MLP, and of a latent width.
pub const ATTENTION_KINDS: [&str; 20] = [
    "gpt_oss",
    "gemma4",
    "deepseek_v3",
    "glm_moe_dsa",
    "deepseek_v4",
    "qwen3_next",
    "kimi_linear",
    "minimax",
    "ling25",
    "nemotron_h_latent",
    "lfm2_moe",
    "jamba",
    "longcat_flash",
    "hy_v4",
    "glm5_next",
    "minimax_m3",
    "mistral_large4",
    "mimo_v2_flash",
    "llama4",
    "qwen4_exp",
];

/// One of every kind of attention and of every way that weights are stored.
pub const FIXTURES: [&str; 74] = [
    "qwen2_moe",
    "olmoe",
    "dots1",
    "solar_open",
    "hy_v3",
    "ernie4_5_moe",
    "hunyuan_v1_moe",
    "glm4_moe_lite",
    "qwen3_moe",
    "qwen3_moe_odd",
    "qwen3_next",
    "qwen3_5_moe",
    "qwen3_5_moe_mlx4",
    "qwen3_5_moe_mlx8",
    "qwen3_5_moe_mlx_mixed",
    "qwen3_next_mlx4",
    "qwen3_next_mlx8",
    "qwen3_next_mlx_mixed",
    "mixtral",
    "glm4_moe",
    "minimax_m2",
    "llama",
    "qwen3",
    "gpt_oss",
    "gpt_oss_transposed",
    "llama4_transposed",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm_moe_dsa",
    "gemma3",
    "gemma4",
    "kimi_linear",
    "minimax",
    "qwen3moe_gguf",
    "qwen35moe_gguf",
    "qwen3next_gguf",
    "deepseek_v3_gguf",
    "gpt_oss_mxfp4_gguf",
    "mixtral_gguf",
    "llama4_gguf",
    "nemotron_h",
    "qwen3_moe_fp8",
    "deepseek_v3_fp8",
    "gpt_oss_mxfp4",
    "deepseek_v3_int4",
    "glm4_moe_compressed",
    "qwen3_moe_gptq",
    "qwen3_moe_awq",
    "nemotron_h_nvfp4",
    "qwen3_moe_nvfp4",
    "qwen3_moe_mlx_fp4",
    "nemotron_h_latent",
    "ling25",
    "deepseek_v4",
    "deepseek_v4_fp8_mxfp4",
    "mistral4",
    "deepseek_v3_mlx4",
    "granitemoehybrid",
    "granitemoehybrid_dense",
    "minimax_m3_text",
    "lfm2_moe",
    "ling3",
    "jamba",
    "longcat_flash",
    "hy_v4",
    "glm5_next",
    "minimax_m3",
    "mistral_large4",
    "phimoe",
    "mimo_v2_flash",
    "llama4",
    "exaone_moe",
    "qwen4_exp",
];

/// Fixtures of GGUF files that [`FIXTURES`] has none of.
pub fn further_gguf_fixtures() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("")).expect("fixtures").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let names: Vec<String> =
        names.filter(|name| name.ends_with("_gguf") && !FIXTURES.contains(&name.as_str())).collect();
    assert!(names.len() > 30, "{names:?}");
    names
}

/// A fixture's config with so many experts, and so wide.
pub fn enlarged(name: &str, experts: usize, width: usize) -> Value {
    let config = std::fs::read(fixture(name).join("config.json")).expect("a fixture has a config");
    let mut config: Value = serde_json::from_slice(&config).expect("a config is JSON");
    let text = if config.get("text_config").is_some() { &mut config["text_config"] } else { &mut config };
    let counts = ["n_routed_experts", "num_experts", "num_local_experts"].map(|key| (key, experts));
    let widths = [
        "hidden_size",
        "moe_intermediate_size",
        "intermediate_size",
        "moe_latent_size",
        "ffn_hidden_size",
        "expert_ffn_hidden_size",
    ]
    .map(|key| (key, width));
    for (key, value) in counts.into_iter().chain(widths).filter(|(key, _)| text.get(key).is_some()).collect::<Vec<_>>()
    {
        text[key] = json!(value);
    }
    if text["n_group"].as_u64() > Some(1) {
        (text["n_group"], text["topk_group"]) = (json!(4), json!(2));
    }
    text["vocab_size"] = json!(2048);
    config
}

/// The data and shape of a NumPy file of little-endian 4-byte or 8-byte elements.
pub struct Npy {
    pub shape: Vec<usize>,
    bytes: Vec<u8>,
    element_bytes: usize,
}

impl Npy {
    pub fn read(path: &Path) -> Npy {
        let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let length = u16::from_le_bytes([file[8], file[9]]) as usize;
        let header = std::str::from_utf8(&file[10..10 + length]).expect("NumPy headers are ASCII");
        assert!(header.contains("'fortran_order': False"), "{header}");
        let list = header.split(['(', ')']).nth(1).expect("a shape");
        let shape = list.split(',').filter_map(|dim| dim.trim().parse().ok()).collect();
        let element_bytes = if header.contains("i8'") { 8 } else { 4 };
        Npy { shape, bytes: file[10 + length..].to_vec(), element_bytes }
    }

    pub fn f32(&self) -> Vec<f32> {
        assert_eq!(self.element_bytes, 4);
        self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }

    pub fn ids(&self) -> Vec<u32> {
        self.bytes.chunks_exact(self.element_bytes).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
    }
}

/// Logits `[tokens, vocab]` of all positions, and the routes in the order they were chosen.
#[derive(Default)]
pub struct Recorded {
    pub logits: Vec<f32>,
    /// `(layer, position, experts, weights)`.
    pub routes: Vec<(usize, usize, Vec<i32>, Vec<f32>)>,
}

impl Observer for Recorded {
    fn logits(&mut self, _: SequenceId, _: usize, logits: &[f32]) {
        self.logits.extend_from_slice(logits);
    }

    fn routes(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        let top_k = choice.len() / positions.len();
        for (i, &position) in positions.iter().enumerate() {
            let (choice, weights) = (&choice[i * top_k..][..top_k], &weights[i * top_k..][..top_k]);
            self.routes.push((layer, position as usize, choice.to_vec(), weights.to_vec()));
        }
    }
}

/// Loads a model.
pub fn engine(model: &Path, options: &Options, reader: ReaderKind) -> Engine {
    let inspection = Inspection::open(model, options.precise).unwrap_or_else(|error| panic!("{error}"));
    let reader = read::open(reader).expect("a reader");
    Engine::load(inspection, options, reader, &mut |_, _| ControlFlow::Continue(()))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Computes the logits of all tokens: those before `step_from` as a prompt, the others one at a time.
pub fn logits(engine: &mut Engine, ids: &[u32], step_from: usize) -> Recorded {
    let mut recorded = Recorded::default();
    let mut session = Session::open(engine);
    session
        .extend(engine, &ids[..step_from], Work::PromptWithLogits, &mut recorded)
        .unwrap_or_else(|error| panic!("{error}"));
    for &next in &ids[step_from..] {
        session.step(engine, &mut recorded, &mut |_, _| next).unwrap_or_else(|error| panic!("{error}"));
        let row = session.logits(engine, &mut recorded).unwrap_or_else(|error| panic!("{error}")).to_vec();
        recorded.logits.extend_from_slice(&row);
    }
    session.close(engine);
    recorded
}

/// Options with a memory that holds all of a small model.
pub fn roomy() -> Options {
    Options { ram: 2 << 30, ..Options::default() }
}

/// The least memory that a model runs in under these options.
pub fn minimum_ram(model: &Path, options: &Options) -> usize {
    let inspection = Inspection::open(model, options.precise).unwrap_or_else(|error| panic!("{error}"));
    inspection.plan(options).unwrap_or_else(|error| panic!("{error}")).minimum_ram
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Uid:").is_some_and(|ids| ids.split_whitespace().nth(1) == Some("0")))
}

/// Lets every user read a folder that `tempfile` made for this one alone.
pub fn open_to_everyone(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
}
