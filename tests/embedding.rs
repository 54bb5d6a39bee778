//! An embedding that memory has no room for is read by row, as tables of n-grams always are, and no bit changes.

mod common;

use std::ops::ControlFlow;

use common::{engine, fixture, logits, minimum_ram, roomy};
use outpour_engine::{Inspection, Options};
use outpour_model::synth::{Format, Routing, Synth};
use outpour_store::read::ReaderKind;
use serde_json::json;

/// An embedding as large as the experts, of which a row is read for each token, in chunks of many more tokens than there are
/// places for rows.
#[test]
fn an_embedding_is_read_by_row_where_memory_is_short() {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64,
        "num_experts": 64, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 30_000,
        "max_position_embeddings": 1024,
    });
    for format in [Format::Bf16, Format::Mlx { bits: 4 }, Format::Mlx { bits: 8 }] {
        let dir = tempfile::tempdir().expect("a folder");
        let synth = Synth::new(&config, format, Vec::new(), Routing::default(), 7).expect("a model");
        synth.write(dir.path(), &mut |_, _| ControlFlow::Continue(())).map(|_| ()).expect("it is written");
        let base = Options { prefill_chunk: Some(512), ctx: Some(768), ..roomy() };
        let minimum = minimum_ram(dir.path(), &base);
        let tokens: Vec<u32> = (0..600).map(|i| (i * i * 31 + 7 * (i % 97) + 3) % 30_000).collect();
        let mut expected = None;
        for (ram, reader, by_row) in [
            (base.ram, ReaderKind::Auto, false),
            (minimum, ReaderKind::Auto, true),
            (minimum + (1 << 20), ReaderKind::Pread, true),
        ] {
            let options = Options { ram, ..base };
            let mut engine = engine(dir.path(), &options, reader);
            assert_eq!(engine.plan().trunk.rows > 0, by_row, "{:?}", engine.plan());
            let computed = [1, 560, 600].map(|step_from| {
                let all = logits(&mut engine, &tokens[..step_from.max(30)], step_from).logits;
                all[all.len() - 30_000..].iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
            });
            assert!(*expected.get_or_insert(computed.clone()) == computed, "other logits with {ram} bytes");
        }
    }
}

/// Tables of n-grams, larger than all other weights together, of which no memory has more than a window; and the same bits with all
/// the memory there is and with the least.
#[test]
fn tables_of_n_grams_are_always_read_by_row() {
    let config = std::fs::read(fixture("qwen4_exp").join("config.json")).expect("a fixture has a config");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("JSON");
    let text = &mut config["text_config"];
    (text["ngram_vocab_size_base"], text["ple_embed_dim"]) = (json!(50_000), json!(256));
    for format in [Format::Bf16, Format::Mlx { bits: 4 }] {
        let dir = tempfile::tempdir().expect("a folder");
        let synth = Synth::new(&config, format, Vec::new(), Routing::default(), 7).expect("a model");
        synth.write(dir.path(), &mut |_, _| ControlFlow::Continue(())).map(|_| ()).expect("it is written");
        let base = Options { prefill_chunk: Some(64), ctx: Some(512), ..roomy() };
        let inspection = Inspection::open(dir.path(), false).unwrap_or_else(|error| panic!("{error}"));
        let plan = inspection.plan(&base).unwrap_or_else(|error| panic!("{error}"));
        assert!(inspection.table_bytes > 8 * plan.trunk.resident as u64, "{} bytes of tables", inspection.table_bytes);
        assert!(plan.trunk.tables > 0 && plan.trunk.tables < 4 << 20, "{:?}", plan.trunk);
        let tokens: Vec<u32> = (0..200).map(|i| (i * i * 31 + 7 * (i % 97) + 3) % 56).collect();
        let mut expected = None;
        for (ram, reader) in [
            (base.ram, ReaderKind::Auto),
            (minimum_ram(dir.path(), &base), ReaderKind::Auto),
            (minimum_ram(dir.path(), &base), ReaderKind::Pread),
        ] {
            let mut engine = engine(dir.path(), &Options { ram, ..base }, reader);
            let computed = logits(&mut engine, &tokens, 150).logits;
            let bits: Vec<u32> = computed.iter().map(|logit| logit.to_bits()).collect();
            assert!(*expected.get_or_insert(bits.clone()) == bits, "other logits with {ram} bytes");
        }
    }
}
