//! Thousands of random damages, from a fixed seed: whatever happens, it is an error or an answer.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use outpour_engine::{Engine, Inspection, Options};
use outpour_store::read::{self, ReaderKind};

use super::*;

/// Of one model's damages.
const TIME: Duration = Duration::from_secs(3);
/// Of a busy machine, until there were both errors and answers.
const TIME_MAX: Duration = Duration::from_secs(60);
const ROUNDS_MAX: usize = 4000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// One to three random changes: a byte, a piece moved or gone, or a number or word in place of another.
    fn mutate(&mut self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for _ in 0..=self.below(3) {
            let at = self.below(text.len());
            match self.below(6) {
                0 => text[at] = self.below(256) as u8,
                1 => text[at] ^= 1 << self.below(8),
                2 => drop(text.drain(at..(at + 1 + self.below(20)).min(text.len()))),
                3 => {
                    let piece = text[at..(at + 1 + self.below(60)).min(text.len())].to_vec();
                    let to = self.below(text.len());
                    text.splice(to..to, piece);
                }
                _ => self.replace_value(&mut text, at),
            }
            if text.is_empty() {
                text.push(b'{');
            }
        }
        text
    }

    /// Puts another value in place of the number that follows `at`.
    fn replace_value(&mut self, text: &mut Vec<u8>, at: usize) {
        const VALUES: [&str; 16] = [
            "0",
            "1",
            "-1",
            "2",
            "7",
            "63",
            "1.5",
            "1e3",
            "2147483647",
            "4294967296",
            "9223372036854775807",
            "18446744073709551615",
            "1e308",
            "null",
            "[]",
            "\"x\"",
        ];
        let Some(start) = text[at..].iter().position(u8::is_ascii_digit).map(|offset| at + offset) else { return };
        let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let value = VALUES[self.below(VALUES.len())];
        text.splice(start..start + digits, value.bytes());
    }
}

/// Opens, plans and, where that works, loads a model and computes two tokens.
fn try_model(model: &Path) -> Result<(), outpour_engine::EngineError> {
    let inspection = Inspection::open(model, false)?;
    let options = Options {
        ram: 64 << 20,
        ctx: Some(64.min(inspection.facts().context_max)),
        threads: Some(1),
        ..Options::default()
    };
    inspection.plan(&options)?;
    let reader = read::open(ReaderKind::Pread).expect("a reader");
    let mut engine = Engine::load(inspection, &options, reader, &mut |_, _| ControlFlow::Continue(()))?;
    let mut session = outpour_engine::Session::open(&mut engine);
    session.extend(&mut engine, &[0], outpour_engine::Work::PromptWithLogits, &mut ())?;
    session.step(&mut engine, &mut (), &mut |logits, _| outpour_engine::sample::argmax(logits))?;
    session.logits(&mut engine, &mut ())?;
    session.close(&mut engine);
    Ok(())
}

/// Tries a model with ever other versions of one of its files.
fn try_mutations(fixture: &str, seed: u64, original: &[u8], write: impl Fn(&Path, &[u8])) {
    let model = copy(fixture);
    let (began, mut random, mut answers, mut errors) = (Instant::now(), Random(seed), 0, 0);
    let enough = |answers, errors| answers > 0 && errors > 0 && began.elapsed() > TIME;
    while !enough(answers, errors) && began.elapsed() < TIME_MAX && answers + errors < ROUNDS_MAX {
        let mutated = random.mutate(original);
        write(model.path(), &mutated);
        let tried = std::panic::catch_unwind(|| try_model(model.path()));
        match tried {
            Ok(Ok(())) => answers += 1,
            Ok(Err(error)) => {
                assert!(!error.to_string().is_empty());
                errors += 1;
            }
            Err(_) => panic!("a panic over {:?}", String::from_utf8_lossy(&mutated)),
        }
    }
    println!("{fixture}: {errors} errors and {answers} answers in {:.1} s", began.elapsed().as_secs_f64());
    assert!(answers > 0 && errors > 0);
}

#[test]
fn mutated_configs() {
    for (fixture, seed) in [("qwen3_moe", 1), ("qwen3_moe_odd", 2)] {
        let config = fs::read(common::fixture(fixture).join("config.json")).expect("the config");
        try_mutations(fixture, seed, &config, |model, text| fs::write(model.join("config.json"), text).unwrap());
    }
}

#[test]
fn mutated_headers() {
    for (fixture, shard, seed) in [("qwen3_moe", SHARDS[0], 3), ("qwen3_moe_odd", SINGLE, 4)] {
        let file = fs::read(common::fixture(fixture).join(shard)).expect("the weights");
        let (header, data) = damage::split(&file);
        try_mutations(fixture, seed, header, |model, text| {
            fs::write(model.join(shard), [&(text.len() as u64).to_le_bytes(), text, data].concat()).unwrap();
        });
    }
}

#[test]
fn mutated_indexes() {
    let index = fs::read(common::fixture("qwen3_moe").join(INDEX)).expect("the index");
    try_mutations("qwen3_moe", 5, &index, |model, text| fs::write(model.join(INDEX), text).unwrap());
}

/// Weights of any bits give some answer, or are said not to be numbers: infinities and NaNs are among them.
#[test]
fn mutated_weights() {
    for (fixture, file) in [("qwen3_moe", SHARDS[0]), ("qwen3_moe", SHARDS[1]), ("qwen3_moe_odd", SINGLE)] {
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let model = copy(fixture);
            let path = model.path().join(file);
            let file = fs::read(&path).expect("the weights");
            let (header, data) = damage::split(&file);
            let data = vec![byte; data.len()];
            fs::write(&path, [&(header.len() as u64).to_le_bytes(), header, &data].concat()).expect("written");
            match try_model(model.path()) {
                Ok(_) => assert_ne!(byte, 0xff, "{fixture}: NaNs are no answer"),
                Err(error) => {
                    assert!(error.to_string().contains("not numbers"), "{fixture} of bytes {byte:02x}: {error}")
                }
            }
        }
    }
}

/// A router of NaNs with every bit set chooses each expert once at most, as any other; what comes of it is no number.
#[test]
fn a_router_without_preference() {
    for (dtype, bytes) in [("F32", 12 * 60 * 4), ("BF16", 12 * 60 * 2)] {
        let model = copy("qwen3_moe_odd");
        let path = model.path().join(SINGLE);
        let mut file = fs::read(&path).expect("the weights");
        let begin = damage::split(&file).1.len();
        file.extend(vec![0xff; bytes]);
        fs::write(&path, &file).expect("written");
        edit_header(&path, |header| {
            let gate = &mut header["model.layers.0.mlp.gate.weight"];
            gate["dtype"] = json!(dtype);
            gate["data_offsets"] = json!([begin, begin + bytes]);
        });
        let error = try_model(model.path()).expect_err("no answer").to_string();
        assert!(error.contains("not numbers"), "{error}");
    }
}

/// A config may make every layer dense; then there is nothing to stream.
#[test]
fn a_model_without_experts() {
    let model = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 64, "moe_intermediate_size": 64,
        "num_experts": 8, "num_experts_per_tok": 2, "vocab_size": 100, "max_position_embeddings": 512,
        "mlp_only_layers": [0, 1],
    });
    outpour_model::synth::write(&config, model.path(), 3).expect("the model is written");
    try_model(model.path()).expect("an answer");
}
