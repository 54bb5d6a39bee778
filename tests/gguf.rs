//! GGUF files: tokenizers and templates as those of the folder that they were made from, and what is refused.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{engine, fixture, logits, roomy};
use outpour_engine::{Backend, Inspection, Options};
use outpour_store::read::ReaderKind;
use outpour_text::Tokenizer;
use serde_json::Value;

fn outpour(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outpour")).args(args).output().expect("outpour runs")
}

fn shown(args: &[&str]) -> Value {
    let output = outpour(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// Asserts that `tokenize` gives the ids of `cases`. One call for many texts: `between`, a token that no text has, stands between
/// them.
fn assert_tokenises(vocab: &Path, cases: &Value, between: (&str, u64)) {
    let texts: Vec<&Value> = cases.as_array().expect("cases").iter().collect();
    let mut compared = 0;
    for some in texts.chunks(100) {
        let usable = |case: &&&Value| {
            case["text"].as_str().is_some_and(|text| !text.contains(['\0']) && !text.contains(between.0))
        };
        let some: Vec<&&Value> = some.iter().filter(usable).collect();
        let joined: String =
            some.iter().map(|case| format!("{}{}", case["text"].as_str().unwrap_or(""), between.0)).collect();
        let ids = some.iter().flat_map(|case| {
            let ids = case["ids"].as_array().expect("ids").iter().filter_map(Value::as_u64);
            ids.chain([between.1]).collect::<Vec<_>>()
        });
        let ids: Vec<u64> = ids.collect();
        let got = shown(&["tokenize", path(vocab), "--json", &joined]);
        let got: Vec<u64> = got["ids"].as_array().expect("ids").iter().filter_map(Value::as_u64).collect();
        assert!(got == ids, "other ids for {joined:?}: {got:?} instead of {ids:?}");
        compared += some.len();
    }
    assert!(compared > 50, "only {compared} texts were compared");
}

fn cases_of(folder: &str, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(folder).join(file)).expect("cases")).expect("JSON")
}

/// The ids of every text of the fixture that is short enough for a command line, which Hugging Face's tokenizer gave.
#[test]
fn vocabularies_tokenise_as_hugging_face() {
    let between = "<|endoftext|>";
    let folder = Tokenizer::load(&fixture("text")).expect("a tokenizer");
    let id = folder.token_id(between).expect("a token");
    let cases = &cases_of("text", "cases_text.json")["encode"];
    assert_tokenises(&fixture("gguf_text"), cases, (between, u64::from(id)));
}

/// Without merges each letter would be a token.
#[test]
fn a_vocabulary_without_its_merges_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let vocabulary = fixture("gguf_text").join("vocab.gguf");
    let file = patched_file(&vocabulary, dir.path(), b"tokenizer.ggml.merges", b"tokenizer.ggml.mergez");
    let output = outpour(&["tokenize", path(&file), "hello"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && problem.contains("has no tokenizer.ggml.merges"), "{output:?}");
}

/// WordPiece belongs to models that write no text.
#[test]
fn a_vocabulary_of_another_kind_is_refused_by_its_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let kind =
        |name: &[u8]| [b"tokenizer.ggml.model".as_slice(), &8u32.to_le_bytes(), &4u64.to_le_bytes(), name].concat();
    let file = patched_file(&fixture("gguf_text").join("vocab.gguf"), dir.path(), &kind(b"gpt2"), &kind(b"bert"));
    let output = outpour(&["tokenize", path(&file), "hello"]);
    let problem = String::from_utf8_lossy(&output.stderr);
    let says = ["\"bert\"", "WordPiece", "gpt2, llama, gemma4"];
    assert!(output.status.code() == Some(2) && says.iter().all(|says| problem.contains(says)), "{output:?}");
}

/// Version 3 lets files be big-endian, and is version 2 otherwise (ggml `docs/gguf.md`).
#[test]
fn version_2_is_read_as_version_3() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = patched(
        dir.path(),
        &[b"GGUF".as_slice(), &3u32.to_le_bytes()].concat(),
        &[b"GGUF".as_slice(), &2u32.to_le_bytes()].concat(),
    );
    let compute = |path: &Path| logits(&mut engine(path, &roomy(), ReaderKind::Auto), &[1, 2, 3, 4, 5], 2).logits;
    assert!(compute(&file) == compute(&fixture("qwen3moe_gguf")), "other logits");
}

/// Repositories of GGUF files hold the config of the original too, projectors of images and importance matrices.
#[test]
fn a_folder_may_hold_more_than_the_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).expect("a file");
    let compute = |path: &Path| logits(&mut engine(path, &roomy(), ReaderKind::Auto), &[1, 2, 3, 4, 5], 2).logits;
    std::fs::copy(fixture("olmoe_gguf").join("model.gguf"), dir.path().join("a.gguf")).expect("a model");
    write("config.json", b"{\"model_type\": \"olmoe\"}");
    for other in ["MMProj-F16.gguf", "imatrix_unsloth.gguf", "A-Imatrix.gguf"] {
        write(other, b"GGUF");
    }
    assert!(compute(dir.path()) == compute(&fixture("olmoe_gguf")), "other logits");
}

/// What llama.cpp's own `llama-gguf-split --split --no-tensor-first-split --split-max-tensors 16` made of another fixture: a first part
/// that holds no tensor.
#[test]
fn files_that_llama_cpp_split_are_the_whole_one() {
    let compute = |path: &Path| logits(&mut engine(path, &roomy(), ReaderKind::Auto), &[1, 2, 3, 4, 5], 2).logits;
    let parts = fixture("olmoe_gguf_split");
    assert_eq!(shown(&["inspect", path(&parts), "--json"])["files"], 3);
    let whole = compute(&fixture("olmoe_gguf"));
    assert!(compute(&parts) == whole, "other logits from the folder");
    assert!(compute(&parts.join("olmoe-00001-of-00003.gguf")) == whole, "other logits from the first part's name");
    // Without a part, under the name that the others speak of.
    let dir = tempfile::tempdir().expect("a folder");
    for part in ["olmoe-00001-of-00003.gguf", "olmoe-00003-of-00003.gguf"] {
        std::fs::copy(parts.join(part), dir.path().join(part)).expect("a part");
    }
    let problem = Inspection::open(dir.path(), false).map(|_| ()).expect_err("refused").to_string();
    assert!(problem.contains("olmoe-00002-of-00003.gguf"), "{problem}");
}

/// Tokens with scores, as files of Llama's first models have them.
#[test]
fn vocabularies_of_sentencepiece_tokenise_as_hugging_face() {
    let cases = &cases_of("text_pieces", "cases.json")["tokenizers"]["prepend"];
    assert_tokenises(&fixture("text_pieces").join("vocab.gguf"), cases, ("</s>", 2));
}

/// Tokens written so that have merges, as Gemma 4's files do.
#[test]
fn vocabularies_of_pieces_with_merges_tokenise_as_hugging_face() {
    let cases = &cases_of("text_pieces", "cases.json")["tokenizers"]["gemma"];
    assert_tokenises(&fixture("text_pieces").join("gemma4.gguf"), cases, ("</s>", 2));
}

#[test]
fn inspect_shows_what_a_file_is() {
    let report = shown(&["inspect", path(&fixture("qwen35moe_gguf")), "--json"]);
    assert_eq!(report["family"], "qwen3_5_moe");
    assert_eq!(report["files"], 3);
    assert_eq!(report["reads_per_expert"], 3);
    assert!(report["dtypes"]["Q4_K"].as_u64().is_some_and(|bytes| bytes > 0), "{}", report["dtypes"]);
    assert_eq!(report["gguf"]["general.architecture"], "qwen35moe");
}

/// Latent attention whose matrix of keys and values is quantised, in two and in one as in older files, computes what the values of its
/// blocks do, which gguf-py gave.
#[test]
fn quantised_latent_attention_is_its_values() {
    let ids: Vec<u32> = (0..60).map(|i| 3 + (i * i * 7 + i) % 29).collect();
    for name in ["split", "whole"] {
        for (backend, step_from) in [(Backend::Cpu, 40), (Backend::Cpu, 1), (Backend::Reference, 40)] {
            let [blocks, values] = [format!("{name}.gguf"), format!("{name}_f32.gguf")].map(|file| {
                let options = Options { precise: true, backend, ..roomy() };
                let mut engine = engine(&fixture("deepseek_v3_q8_0").join(file), &options, ReaderKind::Auto);
                logits(&mut engine, &ids, step_from).logits
            });
            let largest = values.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
            let off = blocks.iter().zip(&values).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
            assert!(largest > 1.0 && off <= 1e-4 * largest, "{name}, {backend:?}, {step_from}: {off} off of {largest}");
        }
    }
}

/// A copy of a fixture with some bytes of its header replaced.
fn patched(dir: &Path, from: &[u8], to: &[u8]) -> PathBuf {
    patched_of("qwen3moe_gguf", dir, from, to)
}

fn patched_of(name: &str, dir: &Path, from: &[u8], to: &[u8]) -> PathBuf {
    patched_file(&fixture(name).join("model.gguf"), dir, from, to)
}

fn patched_file(file: &Path, dir: &Path, from: &[u8], to: &[u8]) -> PathBuf {
    let mut bytes = std::fs::read(file).expect("a fixture");
    let at = bytes.windows(from.len()).position(|window| window == from).expect("what is replaced");
    bytes[at..at + from.len()].copy_from_slice(to);
    let path = dir.join("model.gguf");
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// How many tensors the header of a fixture names.
fn tensors_of(name: &str) -> u64 {
    let bytes = std::fs::read(fixture(name).join("model.gguf")).expect("a fixture");
    u64::from_le_bytes(*bytes[8..].first_chunk().expect("a header"))
}

/// Name, two dimensions and type of a tensor, as a header has them.
fn tensor(name: &str, dims: [u64; 2], kind: u32) -> Vec<u8> {
    [name.as_bytes(), &2u32.to_le_bytes(), &dims[0].to_le_bytes(), &dims[1].to_le_bytes(), &kind.to_le_bytes()].concat()
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |from: &[u8], to: &[u8]| {
        let path = patched(dir.path(), from, to);
        Inspection::open(&path, false).map(|_| ()).expect_err("refused").to_string()
    };
    let known = tensor("blk.0.attn_q.weight", [256, 128], 13);
    let gone = "Q4_2, which ggml has given up (its number 4)";
    for (kind, name) in
        [(15, "Q8_K"), (40, "NVFP4"), (42, "Q2_0"), (4, gone), (99, "number 99 of ggml, which is not known")]
    {
        // Smaller rows keep the tensor within its bytes.
        let problem = refused(&known, &tensor("blk.0.attn_q.weight", [256, 64], kind));
        assert!(problem.contains(&format!("tensor blk.0.attn_q.weight has the type {name}")), "{problem}");
        assert!(problem.contains("IQ2_XXS") && problem.contains("MXFP4"), "{problem}");
    }
    let problem = refused(&known, &tensor("blk.0.attn_q.weight", [128, 128], 8));
    assert!(problem.contains("blk.0.attn_q.weight has the shape [128, 128]"), "{problem}");
    assert!(problem.contains("(see qwen3moe.embedding_length"), "{problem}");
    let problem = refused(b"blk.0.attn_q.weight", b"blk.0.attn_p.weight");
    assert!(problem.contains("has no tensor blk.0.attn_q.weight"), "{problem}");
    let problem = refused(b"blk.0.ffn_down_exps", b"blk.0.ffn_down_expz");
    assert!(problem.contains("has no tensor blk.0.ffn_down_exps.weight"), "{problem}");
    let problem = refused(b"qwen3moe", b"qwen9moe");
    assert!(problem.contains("architecture \"qwen9moe\"") && problem.contains("qwen35moe"), "{problem}");
    // A number that no model has: the file that says it is named, under whatever name it is checked.
    let count = |n: u32| [b"qwen3moe.expert_used_count".as_slice(), &4u32.to_le_bytes(), &n.to_le_bytes()].concat();
    let problem = refused(&count(2), &count(200));
    let says = "model.gguf: qwen3moe.expert_used_count 200";
    assert!(problem.contains(says) && !problem.contains("config.json"), "{problem}");
    let problem = refused(b"qwen3moe.expert_count", b"qwen3moe.expert_Count");
    assert!(problem.contains("qwen3moe.expert_count") && !problem.contains("num_experts"), "{problem}");
    let counts = [&3u32.to_le_bytes()[..], &tensors_of("qwen3moe_gguf").to_le_bytes()].concat();
    let problem = refused(&counts, &[&3u32.to_le_bytes()[..], &60_000u64.to_le_bytes()].concat());
    assert!(problem.contains("claims 60000 tensors, more than it can hold"), "{problem}");
}

/// What further architectures have of their own.
#[test]
fn what_makes_no_sense_of_an_architecture_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, from: &[u8], to: &[u8], says: &str| {
        let path = patched_of(name, dir.path(), from, to);
        let problem = Inspection::open(&path, false).map(|_| ()).expect_err("refused").to_string();
        assert!(problem.contains(says) && problem.contains("model.gguf"), "{name}: {problem}\ndoes not say {says:?}");
        assert!(!problem.contains('\n'), "{problem}");
    };
    let number = |key: &str, n: u32| [key.as_bytes(), &4u32.to_le_bytes(), &n.to_le_bytes()].concat();
    let key = |key: &str| format!("deepseek2.{key}");
    // What JSON cannot hold would be taken for what is not said.
    let epsilon = |epsilon: f32| {
        let key = b"qwen3moe.attention.layer_norm_rms_epsilon".as_slice();
        [key, &6u32.to_le_bytes(), &epsilon.to_le_bytes()].concat()
    };
    for none in [f32::NAN, f32::INFINITY] {
        refused("qwen3moe_gguf", &epsilon(1e-6), &epsilon(none), "layer_norm_rms_epsilon is no finite number");
    }
    // A head without a part that has no positions, and one that is narrower than what RoPE turns.
    for length in [8, 4] {
        let to = number(&key("attention.key_length_mla"), length);
        refused(
            "deepseek_v3_gguf",
            &number(&key("attention.key_length_mla"), 20),
            &to,
            "deepseek2.attention.key_length_mla",
        );
    }
    let missing = |name: &str, from: &str, says: &str| {
        let to = [&from.as_bytes()[..from.len() - 1], b"?"].concat();
        refused(name, from.as_bytes(), &to, says);
    };
    missing("deepseek_v3_gguf", "deepseek2.rope.dimension_count", "deepseek2.rope.dimension_count");
    missing("deepseek_v3_gguf", "blk.1.attn_v_b.weight", "attn_v_b");
    missing("deepseek_v3_gguf", "blk.1.exp_probs_b.bias", "exp_probs_b.bias");
    missing("glm4_moe_gguf", "glm4moe.expert_feed_forward_length", "glm4moe.expert_feed_forward_length");
    missing("gpt_oss_mxfp4_gguf", "blk.0.attn_sinks.weight", "attn_sinks");
    missing("exaone_moe_gguf", "exaone-moe.attention.sliding_window", "attention.sliding_window");
    refused(
        "exaone_moe_gguf",
        &number("exaone-moe.expert_used_count", 3),
        &number("exaone-moe.expert_used_count", 99),
        "99",
    );
    missing("gemma4_gguf", "gemma4.attention.sliding_window_pattern", "gemma4.attention.sliding_window_pattern");
    missing("gemma4_gguf", "blk.1.layer_output_scale.weight", "layer_output_scale");
    missing("lfm2_moe_gguf", "lfm2moe.attention.head_count_kv", "lfm2moe.attention.head_count_kv");
    missing("granitemoehybrid_gguf", "granitehybrid.ssm.inner_size", "granitehybrid.ssm.inner_size");
    missing("kimi_linear_gguf", "kimi-linear.kda.head_dim", "kimi-linear.kda.head_dim");
    missing("phimoe_gguf", "phimoe.rope.scaling.attn_factor", "short_mscale");
    missing("deepseek_v4_gguf", "blk.0.ffn_gate_tid2eid.weight", "tid2eid");
    missing("hy_v4_gguf", "blk.0.hc_attn_fn.weight", "hc_attn_fn");
    missing("hy_v4_gguf", "output_hc_fn.weight", "output_hc_fn");
    missing("ling3_gguf", "blk.0.ssm_f_a.weight", "ssm_f_a");
    missing("glm5_next_gguf", "blk.1.indexer_compressor_ape.weight", "indexer_compressor_ape");
    missing("minimax_gguf", "blk.0.attn_norm_2.weight", "attn_norm_2");
    missing("qwen4_exp_gguf", "per_layer_token_embd.weight", "per_layer_token_embd");
    missing("qwen4_exp_gguf", "qwen4exp.attention.compress_ratios", "qwen4exp.attention.compress_ratios");
    missing("qwen4_exp_gguf", "qwen4exp.ple.head_offsets", "qwen4exp.ple.head_offsets");
    let layers = |key: &str, n: u32| number(&format!("{key}.block_count"), n);
    refused("jamba_gguf", &layers("jamba", 4), &layers("jamba", 4_000_000_000), "4000000000 layers");
    // Key-value heads of its one layer of attention, of which another layer has more.
    let heads = |heads: [u32; 4]| heads.iter().flat_map(|heads| heads.to_le_bytes()).collect::<Vec<u8>>();
    refused("mimo_v2_flash_gguf", &heads([1, 2, 2, 1]), &heads([1, 2, 3, 1]), "attention.head_count_kv");
    refused("jamba_gguf", &heads([0, 0, 1, 0]), &heads([1, 0, 1, 1]), "attn layers at uneven distances");
    // Factors of RoPE that are none, or of another number.
    let freqs = |n: u64| [b"rope_freqs.weight".as_slice(), &1u32.to_le_bytes(), &n.to_le_bytes()].concat();
    refused("llama_gguf", &freqs(5), &freqs(4), "factors has 4 numbers for 5 pairs");
    let mut bytes = std::fs::read(fixture("llama_gguf").join("model.gguf")).expect("a fixture");
    let ones: Vec<u8> = [1.0f32, 8.0].iter().flat_map(|one| one.to_le_bytes()).collect();
    let at = bytes.windows(8).position(|window| window == ones).expect("the factors");
    bytes[at..at + 4].copy_from_slice(&0.0f32.to_le_bytes());
    let path = dir.path().join("model.gguf");
    std::fs::write(&path, bytes).expect("a file");
    let problem = Inspection::open(&path, false).map(|_| ()).expect_err("refused").to_string();
    assert!(problem.contains("factors") && problem.contains("above 0"), "{problem}");
}

/// A bias that no part of the model reads would change what it says.
#[test]
fn a_bias_that_is_not_read_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let known = "blk.0.attn_norm.weight";
    let of = |name: &str| [&(name.len() as u64).to_le_bytes()[..], name.as_bytes()].concat();
    // As long as keeps the data aligned.
    let unknown = format!("blk.0.{}.bias", "x".repeat(21));
    let bytes = std::fs::read(fixture("qwen3moe_gguf").join("model.gguf")).expect("the fixture");
    let at = bytes.windows(8 + known.len()).position(|window| window == of(known)).expect("a tensor");
    let rest = 4 + 8 + 4 + 8;
    let entry = &bytes[at + 8 + known.len()..][..rest];
    let count = u64::from_le_bytes(bytes[8..16].try_into().expect("8 bytes")) + 1;
    let more = [&bytes[..8], &count.to_le_bytes(), &bytes[16..at], &of(&unknown), entry, &bytes[at..]].concat();
    let file = dir.path().join("model.gguf");
    std::fs::write(&file, more).expect("written");
    let problem = Inspection::open(&file, false).map(|_| ()).expect_err("refused").to_string();
    assert!(problem.contains(&unknown) && problem.contains("model.gguf"), "{problem}");
}
