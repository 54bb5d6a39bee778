//! Keys of GGUF files that a family does not read: what they would change is refused, what they may say is passed over.

mod common;

use std::path::{Path, PathBuf};

use common::{engine, fixture, logits, roomy};
use outpour_engine::Inspection;
use outpour_store::read::ReaderKind;

/// A value as a file has it.
enum Said {
    F32(f32),
    U32(u32),
    Switch(bool),
    Text(&'static str),
    Switches(&'static [bool]),
    Floats(&'static [f32]),
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn entry(key: &str, said: &Said) -> Vec<u8> {
    let list = |kind: u32, len: usize, values: Vec<u8>| {
        [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &(len as u64).to_le_bytes(), &values].concat()
    };
    let value = match said {
        Said::U32(number) => [4u32.to_le_bytes(), number.to_le_bytes()].concat(),
        Said::F32(number) => [6u32.to_le_bytes(), number.to_le_bytes()].concat(),
        Said::Switch(on) => [&7u32.to_le_bytes()[..], &[u8::from(*on)]].concat(),
        Said::Text(said) => [&8u32.to_le_bytes()[..], &text(said.as_bytes())].concat(),
        Said::Switches(all) => list(7, all.len(), all.iter().map(|on| u8::from(*on)).collect()),
        Said::Floats(all) => list(6, all.len(), all.iter().flat_map(|number| number.to_le_bytes()).collect()),
    };
    [text(key.as_bytes()), value].concat()
}

/// A copy of a fixture that says more, and as much of nothing as keeps its data aligned.
fn saying(name: &str, dir: &Path, more: &[(&str, Said)]) -> PathBuf {
    let bytes = std::fs::read(fixture(name).join("model.gguf")).expect("a fixture");
    let mut added: Vec<u8> = more.iter().flat_map(|(key, said)| entry(key, said)).collect();
    let empty = entry("pad", &Said::Text("")).len();
    let pad = [&text(b"pad")[..], &8u32.to_le_bytes(), &text(&vec![b'x'; 64 - (added.len() + empty) % 32])].concat();
    added.extend(pad);
    let entries = u64::from_le_bytes(*bytes[16..].first_chunk().expect("a header")) + 1 + more.len() as u64;
    let path = dir.join("model.gguf");
    std::fs::write(&path, [&bytes[..16], &entries.to_le_bytes(), &added, &bytes[24..]].concat()).expect("written");
    path
}

#[test]
fn what_would_change_the_result_is_refused_by_key_and_value() {
    let dir = tempfile::tempdir().expect("a folder");
    use Said::{F32, Floats, Switch, Switches, Text, U32};
    for (name, key, said, value, needed) in [
        ("qwen3moe_gguf", "qwen3moe.expert_weights_scale", F32(2.5), "2.5", "1"),
        ("qwen3moe_gguf", "qwen3moe.expert_gating_func", U32(2), "2", "1"),
        ("qwen3moe_gguf", "qwen3moe.expert_group_count", U32(4), "4", "1"),
        ("qwen3moe_gguf", "qwen3moe.expert_shared_count", U32(1), "1", "0"),
        ("qwen3moe_gguf", "qwen3moe.attention.scale", F32(0.5), "0.5", "0.17"),
        ("qwen3moe_gguf", "qwen3moe.attention.sliding_window", U32(512), "512", "0"),
        ("qwen3moe_gguf", "qwen3moe.attention.causal", Switch(false), "false", "true"),
        ("qwen3moe_gguf", "qwen3moe.attention.clamp_kqv", F32(8.0), "8", "0"),
        ("qwen3moe_gguf", "qwen3moe.attention.max_alibi_bias", F32(8.0), "8", "0"),
        ("qwen3moe_gguf", "qwen3moe.attention.temperature_scale", F32(0.1), "0.1", "0"),
        ("qwen3moe_gguf", "qwen3moe.attention.layer_norm_epsilon", F32(1e-5), "0.00001", "0.000001"),
        ("qwen3moe_gguf", "qwen3moe.logit_scale", F32(0.25), "0.25", "1"),
        ("qwen3moe_gguf", "qwen3moe.residual_scale", F32(0.22), "0.2", "1"),
        ("qwen3moe_gguf", "qwen3moe.embedding_scale", F32(12.0), "12", "1"),
        ("qwen3moe_gguf", "qwen3moe.final_logit_softcapping", F32(30.0), "30", "0"),
        ("qwen3moe_gguf", "qwen3moe.attn_logit_softcapping", F32(50.0), "50", "0"),
        ("qwen3moe_gguf", "qwen3moe.router_logit_softcapping", F32(30.0), "30", "0"),
        ("qwen3moe_gguf", "qwen3moe.swiglu_clamp_exp", Floats(&[0.0, 7.0, 0.0]), "7", "0"),
        ("qwen3moe_gguf", "qwen3moe.use_parallel_residual", Switch(true), "true", "false"),
        ("qwen3moe_gguf", "qwen3moe.rope.dimension_count", U32(16), "16", "32"),
        ("qwen3moe_gguf", "qwen3moe.rope.scaling.factor", F32(4.0), "4", "1"),
        ("qwen3moe_gguf", "qwen3moe.rope.scaling.alpha", F32(1000.0), "1000", "1"),
        ("qwen3_gguf", "qwen3.rope.scaling.yarn_ext_factor", F32(0.0), "0", "1"),
        ("qwen3_gguf", "qwen3.rope.scaling.yarn_log_multiplier", F32(0.1), "0.1", "0"),
        ("gemma3_gguf", "gemma3.rope.scaling.attn_factor", F32(1.2), "1.2", "1"),
        ("gemma3_gguf", "gemma3.attention.sliding_window_pattern", U32(2), "of other layers", "one of 6"),
        ("gemma4_gguf", "gemma4.rope.scaling.type", Text("yarn"), "\"yarn\"", "\"none\""),
        ("llama_gguf", "llama.rope.scaling.type", Text("yarn"), "\"yarn\"", "\"none\""),
        ("gemma4_gguf", "gemma4.attention.scale", F32(0.25), "0.25", "1"),
        ("mixtral_gguf", "llama.expert_weights_norm", Switch(false), "false", "true"),
        ("jamba_gguf", "jamba.expert_weights_norm", Switch(true), "true", "false"),
        ("gpt_oss_mxfp4_gguf", "gpt-oss.expert_gating_func", U32(2), "2", "1"),
        ("gpt_oss_mxfp4_gguf", "gpt-oss.rope.freq_base_swa", F32(10_000.0), "10000", "150000"),
        ("glm4_moe_lite_gguf", "deepseek2.expert_gating_func", U32(1), "1", "2"),
        ("llama4_gguf", "llama4.attention.temperature_length", U32(4096), "4096", "8192"),
        ("qwen3next_gguf", "qwen3next.attention.recurrent_layers", Switches(&[true; 4]), "of other layers", "one of 4"),
        ("deepseek_v4_gguf", "deepseek4.rope.scaling.alpha", F32(8.0), "8", "1"),
        ("granite_gguf", "granite.expert_weights_norm", Switch(false), "false", "true"),
    ] {
        let path = saying(name, dir.path(), &[(key, said)]);
        let problem = Inspection::open(&path, false).map(|_| ()).expect_err(key).to_string();
        let says = [format!("model.gguf: has {key} {value}"), "is computed with ".to_owned(), needed.to_owned()];
        for says in says {
            assert!(problem.contains(&says) && !problem.contains('\n'), "{problem}\ndoes not say {says:?}");
        }
    }
}

/// What the family takes may be said, and what has no known meaning is passed over.
#[test]
fn what_changes_nothing_is_passed_over() {
    let dir = tempfile::tempdir().expect("a folder");
    use Said::{F32, Switch, Text, U32};
    let compute = |path: &Path| logits(&mut engine(path, &roomy(), ReaderKind::Auto), &[1, 2, 3, 4, 5], 2).logits;
    let path = saying(
        "qwen3moe_gguf",
        dir.path(),
        &[
            ("qwen3moe.expert_weights_scale", F32(1.0)),
            ("qwen3moe.expert_weights_norm", Switch(true)),
            ("qwen3moe.expert_gating_func", U32(1)),
            ("qwen3moe.expert_group_count", U32(1)),
            ("qwen3moe.attention.scale", F32(32f32.sqrt().recip())),
            ("qwen3moe.attention.sliding_window", U32(4096)),
            ("qwen3moe.attention.causal", Switch(true)),
            ("qwen3moe.final_logit_softcapping", F32(0.0)),
            ("qwen3moe.rope.dimension_count", U32(32)),
            ("qwen3moe.rope.scaling.type", Text("none")),
            ("qwen3moe.rope.scaling.finetuned", Switch(true)),
            ("qwen3moe.some_key_of_later", F32(3.0)),
            ("qwen3moe.pooling_type", U32(0)),
        ],
    );
    assert!(compute(&path) == compute(&fixture("qwen3moe_gguf")), "other logits");
}
