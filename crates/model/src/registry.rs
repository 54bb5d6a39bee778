//! `model_type` → the file that implements it, and what people want to know of each family. It is long because it is a table of all.

use outpour_kernels::{DType, RopePairs};

use crate::Model;
use crate::blocks::attention::QkNorm;
use crate::blocks::deepseek_moe::Choice;
use crate::config::{Config, LAYERS, ModelError};
use crate::families::deepseek::Attention::{Dense, Sparse};
use crate::families::gemma::Family::{Gemma3, Gemma4};
use crate::families::qwen3_5_moe::Family::{Qwen3Next, Qwen35};
use crate::families::{
    deepseek, deepseek_v4, ernie4_5_moe, exaone_moe, gemma, glm4_moe, glm5_next, gpt_oss, granite, hunyuan_v1_moe,
    hy_v4, jamba, kimi_linear, lfm2_moe, ling, ling3, llama, llama4, longcat_flash, mimo_v2_flash, minimax, minimax_m2,
    minimax_m3, mistral_large4, mixtral, nemotron_h, phimoe, qwen3_5_moe, qwen3_moe, qwen4_exp,
};
use crate::weights::{Weights, said};

type Build = fn(&Config, &mut Weights, DType) -> Result<Box<dyn Model>, ModelError>;

/// A family that can be run.
pub struct Family {
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// Of `architectures` there, where several families have the same `model_type`.
    pub architecture: Option<&'static str>,
    /// Released models.
    pub models: &'static str,
    /// How positions are mixed.
    pub attention: &'static str,
    /// Its fixtures in `tests/fixtures`: of the release's layout first, then of MLX's exports, then GGUF files.
    pub fixtures: &'static [&'static str],
    /// How releases name and store experts.
    pub experts: ExpertNames,
    /// Its file in `families/`, which it may share with others.
    pub file: &'static str,
    /// Builds it from the config of its text model.
    build: Build,
}

impl Family {
    /// Builds the model from its config, asking `weights` for every tensor; keys and values are kept in the type `kv`. Of a wrapper
    /// for images that is its `text_config`; that the head is the embedding may be said beside it.
    ///
    /// # Errors
    /// When a key or a tensor is missing, or they do not fit each other.
    pub fn model(&self, config: &Config, weights: &mut Weights, kv: DType) -> Result<Box<dyn Model>, ModelError> {
        let mut text = config.text().0.clone();
        if let (Some(tied), Some(text)) = (config.0.get(TIED).filter(|tied| !tied.is_null()), text.as_object_mut()) {
            text.insert(TIED.into(), tied.clone());
        }
        (self.build)(&Config(&text), weights, kv)
    }
}

const TIED: &str = "tie_word_embeddings";

/// How a release in BF16 names a layer's experts, behind `{prefix}.experts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpertNames {
    /// There are none.
    Dense,
    /// A tensor for each expert and matrix: `.N.gate_proj.weight`, `.N.up_proj.weight`, `.N.down_proj.weight`.
    OneByOne,
    /// The same as `.N.w1.weight`, `.N.w3.weight`, `.N.w2.weight`.
    Numbered,
    /// A tensor for each matrix, all experts stacked: `.gate_proj.weight`, `.up_proj.weight`, `.down_proj.weight`.
    Stacked,
    /// Two, gate and up joined: `.gate_up_proj` and `.down_proj`.
    Joined,
    /// The same as `[experts, in, out]` each, not `[experts, out, in]` (Llama 4).
    Transposed,
    /// The same beside: `{prefix}.input_linear.weight` and `{prefix}.output_linear.weight`.
    Linear,
}

/// Fixtures of Qwen3.5, with and without a wrapper.
const QWEN3_5: &[&str] = &[
    "qwen3_5_moe",
    "qwen3_5_moe_mlx4",
    "qwen3_5_moe_mlx8",
    "qwen3_5_moe_mlx_mixed",
    "qwen35moe_gguf",
    "qwen3_5_moe_gguf",
];

/// Every family.
pub const FAMILIES: &[Family] = &[
    Family {
        model_type: "qwen3_moe",
        architecture: None,
        models: "Qwen3-30B-A3B, Qwen3-235B-A22B, Qwen3-Coder",
        attention: "GQA",
        fixtures: &[
            "qwen3_moe",
            "qwen3_moe_odd",
            "qwen3_moe_fp8",
            "qwen3_moe_gptq",
            "qwen3_moe_awq",
            "qwen3_moe_nvfp4",
            "qwen3_moe_mxfp8",
            "qwen3_moe_w4a8",
            "qwen3_moe_auto_round",
            "qwen3_moe_quark",
            "qwen3_moe_mlx_fp4",
            "qwen3moe_gguf",
        ],
        experts: ExpertNames::OneByOne,
        file: "qwen3_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_moe::build(qwen3_moe::Family::Qwen3, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_next",
        architecture: None,
        models: "Qwen3-Next-80B-A3B, Qwen3-Coder-Next",
        attention: "3 Gated DeltaNet to 1 gated GQA",
        fixtures: &["qwen3_next", "qwen3_next_mlx4", "qwen3_next_mlx8", "qwen3_next_mlx_mixed", "qwen3next_gguf"],
        experts: ExpertNames::OneByOne,
        file: "qwen3_5_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_5_moe::build(Qwen3Next, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_5_moe",
        architecture: None,
        models: "Qwen3.5-35B-A3B, Qwen3.5-122B-A10B, Qwen3.5-397B-A17B",
        attention: "3 Gated DeltaNet to 1 gated GQA",
        fixtures: QWEN3_5,
        experts: ExpertNames::Joined,
        file: "qwen3_5_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_5_moe::build(Qwen35, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3_5_moe_text",
        architecture: None,
        models: "the same without a wrapper",
        attention: "3 Gated DeltaNet to 1 gated GQA",
        fixtures: QWEN3_5,
        experts: ExpertNames::Joined,
        file: "qwen3_5_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_5_moe::build(Qwen35, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen4_exp",
        architecture: None,
        models: "Qwen4-Exp (Qwen3.8-Flash-Next)",
        attention: "3 Gated DeltaNet to 1 gated GQA over chosen blocks (QSA)",
        fixtures: &["qwen4_exp", "qwen4_exp_gguf"],
        experts: ExpertNames::Joined,
        file: "qwen4_exp.rs",
        build: |config, weights, kv| Ok(Box::new(qwen4_exp::build(config, weights, kv)?)),
    },
    Family {
        model_type: "qwen4_exp_text",
        architecture: None,
        models: "the same without a wrapper",
        attention: "3 Gated DeltaNet to 1 gated GQA over chosen blocks (QSA)",
        fixtures: &["qwen4_exp", "qwen4_exp_gguf"],
        experts: ExpertNames::Joined,
        file: "qwen4_exp.rs",
        build: |config, weights, kv| Ok(Box::new(qwen4_exp::build(config, weights, kv)?)),
    },
    Family {
        model_type: "mixtral",
        architecture: None,
        models: "Mixtral-8x7B, Mixtral-8x22B",
        attention: "GQA",
        fixtures: &["mixtral", "mixtral_gguf"],
        experts: ExpertNames::Numbered,
        file: "mixtral.rs",
        build: |config, weights, kv| Ok(Box::new(mixtral::build(config, weights, kv)?)),
    },
    Family {
        model_type: "glm4_moe",
        architecture: None,
        models: "GLM-4.5, GLM-4.5-Air, GLM-4.6, GLM-4.7",
        attention: "GQA",
        fixtures: &["glm4_moe", "glm4_moe_compressed", "glm4_moe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "glm4_moe.rs",
        build: |config, weights, kv| Ok(Box::new(glm4_moe::build(glm4_moe::Family::Glm4, config, weights, kv)?)),
    },
    Family {
        model_type: "minimax_m2",
        architecture: None,
        models: "MiniMax-M2, M2.1, M2.5, M2.7",
        attention: "GQA",
        fixtures: &["minimax_m2", "minimax_m2_gguf"],
        experts: ExpertNames::Numbered,
        file: "minimax_m2.rs",
        build: |config, weights, kv| Ok(Box::new(minimax_m2::build(config, weights, kv)?)),
    },
    Family {
        model_type: "llama",
        architecture: None,
        models: "Llama 2, 3, 3.1, 3.2, 3.3 (dense)",
        attention: "GQA",
        fixtures: &["llama", "llama_gguf"],
        experts: ExpertNames::Dense,
        file: "llama.rs",
        build: |config, weights, kv| Ok(Box::new(llama::build("llama", QkNorm::None, config, weights, kv)?)),
    },
    Family {
        model_type: "qwen3",
        architecture: None,
        models: "Qwen3-0.6B to 32B (dense)",
        attention: "GQA",
        fixtures: &["qwen3", "qwen3_gguf"],
        experts: ExpertNames::Dense,
        file: "llama.rs",
        build: |config, weights, kv| Ok(Box::new(llama::build("qwen3", QkNorm::PerHead, config, weights, kv)?)),
    },
    Family {
        model_type: "gpt_oss",
        architecture: None,
        models: "gpt-oss-20b, gpt-oss-120b",
        attention: "1 GQA within a window to 1 GQA, sinks",
        fixtures: &["gpt_oss", "gpt_oss_mxfp4", "gpt_oss_transposed", "gpt_oss_mxfp4_gguf"],
        experts: ExpertNames::Stacked,
        file: "gpt_oss.rs",
        build: |config, weights, kv| Ok(Box::new(gpt_oss::build(config, weights, kv)?)),
    },
    Family {
        model_type: "deepseek_v2",
        architecture: None,
        models: "DeepSeek-V2, V2.5, V2-Lite, Coder-V2",
        attention: "MLA",
        fixtures: &["deepseek_v2", "deepseek_v2_gguf"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("deepseek_v2", Choice::Softmax, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "deepseek_v3",
        architecture: None,
        models: "DeepSeek-V3, V3.1, R1, Moonlight-16B-A3B",
        attention: "MLA",
        fixtures: &["deepseek_v3", "deepseek_v3_fp8", "deepseek_v3_mlx4", "deepseek_v3_gguf"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("deepseek_v3", Choice::SigmoidBiased, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "deepseek_v32",
        architecture: None,
        models: "DeepSeek-V3.2, V3.2-Exp, V3.2-Speciale",
        attention: "MLA to positions that an indexer chooses (DSA)",
        fixtures: &["deepseek_v32", "deepseek_v32_gguf"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            let attention = Sparse(RopePairs::Half);
            Ok(Box::new(deepseek::build("deepseek_v32", Choice::SigmoidBiased, attention, config, weights, kv)?))
        },
    },
    Family {
        model_type: "glm_moe_dsa",
        architecture: None,
        models: "GLM-5, GLM-5.1, GLM-5.2",
        attention: "MLA to positions that an indexer, or in 5.2 the layer before, chooses (DSA)",
        fixtures: &["glm_moe_dsa", "glm_moe_dsa_gguf"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            let attention = Sparse(RopePairs::Interleaved);
            Ok(Box::new(deepseek::build("glm_moe_dsa", Choice::SigmoidBiased, attention, config, weights, kv)?))
        },
    },
    Family {
        model_type: "kimi_k2",
        architecture: None,
        models: "Kimi-K2, Kimi-K2-Thinking",
        attention: "MLA",
        fixtures: &["deepseek_v3", "deepseek_v3_fp8", "deepseek_v3_int4", "deepseek_v3_mlx4"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("kimi_k2", Choice::SigmoidBiased, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "kimi_k25",
        architecture: None,
        models: "Kimi-K2.5, Kimi-K2.6 (text)",
        attention: "MLA",
        fixtures: &["deepseek_v3", "deepseek_v3_int4", "deepseek_v3_mlx4"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("kimi_k25", Choice::SigmoidBiased, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "qwen2_moe",
        architecture: None,
        models: "Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B",
        attention: "GQA",
        fixtures: &["qwen2_moe", "qwen2_moe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "qwen3_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_moe::build(qwen3_moe::Family::Qwen2, config, weights, kv)?)),
    },
    Family {
        model_type: "olmoe",
        architecture: None,
        models: "OLMoE-1B-7B",
        attention: "GQA",
        fixtures: &["olmoe", "olmoe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "qwen3_moe.rs",
        build: |config, weights, kv| Ok(Box::new(qwen3_moe::build(qwen3_moe::Family::Olmoe, config, weights, kv)?)),
    },
    Family {
        model_type: "solar_open",
        architecture: None,
        models: "Solar-Open-100B",
        attention: "GQA",
        fixtures: &["solar_open", "solar_open_gguf"],
        experts: ExpertNames::OneByOne,
        file: "glm4_moe.rs",
        build: |config, weights, kv| Ok(Box::new(glm4_moe::build(glm4_moe::Family::SolarOpen, config, weights, kv)?)),
    },
    Family {
        model_type: "dots1",
        architecture: None,
        models: "dots.llm1",
        attention: "GQA",
        fixtures: &["dots1", "dots1_gguf"],
        experts: ExpertNames::OneByOne,
        file: "glm4_moe.rs",
        build: |config, weights, kv| Ok(Box::new(glm4_moe::build(glm4_moe::Family::Dots, config, weights, kv)?)),
    },
    Family {
        model_type: "hy_v3",
        architecture: None,
        models: "Hy3-preview (295B-A21B)",
        attention: "GQA",
        fixtures: &["hy_v3", "hy_v3_gguf"],
        experts: ExpertNames::OneByOne,
        file: "glm4_moe.rs",
        build: |config, weights, kv| Ok(Box::new(glm4_moe::build(glm4_moe::Family::Hunyuan3, config, weights, kv)?)),
    },
    Family {
        model_type: "ernie4_5_moe",
        architecture: None,
        models: "ERNIE-4.5-21B-A3B, ERNIE-4.5-300B-A47B (text)",
        attention: "GQA",
        fixtures: &["ernie4_5_moe", "ernie4_5_moe_mlx4", "ernie4_5_moe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "ernie4_5_moe.rs",
        build: |config, weights, kv| Ok(Box::new(ernie4_5_moe::build(config, weights, kv)?)),
    },
    Family {
        model_type: "hunyuan_v1_moe",
        architecture: None,
        models: "Hunyuan-A13B",
        attention: "GQA",
        fixtures: &["hunyuan_v1_moe", "hunyuan_v1_moe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "hunyuan_v1_moe.rs",
        build: |config, weights, kv| Ok(Box::new(hunyuan_v1_moe::build(config, weights, kv)?)),
    },
    Family {
        model_type: "glm4_moe_lite",
        architecture: None,
        models: "GLM-4.7-Flash",
        attention: "MLA",
        fixtures: &["glm4_moe_lite", "glm4_moe_lite_gguf"],
        experts: ExpertNames::OneByOne,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("glm4_moe_lite", Choice::SigmoidBiased, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "mistral4",
        architecture: None,
        models: "Mistral-Small-4-119B (text); the shape of Mistral-Large-3-675B, whose release has another layout",
        attention: "MLA",
        fixtures: &["mistral4", "mistral4_gguf"],
        experts: ExpertNames::Joined,
        file: "deepseek.rs",
        build: |config, weights, kv| {
            Ok(Box::new(deepseek::build("mistral4", Choice::SoftmaxShares, Dense, config, weights, kv)?))
        },
    },
    Family {
        model_type: "gemma3",
        architecture: None,
        models: "Gemma 3 4B, 12B, 27B (dense, text)",
        attention: "5 GQA within a window to 1 GQA",
        fixtures: &["gemma3", "gemma3_gguf"],
        experts: ExpertNames::Dense,
        file: "gemma.rs",
        build: |config, weights, kv| Ok(Box::new(gemma::build(Gemma3, config, weights, kv)?)),
    },
    Family {
        model_type: "gemma3_text",
        architecture: None,
        models: "Gemma 3 270M, 1B (dense)",
        attention: "5 GQA within a window to 1 GQA",
        fixtures: &["gemma3"],
        experts: ExpertNames::Dense,
        file: "gemma.rs",
        build: |config, weights, kv| Ok(Box::new(gemma::build(Gemma3, config, weights, kv)?)),
    },
    Family {
        model_type: "gemma4",
        architecture: None,
        models: "Gemma 4 26B-A4B, 31B (dense) (text)",
        attention: "5 GQA within a window to 1 GQA",
        fixtures: &["gemma4", "gemma4_gguf"],
        experts: ExpertNames::Joined,
        file: "gemma.rs",
        build: |config, weights, kv| Ok(Box::new(gemma::build(Gemma4, config, weights, kv)?)),
    },
    Family {
        model_type: "gemma4_text",
        architecture: None,
        models: "the same without a wrapper",
        attention: "5 GQA within a window to 1 GQA",
        fixtures: &["gemma4"],
        experts: ExpertNames::Joined,
        file: "gemma.rs",
        build: |config, weights, kv| Ok(Box::new(gemma::build(Gemma4, config, weights, kv)?)),
    },
    Family {
        model_type: "nemotron_h",
        architecture: None,
        models: "Nemotron-3-Nano-30B-A3B, Nemotron-3-Super-120B-A12B, Nemotron-H (dense)",
        attention: "Mamba-2, some GQA without positions",
        fixtures: &[
            "nemotron_h",
            "nemotron_h_latent",
            "nemotron_h_nvfp4",
            "nemotron_h_gguf",
            "nemotron_h_latent_gguf",
            "nemotron_h_dense_gguf",
        ],
        experts: ExpertNames::OneByOne,
        file: "nemotron_h.rs",
        build: |config, weights, kv| Ok(Box::new(nemotron_h::build(config, weights, kv)?)),
    },
    Family {
        model_type: "minimax",
        architecture: None,
        models: "MiniMax-Text-01",
        attention: "7 Lightning Attention to 1 GQA",
        fixtures: &["minimax", "minimax_gguf"],
        experts: ExpertNames::Numbered,
        file: "minimax.rs",
        build: |config, weights, kv| Ok(Box::new(minimax::build(config, weights, kv)?)),
    },
    Family {
        model_type: "minimax_text_01",
        architecture: None,
        models: "the same with its maker's own keys",
        attention: "7 Lightning Attention to 1 GQA",
        fixtures: &["minimax"],
        experts: ExpertNames::Numbered,
        file: "minimax.rs",
        build: |config, weights, kv| Ok(Box::new(minimax::build(config, weights, kv)?)),
    },
    Family {
        model_type: "kimi_linear",
        architecture: None,
        models: "Kimi-Linear-48B-A3B",
        attention: "3 Kimi Delta Attention to 1 MLA without positions",
        fixtures: &["kimi_linear", "kimi_linear_gguf"],
        experts: ExpertNames::Numbered,
        file: "kimi_linear.rs",
        build: |config, weights, kv| Ok(Box::new(kimi_linear::build(config, weights, kv)?)),
    },
    Family {
        model_type: "bailing_hybrid",
        architecture: Some("BailingMoeV2_5ForCausalLM"),
        models: "Ling-2.5-1T, Ring-2.5-1T",
        attention: "7 Lightning Attention to 1 MLA",
        fixtures: &["ling25"],
        experts: ExpertNames::OneByOne,
        file: "ling.rs",
        build: |config, weights, kv| Ok(Box::new(ling::build(config, weights, kv)?)),
    },
    Family {
        model_type: "deepseek_v4",
        architecture: None,
        models: "DeepSeek-V4-Flash, V4-Pro",
        attention: "a window, and compressed entries of the past: chosen ones (CSA) and all (HCA) in turn",
        fixtures: &["deepseek_v4", "deepseek_v4_fp8_mxfp4", "deepseek_v4_gguf"],
        experts: ExpertNames::Numbered,
        file: "deepseek_v4.rs",
        build: |config, weights, kv| Ok(Box::new(deepseek_v4::build(config, weights, kv)?)),
    },
    Family {
        model_type: "granitemoehybrid",
        architecture: None,
        models: "Granite 4.0 H-Tiny, H-Small, and H-Micro, H-1B (dense)",
        attention: "9 Mamba-2 to 1 GQA without positions",
        fixtures: &[
            "granitemoehybrid",
            "granitemoehybrid_dense",
            "granitemoehybrid_gguf",
            "granitemoehybrid_dense_gguf",
            "granitemoe_gguf",
            "granite_gguf",
        ],
        experts: ExpertNames::Linear,
        file: "granite.rs",
        build: |config, weights, kv| Ok(Box::new(granite::build(config, weights, kv)?)),
    },
    Family {
        model_type: "lfm2_moe",
        architecture: None,
        models: "LFM2-8B-A1B",
        attention: "3 short convolutions to 1 GQA",
        fixtures: &["lfm2_moe", "lfm2_moe_mlx4", "lfm2_moe_gguf"],
        experts: ExpertNames::Numbered,
        file: "lfm2_moe.rs",
        build: |config, weights, kv| Ok(Box::new(lfm2_moe::build(config, weights, kv)?)),
    },
    Family {
        model_type: "jamba",
        architecture: None,
        models: "Jamba 1.5, 1.6, 1.7 Mini and Large",
        attention: "7 Mamba to 1 GQA without positions",
        fixtures: &["jamba", "jamba_gguf"],
        experts: ExpertNames::OneByOne,
        file: "jamba.rs",
        build: |config, weights, kv| Ok(Box::new(jamba::build(config, weights, kv)?)),
    },
    Family {
        model_type: "bailing_hybrid",
        architecture: Some("BailingHybridForCausalLM"),
        models: "Ling-3.0-Flash",
        attention: "5 Kimi Delta Attention to 1 MLA, gated by head",
        fixtures: &["ling3", "ling3_gguf"],
        experts: ExpertNames::OneByOne,
        file: "ling3.rs",
        build: |config, weights, kv| Ok(Box::new(ling3::build(config, weights, kv)?)),
    },
    Family {
        model_type: "longcat_flash",
        architecture: None,
        models: "LongCat-Flash-Chat, LongCat-Flash-Thinking",
        attention: "2 MLA a layer",
        fixtures: &["longcat_flash"],
        experts: ExpertNames::OneByOne,
        file: "longcat_flash.rs",
        build: |config, weights, kv| Ok(Box::new(longcat_flash::build(config, weights, kv)?)),
    },
    Family {
        model_type: "hy_v4",
        architecture: None,
        models: "Hy4-preview",
        attention: "MLA, gated, with sinks, to positions that an indexer, or the layer before, chooses (DSA)",
        fixtures: &["hy_v4", "hy_v4_gguf"],
        experts: ExpertNames::Joined,
        file: "hy_v4.rs",
        build: |config, weights, kv| Ok(Box::new(hy_v4::build(config, weights, kv)?)),
    },
    Family {
        model_type: "glm5_next",
        architecture: None,
        models: "GLM-5.3-Flash (text)",
        attention: "3 Kimi Delta Attention to 1 MLA without positions, to what an indexer chooses by keys of several positions",
        fixtures: &["glm5_next", "glm5_next_gguf"],
        experts: ExpertNames::OneByOne,
        file: "glm5_next.rs",
        build: |config, weights, kv| Ok(Box::new(glm5_next::build(config, weights, kv)?)),
    },
    Family {
        model_type: "minimax_m3_vl",
        architecture: None,
        models: "MiniMax-M3 (text)",
        attention: "GQA to blocks of positions that small queries choose",
        fixtures: &["minimax_m3", "minimax_m3_gguf"],
        experts: ExpertNames::Numbered,
        file: "minimax_m3.rs",
        build: |config, weights, kv| Ok(Box::new(minimax_m3::build(config, weights, kv)?)),
    },
    Family {
        model_type: "minimax_m3_vl_text",
        architecture: None,
        models: "the same without a wrapper, as transformers writes it",
        attention: "GQA to blocks of positions that small queries choose",
        fixtures: &["minimax_m3_text"],
        experts: ExpertNames::Joined,
        file: "minimax_m3.rs",
        build: |config, weights, kv| Ok(Box::new(minimax_m3::build(config, weights, kv)?)),
    },
    Family {
        model_type: "mistral_large4",
        architecture: None,
        models: "Mistral-Large-4-1T-A52B (text)",
        attention: "MLA to positions that an indexer, or the layer before, chooses (DSA), without positions in 1 of 4",
        fixtures: &["mistral_large4"],
        experts: ExpertNames::Numbered,
        file: "mistral_large4.rs",
        build: |config, weights, kv| Ok(Box::new(mistral_large4::build(config, weights, kv)?)),
    },
    Family {
        model_type: "phimoe",
        architecture: None,
        models: "Phi-3.5-MoE-instruct (contexts up to 4096)",
        attention: "GQA",
        fixtures: &["phimoe", "phimoe_gguf"],
        experts: ExpertNames::Numbered,
        file: "phimoe.rs",
        build: |config, weights, kv| Ok(Box::new(phimoe::build(config, weights, kv)?)),
    },
    Family {
        model_type: "mimo_v2_flash",
        architecture: None,
        models: "MiMo-V2-Flash",
        attention: "5 GQA within a window, with sinks, to 1 GQA",
        fixtures: &["mimo_v2_flash", "mimo_v2_flash_gguf"],
        experts: ExpertNames::OneByOne,
        file: "mimo_v2_flash.rs",
        build: |config, weights, kv| Ok(Box::new(mimo_v2_flash::build(config, weights, kv)?)),
    },
    Family {
        model_type: "llama4",
        architecture: None,
        models: "Llama 4 Scout, Maverick (text)",
        attention: "3 GQA within chunks to 1 GQA without positions",
        fixtures: &["llama4_transposed", "llama4", "llama4_gguf"],
        experts: ExpertNames::Transposed,
        file: "llama4.rs",
        build: |config, weights, kv| Ok(Box::new(llama4::build(config, weights, kv)?)),
    },
    Family {
        model_type: "llama4_text",
        architecture: None,
        models: "the same without a wrapper",
        attention: "3 GQA within chunks to 1 GQA without positions",
        fixtures: &["llama4_transposed", "llama4"],
        experts: ExpertNames::Transposed,
        file: "llama4.rs",
        build: |config, weights, kv| Ok(Box::new(llama4::build(config, weights, kv)?)),
    },
    Family {
        model_type: "exaone_moe",
        architecture: None,
        models: "K-EXAONE-236B-A23B",
        attention: "3 GQA within a window to 1 GQA without positions",
        fixtures: &["exaone_moe", "exaone_moe_gguf"],
        experts: ExpertNames::OneByOne,
        file: "exaone_moe.rs",
        build: |config, weights, kv| Ok(Box::new(exaone_moe::build(config, weights, kv)?)),
    },
];

/// The family that a config names.
///
/// # Errors
/// Names the architecture that is not supported, and those that are.
pub fn family(config: &Config) -> Result<&'static Family, ModelError> {
    let of = |name| FAMILIES.iter().filter(move |family| family.model_type == name);
    // Wrappers for images, several of which may hold the same language model, name it in their text_config.
    let mut model_type = config.model_type()?;
    if of(model_type).next().is_none() {
        model_type = config.text().model_type().unwrap_or(model_type);
    }
    let mut named = of(model_type).peekable();
    if named.peek().is_none() {
        // Names are short; what is none may be long.
        let model_type: String = config.model_type()?.chars().take(80).collect();
        let supported: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        return Err(ModelError::Config(format!(
            "model_type {model_type:?} is not supported; supported are: {}",
            supported.join(", ")
        )));
    }
    let mut architectures = config.texts("architectures")?.unwrap_or_default();
    architectures.extend(config.text().texts("architectures")?.unwrap_or_default());
    let is_it = |family: &&Family| family.architecture.is_none_or(|name| architectures.contains(&name));
    let family = named.find(is_it).ok_or_else(|| {
        let name = architectures.first().unwrap_or(&"none");
        ModelError::Config(format!("model_type {model_type:?} of the architecture {name} is not supported"))
    })?;
    check_counts(&config.text())?;
    said::check_form(config)?;
    Ok(family)
}

/// Layers, and experts in all layers, beyond which tables would be made for what is no model.
const LAYERS_MAX: usize = 4096;
const EXPERTS_MAX: u64 = 1 << 18;

fn check_counts(config: &Config) -> Result<(), ModelError> {
    let layers = config.size_or(config.spelling(LAYERS), 1)?;
    if layers > LAYERS_MAX {
        return Err(ModelError::Config(format!(
            "{} is {layers}, and at most {LAYERS_MAX} are supported; download it again",
            config.spelling(LAYERS)
        )));
    }
    for key in ["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"] {
        let experts = config.size_or_zero(key)? as u64;
        if experts.saturating_mul(layers as u64) > EXPERTS_MAX {
            return Err(ModelError::Config(format!(
                "{key} is {experts} in {layers} layers, and at most {EXPERTS_MAX} in all are supported; download it again"
            )));
        }
    }
    Ok(())
}

/// `docs/models.md`: every family, from the table above, and how many lines its file of this name has.
pub fn page(lines: impl Fn(&str) -> usize) -> String {
    let mut page = PAGE_HEAD.to_owned();
    for family in FAMILIES {
        let Family { model_type, models, attention, fixtures, file, .. } = family;
        let tested = TESTED.iter().filter(|(part, _)| fixtures.iter().any(|fixture| fixture.contains(part)));
        let formats: String =
            ["BF16"].into_iter().chain(tested.map(|(_, format)| *format)).collect::<Vec<_>>().join(", ");
        let model_type = match family.architecture {
            None => format!("`{model_type}`"),
            Some(name) => format!("`{model_type}` of `{name}`"),
        };
        let alone = fixtures.iter().any(|fixture| ALONE.contains(fixture));
        let model_type = if alone { model_type + " ¹" } else { model_type };
        let fixtures: Vec<String> = fixtures.iter().map(|fixture| format!("`{fixture}`")).collect();
        page += &format!(
            "| {model_type} | {models} | {attention} | {formats} | {} | `{file}` {} |\n",
            fixtures.join(", "),
            lines(file)
        );
    }
    page
}

/// Fixtures whose reference no second implementation confirmed.
const ALONE: [&str; 15] = [
    "qwen4_exp",
    "mimo_v2_flash",
    "exaone_moe",
    "solar_open",
    "hy_v3",
    "deepseek_v4",
    "glm_moe_dsa",
    "granitemoehybrid",
    "jamba",
    "ling3",
    "hy_v4",
    "glm5_next",
    "minimax_m3",
    "minimax_m3_text",
    "mistral_large4",
];

/// Formats by what names of fixtures say of them.
const TESTED: [(&str, &str); 13] = [
    ("mlx", "MLX"),
    ("fp8", "FP8"),
    ("mxfp4", "MXFP4"),
    ("nvfp4", "NVFP4"),
    ("mxfp8", "MXFP8"),
    ("int4", "int4"),
    ("compressed", "compressed-tensors"),
    ("w4a8", "int4 in bytes"),
    ("gptq", "GPTQ"),
    ("awq", "AWQ"),
    ("auto_round", "auto-round"),
    ("quark", "Quark"),
    ("gguf", "GGUF"),
];

const PAGE_HEAD: &str = "\
# Models

This page is made from `crates/model/src/registry.rs` by `cargo run -p outpour-model --example models_page > docs/models.md`.

Every family reads safetensors in BF16, F16 and F32, in MLX's quantisations where an export has the release's names, and in the
formats of [formats.md](formats.md). *Tested* says which of them a fixture was made of. A fixture is a tiny model with random weights in the layout of the release,
and what `transformers` (of MLX's exports `mlx-lm`) computes from it: `tests/fixtures.rs` compares the logits of a whole
forward pass, of a prompt in chunks and of single steps, the experts chosen and the greedy tokens, with the plain and the fast
operations; of most of them `tests/identity.rs` asserts the same bits over memory sizes, readers, threads and chunks. No test runs released weights.
What `transformers` computes was compared with a second implementation, of `mlx-lm`, of an older `transformers` or of the publisher,
but for families marked ¹: these lean on `transformers` alone.

GGUF files are read of the families that *tested* says so of: all that llama.cpp has an architecture for. For LongCat-Flash, Ling 2.5 and Mistral Large 4 it has
none, so there are no such files.

Last are the file of `crates/model/src/families` that implements it, and its lines; families that differ in a few keys share one.

| `model_type` | released models | attention | tested | fixtures | lines |
|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Wrappers for images are known by the language model that they hold.
    #[test]
    fn a_wrapper_that_nobody_knows_is_what_it_holds() {
        let of =
            |config: Value| family(&Config(&config)).map(|family| family.model_type).map_err(|error| error.to_string());
        let inner = json!({ "model_type": "deepseek_v3", "num_hidden_layers": 2 });
        assert_eq!(of(json!({ "model_type": "some_vl", "text_config": inner })), Ok("deepseek_v3"));
        for text in [json!({ "model_type": "nobody" }), json!({}), json!(7), Value::Null] {
            let refused = of(json!({ "model_type": "some_vl", "text_config": text })).expect_err("no family");
            assert!(refused.contains("\"some_vl\" is not supported") && refused.contains("deepseek_v3"), "{refused}");
        }
    }
}
