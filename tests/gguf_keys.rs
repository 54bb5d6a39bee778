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
fn saying(name: &str, dir: &Path, more: &[(&str, &Said)]) -> PathBuf {
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

impl Said {
    /// The value as an error has it: of a list, the first that is not nothing.
    fn shown(&self) -> String {
        match self {
            Said::U32(number) => number.to_string(),
            Said::F32(number) => number.to_string(),
            Said::Switch(on) => on.to_string(),
            Said::Text(said) => format!("{said:?}"),
            Said::Switches(_) => "of other layers".into(),
            Said::Floats(all) => all.iter().find(|number| **number != 0.0).map_or("0".into(), f32::to_string),
        }
    }
}

/// A fixture, what its keys begin with, and keys with a value and with what the architecture needs in its place.
type Refused = (&'static str, &'static str, &'static [(&'static str, Said, &'static str)]);

const REFUSED: &[Refused] = {
    use Said::{F32, Floats, Switch, Switches, Text, U32};
    &[
        (
            "qwen3moe_gguf",
            "qwen3moe",
            &[
                ("expert_weights_scale", F32(2.5), "1"),
                ("expert_gating_func", U32(2), "1"),
                ("expert_group_count", U32(4), "1"),
                ("expert_shared_count", U32(1), "0"),
                ("attention.scale", F32(0.5), "0.17"),
                ("attention.sliding_window", U32(512), "0"),
                ("attention.causal", Switch(false), "true"),
                ("attention.clamp_kqv", F32(8.0), "0"),
                ("attention.max_alibi_bias", F32(8.0), "0"),
                ("attention.temperature_scale", F32(0.1), "0"),
                ("attention.layer_norm_epsilon", F32(1e-5), "0.000001"),
                ("logit_scale", F32(0.25), "1"),
                ("residual_scale", F32(0.22), "1"),
                ("embedding_scale", F32(12.0), "1"),
                ("final_logit_softcapping", F32(30.0), "0"),
                ("attn_logit_softcapping", F32(50.0), "0"),
                ("router_logit_softcapping", F32(30.0), "0"),
                ("swiglu_clamp_exp", Floats(&[0.0, 7.0, 0.0]), "0"),
                ("use_parallel_residual", Switch(true), "false"),
                ("rope.dimension_count", U32(16), "32"),
                ("rope.scaling.factor", F32(4.0), "1"),
                ("rope.scaling.alpha", F32(1000.0), "1"),
            ],
        ),
        (
            "qwen3_gguf",
            "qwen3",
            &[("rope.scaling.yarn_ext_factor", F32(0.0), "1"), ("rope.scaling.yarn_log_multiplier", F32(0.1), "0")],
        ),
        (
            "gemma3_gguf",
            "gemma3",
            &[
                ("rope.scaling.attn_factor", F32(1.2), "1"),
                ("attention.sliding_window_pattern", Switches(&[false; 8]), "one of 6"),
            ],
        ),
        (
            "gemma4_gguf",
            "gemma4",
            &[("rope.scaling.type", Text("yarn"), "\"none\""), ("attention.scale", F32(0.25), "1")],
        ),
        ("llama_gguf", "llama", &[("rope.scaling.type", Text("yarn"), "\"none\"")]),
        ("mixtral_gguf", "llama", &[("expert_weights_norm", Switch(false), "true")]),
        ("jamba_gguf", "jamba", &[("expert_weights_norm", Switch(true), "false")]),
        (
            "gpt_oss_mxfp4_gguf",
            "gpt-oss",
            &[("expert_gating_func", U32(2), "1"), ("rope.freq_base_swa", F32(10_000.0), "150000")],
        ),
        ("glm4_moe_lite_gguf", "deepseek2", &[("expert_gating_func", U32(1), "2")]),
        ("llama4_gguf", "llama4", &[("attention.temperature_length", U32(4096), "8192")]),
        ("qwen3next_gguf", "qwen3next", &[("attention.recurrent_layers", Switches(&[true; 4]), "one of 4")]),
        ("deepseek_v4_gguf", "deepseek4", &[("rope.scaling.alpha", F32(8.0), "1")]),
        ("granite_gguf", "granite", &[("expert_weights_norm", Switch(false), "true")]),
        ("hy_v4_gguf", "hy_v4", &[("swiglu_clamp_shexp", Floats(&[1.0; 3]), "0")]),
        ("ling3_gguf", "bailingmoe3", &[("swiglu_clamp_exp", Floats(&[0.0, 7.0, 0.0]), "0")]),
        ("glm5_next_gguf", "glm5-next", &[("rope.scaling.alpha", F32(8.0), "1")]),
        (
            "minimax_gguf",
            "minimax-01",
            &[("expert_gating_func", U32(2), "1"), ("expert_weights_norm", Switch(false), "true")],
        ),
        ("qwen4_exp_gguf", "qwen4exp", &[("expert_group_count", U32(4), "1")]),
    ]
};

#[test]
fn what_would_change_the_result_is_refused_by_key_and_value() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, architecture, keys) in REFUSED {
        for (key, said, needed) in *keys {
            let key = format!("{architecture}.{key}");
            let path = saying(name, dir.path(), &[(&key, said)]);
            let problem = Inspection::open(&path, false).map(|_| ()).expect_err(&key).to_string();
            for says in [&format!("model.gguf: has {key} {}", said.shown()), "is computed with ", needed] {
                assert!(problem.contains(says) && !problem.contains('\n'), "{problem}\ndoes not say {says:?}");
            }
        }
    }
}

/// What the family takes may be said, and what has no known meaning is passed over.
#[test]
fn what_changes_nothing_is_passed_over() {
    let dir = tempfile::tempdir().expect("a folder");
    use Said::{F32, Switch, Text, U32};
    let compute = |path: &Path| logits(&mut engine(path, &roomy(), ReaderKind::Auto), &[1, 2, 3, 4, 5], 2).logits;
    let all = [
        ("expert_weights_scale", F32(1.0)),
        ("expert_weights_norm", Switch(true)),
        ("expert_gating_func", U32(1)),
        ("expert_group_count", U32(1)),
        ("attention.scale", F32(32f32.sqrt().recip())),
        ("attention.sliding_window", U32(4096)),
        ("attention.causal", Switch(true)),
        ("final_logit_softcapping", F32(0.0)),
        ("rope.dimension_count", U32(32)),
        ("rope.scaling.type", Text("none")),
        ("rope.scaling.finetuned", Switch(true)),
        ("some_key_of_later", F32(3.0)),
        ("pooling_type", U32(0)),
    ];
    let named: Vec<(String, &Said)> = all.iter().map(|(key, said)| (format!("qwen3moe.{key}"), said)).collect();
    let named: Vec<(&str, &Said)> = named.iter().map(|(key, said)| (key.as_str(), *said)).collect();
    let path = saying("qwen3moe_gguf", dir.path(), &named);
    assert!(compute(&path) == compute(&fixture("qwen3moe_gguf")), "other logits");
}
