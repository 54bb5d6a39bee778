//! The published shapes in `configs/`: each builds, and has the parameters that its maker says.

use std::path::Path;

use outpour_kernels::DType;
use outpour_model::config::Config;
use outpour_model::registry;
use outpour_model::synth;
use outpour_model::weights::{DeclaredKind, Weights};
use serde_json::Value;

/// Name, parameters in billions as published, bytes of an expert at MLX's 4 bits, experts.
const PUBLISHED: [(&str, f64, usize, usize); 56] = [
    ("Qwen3-30B-A3B", 30.5, 2_654_208, 6_144),
    ("Qwen3-235B-A22B", 235.0, 10_616_832, 12_032),
    // Its maker's 80 with the heads for multi-token prediction, which are not read.
    ("Qwen3-Next-80B-A3B", 79.7, 1_769_472, 24_576),
    ("Qwen3.5-35B-A3B", 34.7, 1_769_472, 10_240),
    ("Qwen3.5-122B-A10B", 122.0, 5_308_416, 12_288),
    ("Qwen3.5-397B-A17B", 397.0, 7_077_888, 30_720),
    ("Mixtral-8x7B", 46.7, 99_090_432, 256),
    ("Llama-3.1-8B", 8.03, 0, 0),
    ("Qwen3-8B", 8.19, 0, 0),
    ("GLM-4.5-Air", 106.0, 9_732_096, 5_760),
    ("GLM-4.5", 355.0, 13_271_040, 14_240),
    ("MiniMax-M2", 230.0, 7_962_624, 15_872),
    ("gpt-oss-20b", 20.9, 13_996_800, 768),
    ("gpt-oss-120b", 116.8, 13_996_800, 4_608),
    ("DeepSeek-V2-Lite", 15.7, 4_866_048, 1_664),
    ("DeepSeek-V3", 671.0, 24_772_608, 14_848),
    // Its maker's 685 with the head for multi-token prediction, and 744 of GLM-5 without.
    ("DeepSeek-V3.2", 672.0, 24_772_608, 14_848),
    ("GLM-5", 744.0, 21_233_664, 19_200),
    ("GLM-5.2", 743.0, 21_233_664, 19_200),
    ("DeepSeek-V4-Flash", 284.0, 14_155_776, 11_008),
    // Hidden size and width of experts as SGLang's tests have them; the rest is inferred from the sum.
    ("Ling-2.5-1T", 1012.0, 28_311_552, 19_456),
    // 675 of its maker less the 2.5 of its vision encoder.
    ("Mistral-Large-3", 673.0, 49_545_216, 7_424),
    ("Moonlight-16B-A3B", 16.0, 4_866_048, 1_664),
    ("Kimi-K2", 1026.0, 24_772_608, 23_040),
    // K2's language model within a wrapper, for contexts twice as long; less the 0.4 of its vision encoder.
    ("Kimi-K2.5", 1026.0, 24_772_608, 23_040),
    ("Mistral-Small-4", 119.0, 14_155_776, 4_608),
    ("Kimi-Linear-48B-A3B", 49.1, 3_981_312, 6_656),
    ("MiniMax-Text-01", 456.0, 95_551_488, 2_560),
    ("Nemotron-3-Nano-30B-A3B", 31.6, 5_612_544, 2_944),
    ("Nemotron-3-Super-120B-A12B", 120.6, 3_096_576, 20_480),
    ("Gemma-3-27B", 27.0, 0, 0),
    ("Gemma-4-26B-A4B", 25.2, 3_345_408, 3_840),
    ("Qwen1.5-MoE-A2.7B", 14.3, 4_866_048, 1_440),
    ("OLMoE-1B-7B", 6.92, 3_538_944, 1_024),
    ("dots.llm1", 142.7, 9_732_096, 7_808),
    ("Solar-Open-100B", 102.6, 8_847_360, 6_144),
    ("Hy3-preview", 295.0, 10_616_832, 15_168),
    ("ERNIE-4.5-21B-A3B", 21.8, 6_635_520, 1_728),
    ("Hunyuan-A13B", 80.4, 21_233_664, 2_048),
    ("GLM-4.7-Flash", 30.0, 5_308_416, 2_944),
    ("Granite-4.0-H-Small", 32.2, 5_308_416, 2_880),
    ("Granite-4.0-H-Tiny", 6.94, 1_327_104, 2_560),
    ("LFM2-8B-A1B", 8.34, 6_193_152, 704),
    ("Jamba-1.5-Mini", 51.6, 99_090_432, 256),
    ("LongCat-Flash", 560.0, 21_233_664, 14_336),
    // Sums of the shapes that transformers gives as theirs: what their makers say of all parameters was not to be found.
    ("Ling-3.0-Flash", 124.0, 3_317_760, 20_480),
    ("Hy4-preview", 58.0, 3_649_536, 8_448),
    ("GLM-5.3-Flash", 312.0, 14_155_776, 12_096),
    ("MiniMax-M3", 427.0, 31_850_496, 7_296),
    // Its name says 1T; whether layers share what they keep is not known here.
    ("Mistral-Large-4", 1047.0, 63_700_992, 9_088),
    // Without the factors of its longrope, which were not to be found.
    ("Phi-3.5-MoE", 41.9, 44_236_800, 512),
    ("MiMo-V2-Flash", 309.0, 14_155_776, 12_032),
    // 109 of its maker less its vision encoder.
    ("Llama-4-Scout", 108.0, 70_778_880, 768),
    ("Llama-4-Maverick", 400.0, 70_778_880, 3_072),
    ("K-EXAONE-236B-A23B", 236.0, 21_233_664, 6_016),
    // Layers as llama.cpp counts them, widths from the 95 GiB that transformers gives its table of n-grams, of whose 51.2
    // parameters each token needs 16 rows of 160; the indexer's sizes were not to be found.
    ("Qwen4-Exp", 152.0, 2_211_840, 24_576),
];

fn published(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../configs/{name}.json"));
    serde_json::from_slice(&std::fs::read(path).expect(name)).expect(name)
}

#[test]
fn a_cut_model_has_the_pattern_of_its_first_layers() {
    let pattern = |config: &Value, name| {
        let family = registry::family(&Config(config)).expect(name);
        family.model(&Config(config), &mut Weights::declare(), DType::F16).expect(name).facts().pattern.clone()
    };
    for (name, ..) in PUBLISHED {
        let whole = pattern(&published(name), name);
        for layers in [1, 3, 7, whole.len() - 1] {
            let mut config = published(name);
            synth::cut(&mut config, layers).expect(name);
            assert_eq!(pattern(&config, name), whole[..layers], "{name}");
        }
    }
}

#[test]
fn every_config_builds_with_the_parameters_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let files = std::fs::read_dir(&folder).expect("configs").count();
    assert_eq!(files, PUBLISHED.len(), "every config is in the table");
    for (name, billions, expert_bytes, experts) in PUBLISHED {
        let config = published(name);
        let config = Config(&config);
        let mut weights = Weights::declare();
        registry::family(&config).expect(name).model(&config, &mut weights, DType::F16).expect(name);
        let elements = |shape: &[usize]| shape.iter().product::<usize>();
        let declared = weights.declared();
        let total = declared.iter().map(|tensor| elements(&tensor.shape)).sum::<usize>() as f64 / 1e9;
        println!("{name}: {total:.2} billion");
        let of_experts: Vec<_> = declared.iter().filter(|tensor| tensor.kind == DeclaredKind::Experts).collect();
        assert_eq!(of_experts.iter().map(|tensor| tensor.shape[0]).sum::<usize>(), experts, "{name}");
        // 4 bits, and a scale and a bias of 2 bytes for 64 weights.
        let bytes = of_experts.first().map_or(0, |tensor| elements(&tensor.shape[1..]) * 9 / 16);
        assert_eq!(bytes, expert_bytes, "{name}");
        assert!((total / billions - 1.0).abs() < 0.01, "{name}: {total} billion");
        if config.has("text_config") {
            continue;
        }
        let wrapped = serde_json::json!({"model_type": "some_vl", "text_config": config.text().0});
        let mut within = Weights::declare();
        let family = registry::family(&Config(&wrapped)).expect(name);
        family.model(&Config(&wrapped), &mut within, DType::F16).expect(name);
        assert_eq!(within.declared().len(), declared.len(), "{name} within a wrapper that nobody knows");
    }
    assert_eq!(7_077_888u64 * 30_720 / 100_000_000, 2174, "the 397B's experts take 217.4 GB");
}

#[test]
fn the_page_of_models_is_up_to_date_and_every_family_has_its_fixtures() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/models.md")).expect("docs/models.md");
    let families = root.join("crates/model/src/families");
    let lines = |file: &str| std::fs::read_to_string(families.join(file)).expect(file).lines().count();
    assert!(page == registry::page(lines), "cargo run -p outpour-model --example models_page > docs/models.md");
    for fixture in registry::FAMILIES.iter().flat_map(|family| family.fixtures) {
        // What was converted has the arrays of the fixture that it was made of.
        let folder = root.join("tests/fixtures").join(fixture);
        assert!(["logits_full.npy", "model.gguf"].iter().any(|file| folder.join(file).is_file()), "{fixture}");
    }
}
