//! The same bytes always: whatever the memory, the reader, the threads, the cut of the prompt.

mod common;

use std::path::Path;
use std::process::Command;

use common::{engine, fixture, logits, minimum_ram, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Options, Session};
use outpour_model::synth;
use outpour_store::read::ReaderKind;
use serde_json::json;

/// A model with enough experts to be streamed: 4 layers of 32 experts of 72 KiB, 9 MiB of them.
fn streamed_model(dir: &Path) {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 128,
        "num_experts": 32, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 300,
        "max_position_embeddings": 512,
    });
    synth::write(&config, dir, 7).expect("the model is written");
}

fn ids(vocab: u32) -> Vec<u32> {
    (0..90u32).map(|i| (i * i * 31 + 7 * i + 3) % vocab).collect()
}

/// Every way to compute the same logits.
fn ways(model: &Path, precise: bool) -> Vec<(Options, ReaderKind, usize)> {
    let base = Options { precise, threads: Some(2), ..roomy() };
    let minimum = minimum_ram(model, &Options { prefill_chunk: Some(64), ..base });
    let half = minimum + (5 << 20);
    let mut ways = Vec::new();
    for ram in [minimum, half, base.ram] {
        for reader in [ReaderKind::Auto, ReaderKind::Pread] {
            ways.push((Options { ram, prefill_chunk: Some(64), ..base }, reader, usize::MAX));
        }
        for threads in [1, 2] {
            for chunk in [1, 7, 64] {
                let options = Options { ram, threads: Some(threads), prefill_chunk: Some(chunk), ..base };
                ways.push((options, ReaderKind::Auto, usize::MAX));
            }
            for step_from in [1, 50] {
                let options = Options { ram, threads: Some(threads), prefill_chunk: Some(7), ..base };
                ways.push((options, ReaderKind::Pread, step_from));
            }
        }
    }
    ways.push((base, ReaderKind::Auto, usize::MAX));
    ways
}

fn check_identity(model: &Path, precise: bool) {
    let mut first: Option<Vec<f32>> = None;
    for (options, reader, step_from) in ways(model, precise) {
        let mut engine = engine(model, &options, reader);
        let ids = ids(engine.facts().vocab as u32);
        let recorded = logits(&mut engine, &ids, step_from.min(ids.len()));
        let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        let expected = first.get_or_insert_with(|| recorded.logits.clone());
        let way = format!("{options:?}, {reader:?}, step from {step_from}");
        assert!(bits(expected) == bits(&recorded.logits), "other bits with {way}");
    }
}

#[test]
fn logits_have_the_same_bits_however_they_are_computed() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    for precise in [false, true] {
        check_identity(dir.path(), precise);
        for name in [
            "qwen3_moe",
            "qwen3_moe_odd",
            "qwen3_next",
            "qwen3_5_moe",
            "qwen3_5_moe_mlx4",
            "qwen3_next_mlx_mixed",
            "qwen3moe_gguf",
            "qwen35moe_gguf",
            "qwen3next_gguf",
        ] {
            check_identity(&fixture(name), precise);
        }
    }
}

#[test]
fn less_memory_reads_more() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let base = Options { prefill_chunk: Some(16), ..roomy() };
    let minimum = minimum_ram(dir.path(), &base);
    let read: Vec<u64> = [minimum, minimum + (4 << 20), base.ram]
        .iter()
        .map(|&ram| {
            let mut engine = engine(dir.path(), &Options { ram, ..base }, ReaderKind::Auto);
            logits(&mut engine, &ids(300), 20);
            engine.stats().stream.read_bytes
        })
        .collect();
    assert!(
        read[0] > read[1] && read[1] > read[2] && read[2] > 0,
        "bytes read with minimum, some and all memory: {read:?}"
    );
    let experts = 32 * 4 * 3 * 96 * 128 * 2;
    assert!(read[2] <= experts * 11 / 10, "with all memory, every expert is read once: {} of {experts}", read[2]);
}

#[test]
fn greedy_text_is_the_argmax_of_the_logits() {
    let model = tempfile::tempdir().expect("a folder");
    let outpour = env!("CARGO_BIN_EXE_outpour");
    let run = |args: &[&str]| {
        let output = Command::new(outpour).args(args).output().expect("outpour runs");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text is UTF-8")
    };
    let dir = model.path().to_str().expect("a UTF-8 path");
    run(&["demo", "--keep", dir, "-n", "1"]);
    let prompt = "Once upon a time";
    let text = run(&["run", dir, prompt, "--raw", "--ram", "80M", "-n", "12", "--temperature", "0", "--ignore-eos"]);

    let mut engine = engine(model.path(), &roomy(), ReaderKind::Pread);
    let tokenizer = outpour_text::Tokenizer::load(model.path()).expect("a tokenizer");
    let mut ids = tokenizer.encode_raw(prompt).expect("tokens");
    for _ in 0..12 {
        let tokens = ids.len();
        let recorded = logits(&mut engine, &ids, tokens);
        ids.push(argmax(&recorded.logits[recorded.logits.len() - engine.facts().vocab..]));
    }
    let prompt_tokens = ids.len() - 12;
    assert_eq!(text.trim_end_matches('\n'), tokenizer.decode_with(&ids[prompt_tokens..], true).trim_end_matches('\n'));
}

/// Greedy tokens after what a session holds.
fn continue_greedily(engine: &mut Engine, session: &mut Session, tokens: usize) -> Vec<u32> {
    let step = |_| session.step(engine, &mut (), &mut |logits, _| argmax(logits)).expect("a token");
    (0..tokens).map(step).collect()
}

#[test]
fn a_session_reuses_extends_rebuilds_forks_and_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let mut engine = engine(
        dir.path(),
        &Options { ram: minimum_ram(dir.path(), &roomy()) + (3 << 20), ..roomy() },
        ReaderKind::Auto,
    );
    let ids = ids(300);
    let fresh = |engine: &mut Engine, tokens: &[u32]| {
        let mut session = Session::open(engine);
        session.sync(engine, tokens, &[], &mut ()).expect("a prompt");
        let continued = continue_greedily(engine, &mut session, 10);
        session.close(engine);
        continued
    };
    let other: Vec<u32> = ids[..70].iter().chain(&[5, 6, 7]).copied().collect();
    let (expected, expected_other) = (fresh(&mut engine, &ids), fresh(&mut engine, &other));

    let mut session = Session::open(&mut engine);
    session.sync(&mut engine, &ids[..40], &[], &mut ()).expect("a prompt");
    session.sync(&mut engine, &ids, &[], &mut ()).expect("it extends");
    let mut fork = session.fork(&mut engine, &mut ()).expect("it forks");
    assert_eq!(continue_greedily(&mut engine, &mut session, 10), expected);
    let before = engine.stats().prefill_tokens;
    session.sync(&mut engine, &other, &[], &mut ()).expect("it goes back");
    assert_eq!(engine.stats().prefill_tokens - before, 3, "only what is new is computed");
    assert_eq!(continue_greedily(&mut engine, &mut session, 10), expected_other);
    assert_eq!(continue_greedily(&mut engine, &mut fork, 10), expected, "a fork does not see what the other wrote");

    let mut saved = Vec::new();
    session.sync(&mut engine, &ids, &[], &mut ()).expect("a prompt");
    session.save(&engine, &mut saved).expect("it is saved");
    let mut restored = Session::restore(&mut engine, &mut &saved[..]).expect("it comes back");
    assert_eq!(restored.tokens(), &ids[..]);
    let before = engine.stats().prefill_tokens;
    restored.sync(&mut engine, &ids, &[], &mut ()).expect("a prompt");
    assert!(engine.stats().prefill_tokens - before <= 1, "nothing but the last token is computed again");
    assert_eq!(continue_greedily(&mut engine, &mut restored, 10), expected);
    for cut in [0, 3, 100, saved.len() - 1] {
        assert!(
            Session::restore(&mut engine, &mut &saved[..cut]).is_err(),
            "a saved session of {cut} bytes is refused"
        );
    }
}

#[test]
fn contexts_of_many_sessions_leave_room_for_one_token() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let ram = minimum_ram(dir.path(), &roomy()) + (1 << 20);
    let mut engine = engine(dir.path(), &Options { ram, ..roomy() }, ReaderKind::Auto);
    let (ids, mut sessions) = (ids(300), Vec::new());
    let refused = loop {
        let mut session = Session::open(&mut engine);
        let synced = session.sync(&mut engine, &ids, &[], &mut ());
        sessions.push(session);
        match synced {
            Ok(()) => assert!(sessions.len() < 1000, "memory must end"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(sessions.len() > 1 && refused.contains("--ram"), "{refused}");
    let expected = continue_greedily(&mut engine, &mut sessions[0], 5);
    for session in sessions {
        session.close(&mut engine);
    }
    let mut session = Session::open(&mut engine);
    session.sync(&mut engine, &ids, &[], &mut ()).expect("there is room again");
    assert_eq!(continue_greedily(&mut engine, &mut session, 5), expected);
}
