//! The same bytes always: whatever the memory, the reader, the threads, the cut of the prompt.
//!
//! This file is long because all its tests compute the same tokens in other ways, with the same few models and helpers.

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use common::random::random_model;
use common::{engine, fixture, logits, minimum_ram, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Inspection, LookaheadMode, Options, SequenceId, Session, Work};
use outpour_model::synth::{self, Format, GgufTypes, Routing, Synth};
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

/// Options, how weights are read, and from which token on one at a time is computed.
type Way = (Options, ReaderKind, usize);

/// Every way to compute the same logits.
fn ways(model: &Path, precise: bool) -> Vec<Way> {
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
    for lookahead in [LookaheadMode::On, LookaheadMode::Off] {
        for (ram, step_from) in [(minimum, 1), (half, 1), (half, usize::MAX)] {
            let options = Options { ram, prefill_chunk: Some(64), lookahead, ..base };
            ways.push((options, ReaderKind::Auto, step_from));
        }
    }
    ways.push((base, ReaderKind::Auto, usize::MAX));
    ways
}

fn check_identity_by(model: &Path, ways: impl Iterator<Item = Way>) {
    let mut first: Option<Vec<f32>> = None;
    for (options, reader, step_from) in ways {
        let mut engine = engine(model, &options, reader);
        let ids = ids(engine.facts().vocab as u32);
        let recorded = logits(&mut engine, &ids, step_from.min(ids.len()));
        let bits = |logits: &[f32]| logits.iter().map(|l| l.to_bits()).collect::<Vec<_>>();
        let expected = first.get_or_insert_with(|| recorded.logits.clone());
        let way = format!("{options:?}, {reader:?}, step from {step_from}");
        assert!(bits(expected) == bits(&recorded.logits), "other bits with {way}");
    }
}

/// Two tests, so that two processors share them. A third of the ways for each fixture, another one for the next.
fn check_identity_of_all(precise: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    check_identity_by(dir.path(), ways(dir.path(), precise).into_iter());
    for (i, name) in common::FIXTURES.iter().enumerate() {
        let model = fixture(name);
        check_identity_by(&model, ways(&model, precise).into_iter().skip(i % 3).step_by(3));
    }
}

/// What is particular to a file of an architecture is names and what its converter made of tensors: some of the ways are enough for
/// those that [`common::FIXTURES`] has none of.
#[test]
fn gguf_files_of_every_architecture_have_the_same_bits() {
    for name in common::further_gguf_fixtures() {
        check_identity_by(&fixture(&name), ways(&fixture(&name), false).into_iter().step_by(9));
    }
}

#[test]
fn logits_have_the_same_bits_however_they_are_computed() {
    check_identity_of_all(false);
}

#[test]
fn precise_logits_have_the_same_bits_however_they_are_computed() {
    check_identity_of_all(true);
}

/// Checks that the bits of a model whose experts do not fit are those of the same in memory, however it is read, cut and shared among
/// threads.
fn check_streamed(name: &str, model: &Path) {
    let base = Options { prefill_chunk: Some(16), ctx: Some(128), threads: Some(2), ..roomy() };
    let minimum = minimum_ram(model, &base);
    let way = |ram, threads, chunk, reader, step_from| {
        (Options { ram, threads: Some(threads), prefill_chunk: Some(chunk), ..base }, reader, step_from)
    };
    let mut expected = None;
    for (options, reader, step_from) in [
        way(base.ram, 2, 64, ReaderKind::Auto, 90),
        way(minimum, 1, 16, ReaderKind::Auto, 90),
        way(minimum, 2, 7, ReaderKind::Pread, 60),
        way(minimum + (1 << 20), 2, 16, ReaderKind::Auto, 1),
    ] {
        let mut engine = engine(model, &options, reader);
        let layout = Inspection::open(model, false).unwrap_or_else(|error| panic!("{error}")).layout;
        let ids = ids(engine.facts().vocab as u32);
        let logits = logits(&mut engine, &ids, step_from).logits;
        let slots = engine.expert_slots();
        let read = engine.stats().stream.read_bytes;
        println!("{name}: {slots} of {} experts fit, {read} bytes read", layout.experts_total());
        if options.ram < base.ram {
            assert!(slots < layout.experts_total() / 2, "{name}: {slots} experts fit");
        }
        assert!(*expected.get_or_insert(logits.clone()) == logits, "{name}: other logits with {options:?}, {reader:?}");
    }
}

#[test]
fn every_kind_of_attention_has_the_same_bits_when_streamed() {
    for name in common::ATTENTION_KINDS {
        let dir = tempfile::tempdir().expect("a folder");
        synth::write(&common::enlarged(name, 48, 128), dir.path(), 3).expect("the model is written");
        check_streamed(name, dir.path());
    }
}

#[test]
fn every_format_has_the_same_bits_when_streamed() {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 64, "moe_intermediate_size": 256,
        "num_experts": 48, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 300,
        "max_position_embeddings": 512,
    });
    for format in Format::all() {
        let dir = tempfile::tempdir().expect("a folder");
        let made = Synth::new(&config, format, Vec::new(), Routing::default(), 3).expect("a model");
        made.write(dir.path(), &mut |_, _| ControlFlow::Continue(())).map(|_| ()).expect("it is written");
        check_streamed(&format.to_string(), dir.path());
    }
    // Files that are in parts, experts among them, and mixed by layer.
    let format = Format::Gguf(GgufTypes::Q4KM);
    let dir = tempfile::tempdir().expect("a folder");
    let made = Synth::new(&config, format, Vec::new(), Routing::default(), 3).expect("a model").in_shards(4 << 20);
    made.write(dir.path(), &mut |_, _| ControlFlow::Continue(())).map(|_| ()).expect("it is written");
    assert!(Inspection::open(dir.path(), false).expect("a model").checkpoint().files().len() > 3);
    check_streamed("Q4_K_M in parts", dir.path());
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

/// 12 layers whose weights outside the experts are most of it.
fn deep_model(dir: &Path) {
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 128, "num_hidden_layers": 12, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64, "intermediate_size": 64, "moe_intermediate_size": 32,
        "num_experts": 16, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": 300,
        "max_position_embeddings": 512,
    });
    synth::write(&config, dir, 9).expect("the model is written");
}

#[test]
fn a_trunk_that_does_not_fit_passes_through_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    deep_model(dir.path());
    let base = Options { prefill_chunk: Some(16), ctx: Some(128), ..roomy() };
    let minimum = minimum_ram(dir.path(), &base);
    let inspect = || Inspection::open(dir.path(), false).unwrap_or_else(|error| panic!("{error}"));
    let trunk = inspect().trunk.bytes();
    let (mut expected, mut streamed, mut read) = (None, Vec::new(), Vec::new());
    for ram in [minimum, minimum + trunk / 5, minimum + trunk / 2, minimum + trunk, base.ram] {
        for lookahead in [LookaheadMode::On, LookaheadMode::Off] {
            let options = Options { ram, lookahead, ..base };
            let plan = inspect().plan(&options).unwrap_or_else(|error| panic!("{error}"));
            assert!(plan.total() <= ram && plan.trunk.bytes() <= trunk);
            let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
            let recorded = logits(&mut engine, &ids(300), 60).logits;
            assert!(*expected.get_or_insert(recorded.clone()) == recorded, "other logits with {ram} bytes");
            // A second sequence's steps go through the layers while the first one's prompt is between two of them.
            let alone = beside_a_prompt(&mut engine, false);
            assert!(alone == beside_a_prompt(&mut engine, true), "other logits together with {ram} bytes");
            streamed.push(plan.trunk.streamed.len());
            read.push(engine.stats().stream.read_bytes);
        }
    }
    assert_eq!((streamed[0], streamed[8]), (12, 0));
    assert!(streamed.is_sorted_by(|a, b| a >= b) && streamed[4] > 0 && streamed[4] < 12, "{streamed:?}");
    // 30 steps and some chunks of prompts read those layers anew.
    assert!(read[1] > read[9] + 30 * trunk as u64 / 2, "{read:?} bytes, trunk {trunk}");
}

/// A guess costs a router's work; where all experts of the next layer are in memory it can gain nothing.
#[test]
fn nothing_is_guessed_of_layers_that_are_in_memory() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let options = Options { lookahead: LookaheadMode::On, ..roomy() };
    let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
    assert!(engine.read_experts().expect("experts are read"), "all of them fit");
    logits(&mut engine, &ids(300), 60);
    assert_eq!(engine.stats().lookahead.guessed, 0);
    engine.drop_experts();
    logits(&mut engine, &ids(300), 1);
    assert!(engine.stats().lookahead.guessed > 0, "experts are missing again");
}

/// Layers that choose by the tokens' ids: what is read early there is what is used, the first layer's too, and no bit changes.
#[test]
fn experts_that_are_known_are_read_before_their_layer() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = std::fs::read(fixture("deepseek_v4").join("config.json")).expect("a fixture has a config");
    let mut config: serde_json::Value = serde_json::from_slice(&config).expect("a config is JSON");
    for (key, value) in [("n_routed_experts", 32), ("moe_intermediate_size", 256), ("num_hash_layers", 4)] {
        config[key] = json!(value);
    }
    synth::write(&config, dir.path(), 5).expect("the model is written");
    let options = Options { prefill_chunk: Some(16), ..roomy() };
    let ram = minimum_ram(dir.path(), &options) + (2 << 20);
    let compute = |lookahead| {
        let mut engine = engine(dir.path(), &Options { ram, lookahead, ..options }, ReaderKind::Auto);
        let logits = logits(&mut engine, &ids(44), 48).logits;
        let (stats, slots) = (engine.stats(), engine.expert_slots());
        assert!(slots < 4 * 32, "not everything fits in {slots}");
        assert_eq!(stats.lookahead.guessed, 0, "nothing is left to guess");
        (logits, stats.stream)
    };
    let (without, none) = compute(LookaheadMode::Off);
    let (with, known) = compute(LookaheadMode::Auto);
    assert!(with == without, "other logits");
    assert_eq!(none.early, 0);
    // A prompt reads no more early than a share of memory.
    assert!(known.early == known.early_used && known.early * 10 > known.misses * 8, "{known:?}");
}

/// Logits of a prompt and of another sequence's step, one after the other or at the same time.
fn beside_a_prompt(engine: &mut Engine, at_once: bool) -> [Vec<u32>; 2] {
    let text = ids(300);
    let ids = [engine.open_sequence(), engine.open_sequence()];
    let run = |engine: &mut Engine| {
        while engine.tick(&mut ()).unwrap_or_else(|error| panic!("{error}")) {}
    };
    let enqueue = |engine: &mut Engine, id, tokens: &[u32], work| {
        engine.enqueue(id, tokens, work).unwrap_or_else(|error| panic!("{error}"));
    };
    enqueue(engine, ids[1], &text[..5], Work::Prompt);
    run(engine);
    enqueue(engine, ids[0], &text[..40], Work::Prompt);
    if !at_once {
        run(engine);
    }
    enqueue(engine, ids[1], &text[5..6], Work::Step);
    run(engine);
    let bits = ids.map(|id| engine.logits(id).expect("all is computed").iter().map(|logit| logit.to_bits()).collect());
    ids.into_iter().for_each(|id| engine.close_sequence(id));
    bits
}

#[test]
fn a_prompt_reads_ahead_and_leaves_what_its_last_tokens_used() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let base = Options { prefill_chunk: Some(64), ..roomy() };
    let ram = minimum_ram(dir.path(), &base) + (5 << 20);
    let passes = |lookahead| {
        let mut engine = engine(dir.path(), &Options { ram, lookahead, ..base }, ReaderKind::Auto);
        let passes = [(); 2].map(|()| {
            let before = engine.stats().stream;
            logits(&mut engine, &ids(300), 64);
            engine.stats().stream.since(&before)
        });
        assert!(engine.expert_slots() < 128, "not everything fits");
        passes
    };
    let with = passes(LookaheadMode::On);
    let without = passes(LookaheadMode::Off);
    assert!(with[0].early > 20 && with[0].early_used * 10 >= with[0].early * 9, "{:?}", with[0]);
    assert_eq!((without[0].early, without[1].early), (0, 0));
    // A sweep by the rule of the least recently used finds nothing of the sweep before.
    for [first, second] in [with, without] {
        assert!(second.misses * 10 < first.misses * 9, "{first:?} then {second:?}");
    }
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
    random_model(model.path());
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
        session.sync(engine, tokens, &mut ()).expect("a prompt");
        let continued = continue_greedily(engine, &mut session, 10);
        session.close(engine);
        continued
    };
    let other: Vec<u32> = ids[..70].iter().chain(&[5, 6, 7]).copied().collect();
    let (expected, expected_other) = (fresh(&mut engine, &ids), fresh(&mut engine, &other));

    let mut session = Session::open(&mut engine);
    session.sync(&mut engine, &ids[..40], &mut ()).expect("a prompt");
    session.sync(&mut engine, &ids, &mut ()).expect("it extends");
    let mut fork = session.fork(&mut engine, &mut ()).expect("it forks");
    assert_eq!(continue_greedily(&mut engine, &mut session, 10), expected);
    let before = engine.stats().prefill_tokens;
    session.sync(&mut engine, &other, &mut ()).expect("it goes back");
    assert_eq!(engine.stats().prefill_tokens - before, 3, "only what is new is computed");
    assert_eq!(continue_greedily(&mut engine, &mut session, 10), expected_other);
    assert_eq!(continue_greedily(&mut engine, &mut fork, 10), expected, "a fork does not see what the other wrote");

    let mut saved = Vec::new();
    session.sync(&mut engine, &ids, &mut ()).expect("a prompt");
    session.save(&engine, &mut saved).expect("it is saved");
    let mut restored = Session::restore(&mut engine, &mut &saved[..]).expect("it comes back");
    assert_eq!(restored.tokens(), &ids[..]);
    let before = engine.stats().prefill_tokens;
    restored.sync(&mut engine, &ids, &mut ()).expect("a prompt");
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
        let synced = session.sync(&mut engine, &ids, &mut ());
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
    session.sync(&mut engine, &ids, &mut ()).expect("there is room again");
    assert_eq!(continue_greedily(&mut engine, &mut session, 5), expected);
}

/// A pending token of one session, for which there is no memory, is no error of another one's that waits.
#[test]
fn what_struck_others_is_theirs() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let ram = minimum_ram(dir.path(), &roomy()) + (1 << 20);
    let mut engine = engine(dir.path(), &Options { ram, ..roomy() }, ReaderKind::Auto);
    // Each holds a full block, so that one token more takes another one.
    let (block, mut full) = (&ids(300)[..64], Vec::new());
    let mut first = Session::open(&mut engine);
    first.sync(&mut engine, &block[..40], &mut ()).expect("a prompt");
    let expected = continue_greedily(&mut engine, &mut first, 6);
    first.sync(&mut engine, &block[..40], &mut ()).expect("it goes back");
    loop {
        let mut session = Session::open(&mut engine);
        let synced = session.sync(&mut engine, block, &mut ());
        full.push(session);
        match synced {
            Ok(()) => assert!(full.len() < 1000, "memory must end"),
            Err(_) => break,
        }
    }
    full.pop().expect("the one without memory").close(&mut engine);
    for session in &mut full {
        session.step(&mut engine, &mut (), &mut |logits, _| argmax(logits)).expect("a token, which is pending");
    }
    assert_eq!(continue_greedily(&mut engine, &mut first, 6), expected, "and the first goes on");
    let last = full.last_mut().expect("one that waits for memory");
    assert!(last.logits(&mut engine, &mut ()).is_err_and(|error| error.to_string().contains("--ram")));
    assert_eq!(last.tokens(), block, "what could not be computed is forgotten");
}

/// A sequence of the scheduler: a prompt, then greedy steps.
struct Timeline {
    id: SequenceId,
    tokens: Vec<u32>,
    end: usize,
}

impl Timeline {
    fn open(engine: &mut Engine, prompt: &[u32], steps: usize) -> Timeline {
        let id = engine.open_sequence();
        engine.enqueue(id, prompt, Work::Prompt).expect("it fits");
        Timeline { id, tokens: prompt.to_vec(), end: prompt.len() + steps }
    }

    /// Takes the next token where its logits are there; `false` when it has all.
    fn advance(&mut self, engine: &mut Engine) -> bool {
        if let Some(logits) = engine.logits(self.id).filter(|_| self.tokens.len() < self.end) {
            self.tokens.push(argmax(logits));
            let step = *self.tokens.last().expect("just pushed");
            engine.enqueue(self.id, &[step], Work::Step).expect("it fits");
        }
        self.tokens.len() < self.end || engine.logits(self.id).is_none()
    }
}

/// Prompts of several lengths, the steps after each, and the tick at which it comes.
const MANY: [(usize, usize, usize); 6] = [(3, 30, 0), (90, 12, 0), (17, 20, 2), (64, 5, 3), (1, 25, 9), (80, 8, 9)];

/// What each of [`MANY`] says, and the bits of its last logits.
type Said = Vec<(Vec<u32>, Vec<u32>)>;

fn together(engine: &mut Engine, prompts: &[Vec<u32>]) -> Said {
    let mut timelines: Vec<Timeline> = Vec::new();
    for tick in 0.. {
        while let Some(&(_, steps, _)) = MANY.get(timelines.len()).filter(|(_, _, from)| *from <= tick) {
            timelines.push(Timeline::open(engine, &prompts[timelines.len()], steps));
        }
        let more = timelines.iter_mut().fold(false, |more, timeline| timeline.advance(engine) | more);
        if !more && timelines.len() == MANY.len() {
            break;
        }
        engine.tick(&mut ()).expect("it computes");
    }
    let bits = |logits: &[f32]| logits.iter().map(|logit| logit.to_bits()).collect();
    let said = timelines.iter().map(|t| (t.tokens.clone(), bits(engine.logits(t.id).expect("all is computed"))));
    let said = said.collect();
    timelines.iter().for_each(|timeline| engine.close_sequence(timeline.id));
    said
}

fn alone(engine: &mut Engine, prompts: &[Vec<u32>]) -> Said {
    let one = |(prompt, (_, steps, _)): (&Vec<u32>, (usize, usize, usize))| {
        let mut timeline = Timeline::open(engine, prompt, steps);
        while timeline.advance(engine) {
            engine.tick(&mut ()).expect("it computes");
        }
        let bits = engine.logits(timeline.id).expect("all is computed").iter().map(|logit| logit.to_bits()).collect();
        engine.close_sequence(timeline.id);
        (timeline.tokens, bits)
    };
    prompts.iter().zip(MANY).map(one).collect()
}

#[test]
fn many_sequences_together_say_what_each_says_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let fixtures = [
        "qwen3_5_moe",
        "qwen3_next_mlx_mixed",
        "glm_moe_dsa",
        "ling25",
        "deepseek_v4",
        "lfm2_moe",
        "jamba",
        "longcat_flash",
        "glm5_next",
        "minimax_m3",
        "mistral_large4",
        "mimo_v2_flash",
        "llama4",
        "qwen4_exp",
    ]
    .map(fixture);
    let models: Vec<_> = [dir.path().to_owned()].into_iter().chain(fixtures).collect();
    for model in &models {
        for chunk in [7, 40, 64] {
            // Two prompts and all steps have room beside the experts of a few tokens.
            let base = Options { prefill_chunk: Some(chunk), ctx: Some(512), threads: Some(2), ..roomy() };
            let mut engine = engine(model, &base, ReaderKind::Auto);
            let vocab = engine.facts().vocab as u32;
            let prompts: Vec<Vec<u32>> = MANY
                .iter()
                .enumerate()
                .map(|(i, &(n, ..))| ids(vocab)[..n].iter().map(|id| (id + i as u32) % vocab).collect())
                .collect();
            let expected = alone(&mut engine, &prompts);
            assert!(together(&mut engine, &prompts) == expected, "{} in chunks of {chunk}", model.display());
        }
    }
}

#[test]
fn steps_of_many_share_the_reads_of_experts() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let options = Options { prefill_chunk: Some(16), ..roomy() };
    let options = Options { ram: minimum_ram(dir.path(), &options) + (1 << 20), ..options };
    let read = |sequences: u32| {
        let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
        let mut timelines: Vec<Timeline> =
            (0..sequences).map(|i| Timeline::open(&mut engine, &[i + 1, 2 * i + 3], 20)).collect();
        while timelines.iter_mut().fold(false, |more, timeline| timeline.advance(&mut engine) | more) {
            engine.tick(&mut ()).expect("it computes");
        }
        engine.stats().stream.read_bytes
    };
    let (one, eight) = (read(1), read(8));
    println!("bytes read for 1 sequence {one}, for 8 {eight}");
    assert!(eight < 6 * one, "8 sequences read {eight} bytes, one reads {one}");
}

/// Prompts that end within a sweep share it: one read of each expert serves them all, and each says what it says alone. A prompt
/// that is longer than a sweep leaves them room, so that they are not behind it.
#[test]
fn prompts_of_many_share_the_reads_of_experts() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let options = Options { prefill_chunk: Some(96), ctx: Some(512), threads: Some(2), ..roomy() };
    let options = Options { ram: minimum_ram(dir.path(), &options) + (4 << 20), ..options };
    let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
    let prompts: Vec<Vec<u32>> =
        (0..8u32).map(|i| (0..40 + i).map(|at| (at * at * 31 + 7 * at + 3 + i) % 300).collect()).collect();
    let mut read = |prompts: &[Vec<u32>]| {
        engine.drop_experts();
        let before = engine.stats().stream.read_bytes;
        let timelines: Vec<Timeline> = prompts.iter().map(|prompt| Timeline::open(&mut engine, prompt, 0)).collect();
        while engine.tick(&mut ()).expect("it computes") {}
        let logits = |timeline: &Timeline| engine.logits(timeline.id).expect("all is computed").to_vec();
        let logits: Vec<Vec<f32>> = timelines.iter().map(logits).collect();
        timelines.iter().for_each(|timeline| engine.close_sequence(timeline.id));
        (logits, engine.stats().stream.read_bytes - before)
    };
    let alone: Vec<_> = prompts.iter().map(|prompt| read(std::slice::from_ref(prompt))).collect();
    let (together, bytes) = read(&prompts);
    assert!(together.iter().zip(&alone).all(|(together, (alone, _))| *together == alone[0]), "other logits");
    let each: u64 = alone.iter().map(|(_, bytes)| bytes).sum::<u64>() / 8;
    println!("bytes read for 8 prompts {bytes}, for one of them {each}");
    assert!(bytes < 2 * each, "8 prompts read {bytes} bytes, one reads {each}");

    let long = Timeline::open(&mut engine, &ids(300).repeat(5), 0);
    let short = Timeline::open(&mut engine, &prompts[0], 0);
    while engine.logits(short.id).is_none() {
        assert!(engine.tick(&mut ()).expect("it computes"));
    }
    assert!(engine.logits(long.id).is_none() && engine.logits(short.id) == Some(&alone[0].0[0][..]));
    while engine.tick(&mut ()).expect("it computes") {}
    assert!(engine.logits(long.id).is_some());
}

/// Chunks of a prompt go through each layer one behind the other: those behind the first cost no reads, and change no bit.
#[test]
fn a_chunk_finds_the_experts_of_the_one_before() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let text = ids(300).repeat(3);
    let base = Options { prefill_chunk: Some(256), ..roomy() };
    let ram = minimum_ram(dir.path(), &base) + (2 << 20);
    let read = |tokens: usize, chunk: usize| {
        let options = Options { ram, prefill_chunk: Some(chunk), ..base };
        let mut engine = engine(dir.path(), &options, ReaderKind::Auto);
        assert!(engine.expert_slots() < 100, "not everything fits");
        let timeline = Timeline::open(&mut engine, &text[..tokens], 0);
        while engine.tick(&mut ()).expect("it computes") {}
        (engine.logits(timeline.id).expect("all is computed").to_vec(), engine.stats().stream.read_bytes)
    };
    for more in [1, 16, 65, 192] {
        let (whole, with, apart) = (read(64 + more, 256), read(64 + more, 64), read(64 + more, 16));
        println!("{} tokens at once read {} bytes, in chunks of 64 {}, of 16 {}", 64 + more, whole.1, with.1, apart.1);
        assert!(with.0 == whole.0 && apart.0 == whole.0, "other logits of {more} more");
        assert!(with.1 as f64 <= 1.02 * whole.1 as f64, "{more} more read {} bytes, at once {}", with.1, whole.1);
    }
    for name in ["qwen3_next", "glm_moe_dsa", "deepseek_v4", "glm5_next", "llama4", "mimo_v2_flash", "longcat_flash"] {
        let logits = |chunk| {
            let mut engine = engine(&fixture(name), &Options { prefill_chunk: Some(chunk), ..base }, ReaderKind::Auto);
            let tokens = ids(engine.facts().vocab as u32);
            let timeline = Timeline::open(&mut engine, &tokens[..75], 0);
            while engine.tick(&mut ()).expect("it computes") {}
            engine.logits(timeline.id).expect("all is computed").to_vec()
        };
        assert!(logits(64) == logits(75) && logits(20) == logits(75), "{name}");
    }
}

/// Where there is room for all experts beside a context, none goes as one grows.
#[test]
fn a_context_takes_what_is_free_first() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let mut engine = engine(dir.path(), &Options { ctx: Some(512), ..roomy() }, ReaderKind::Auto);
    let text = ids(300).repeat(5);
    for round in 0..4 {
        let before = engine.stats().stream.misses;
        let timeline = Timeline::open(&mut engine, &text[..150 + 100 * round], 0);
        while engine.tick(&mut ()).expect("it computes") {}
        let misses = engine.stats().stream.misses - before;
        assert!(round == 0 || misses == 0, "round {round} read {misses} experts again");
        engine.close_sequence(timeline.id);
        assert!(engine.read_experts().expect("they are read"), "there is room for all");
    }
}

#[test]
fn chunks_share_a_sweep_where_memory_holds_a_layer() {
    let dir = tempfile::tempdir().expect("a folder");
    streamed_model(dir.path());
    let inspection = Inspection::open(dir.path(), false).unwrap_or_else(|error| panic!("{error}"));
    let base = Options { prefill_chunk: Some(64), ..roomy() };
    let sweep = |more: usize| {
        let options = Options { ram: minimum_ram(dir.path(), &base) + more, ..base };
        let plan = inspection.plan(&options).unwrap_or_else(|error| panic!("{error}"));
        (plan.expert_slots, inspection.sweep_tokens(&plan))
    };
    let [(few, alone), (many, together)] = [0, 2 << 20].map(sweep);
    let layer = inspection.layout.experts(0);
    assert!(few < layer && layer <= many, "{few} and {many} of a layer's {layer}");
    assert_eq!((alone, together), (64, 256));
}

/// Of prompts that share a sweep one can be closed, or go back, between any two chunks: the others never see it.
#[test]
fn prompts_that_share_a_sweep_can_be_closed_one_by_one() {
    for name in ["qwen3_moe", "qwen3_next", "glm_moe_dsa", "deepseek_v4"] {
        // Only where experts are missing do prompts share.
        let options = Options { prefill_chunk: Some(45), ctx: Some(512), ..roomy() };
        let mut engine = engine(&fixture(name), &options, ReaderKind::Auto);
        let vocab = engine.facts().vocab as u32;
        let prompts: Vec<Vec<u32>> = (0..3).map(|i| ids(vocab)[i..40 + 9 * i].to_vec()).collect();
        let all = |engine: &mut Engine| while engine.tick(&mut ()).expect("it computes") {};
        let expected: Vec<Vec<f32>> = prompts
            .iter()
            .map(|prompt| {
                let timeline = Timeline::open(&mut engine, prompt, 0);
                all(&mut engine);
                let logits = engine.logits(timeline.id).expect("all is computed").to_vec();
                engine.close_sequence(timeline.id);
                logits
            })
            .collect();
        // In chunks of 45 the three, of 40, 48 and 56 tokens, go through a layer in four.
        for (gone, chunks) in (0..3).flat_map(|gone| (1..8).map(move |chunks| (gone, chunks))) {
            engine.drop_experts();
            let timelines: Vec<Timeline> =
                prompts.iter().map(|prompt| Timeline::open(&mut engine, prompt, 0)).collect();
            (0..chunks).for_each(|_| assert!(engine.tick(&mut ()).expect("it computes")));
            assert_eq!(engine.truncate(timelines[gone].id, 0), 0);
            engine.enqueue(timelines[gone].id, &prompts[gone], Work::Prompt).expect("it fits");
            all(&mut engine);
            for (timeline, expected) in timelines.iter().zip(&expected) {
                assert_eq!(engine.logits(timeline.id), Some(&expected[..]), "{name}, without {gone} after {chunks}");
                engine.close_sequence(timeline.id);
            }
        }
    }
}

#[test]
fn a_prompt_under_way_can_be_closed_and_others_go_on() {
    for name in ["qwen3_moe", "qwen3_next"] {
        let options = Options { prefill_chunk: Some(32), ..roomy() };
        let mut engine = engine(&fixture(name), &options, ReaderKind::Auto);
        let ids = ids(engine.facts().vocab as u32);
        let mut other = Timeline::open(&mut engine, &ids[..5], 12);
        while other.advance(&mut engine) {
            engine.tick(&mut ()).expect("it computes");
        }
        let expected = std::mem::take(&mut other.tokens);
        engine.close_sequence(other.id);

        let long = engine.open_sequence();
        engine.enqueue(long, &ids, Work::Prompt).expect("it fits");
        let mut other = Timeline::open(&mut engine, &ids[..5], 12);
        engine.tick(&mut ()).expect("it computes");
        assert_eq!(engine.truncate(long, 0), 0);
        engine.enqueue(long, &ids, Work::Prompt).expect("it fits");
        engine.tick(&mut ()).expect("it computes");
        engine.close_sequence(long);
        while other.advance(&mut engine) {
            engine.tick(&mut ()).expect("it computes");
        }
        assert_eq!(other.tokens, expected, "{name}");
        let before = engine.stats().prefill_tokens;
        assert!(!engine.tick(&mut ()).expect("nothing fails"), "no work is left");
        assert_eq!(engine.stats().prefill_tokens, before);
    }
}

/// Whatever a sequence carries beside keys and values of all positions, an indexer's keys, compressed entries or recurrent states,
/// it comes back, forks, and is as it would be had it been computed at once.
#[test]
fn every_kind_of_state_comes_back_and_forks() {
    for name in common::ATTENTION_KINDS.into_iter().chain(["deepseek_v32"]) {
        let options = Options { prefill_chunk: Some(50), ctx: Some(640), ..roomy() };
        let mut engine = engine(&fixture(name), &options, ReaderKind::Auto);
        let vocab = engine.facts().vocab as u32;
        let ids: Vec<u32> = (0..509u32).map(|i| (i * i * 31 + 7 * i + 3) % vocab).collect();
        let mut fresh = Session::open(&mut engine);
        fresh.sync(&mut engine, &ids, &mut ()).expect("a prompt");
        let expected = continue_greedily(&mut engine, &mut fresh, 30);

        let mut session = Session::open(&mut engine);
        session.sync(&mut engine, &ids[..301], &mut ()).expect("a prompt");
        let mut saved = Vec::new();
        session.save(&engine, &mut saved).expect("it is saved");
        let mut fork = session.fork(&mut engine, &mut ()).expect("it forks");
        let mut other = ids[..301].to_vec();
        other.extend([1, 2, 3, 4, 5]);
        fork.sync(&mut engine, &other, &mut ()).expect("another end");
        continue_greedily(&mut engine, &mut fork, 30);
        let mut restored = Session::restore(&mut engine, &mut &saved[..]).expect("it comes back");
        for session in [&mut session, &mut restored] {
            let before = engine.stats().prefill_tokens;
            session.sync(&mut engine, &ids, &mut ()).expect("it extends");
            assert!(engine.stats().prefill_tokens - before <= 209, "{name}: only what is new is computed");
            assert_eq!(continue_greedily(&mut engine, session, 30), expected, "{name}");
        }
    }
}

/// Layers within a window give blocks back as a context grows: in one piece, where all are held, and in small ones, where they
/// are not, bits are the same; and a session comes back, forks, and goes back a little, or begins anew.
#[test]
fn a_window_gives_blocks_back_and_changes_no_bit() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "gpt_oss", "hidden_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "num_local_experts": 16,
        "num_experts_per_tok": 3, "sliding_window": 24, "vocab_size": 300, "max_position_embeddings": 1024,
        "rope_scaling": { "rope_type": "default" },
    });
    synth::write(&config, dir.path(), 11).expect("the model is written");
    let ids: Vec<u32> = (0..400u32).map(|i| (i * i * 31 + 7 * i + 3) % 300).collect();
    let open = |chunk| {
        let options = Options { prefill_chunk: Some(chunk), ctx: Some(512), ..roomy() };
        engine(dir.path(), &options, ReaderKind::Auto)
    };
    let whole = logits(&mut open(512), &ids, ids.len());
    let mut small = open(7);
    for step_from in [ids.len(), 300, 1] {
        let recorded = logits(&mut small, &ids, step_from);
        assert!(recorded.logits == whole.logits, "other logits when stepped from {step_from}");
    }
    assert!(small.state_bytes(512) < open(512).state_bytes(512), "windows take less of a long context");

    let mut session = Session::open(&mut small);
    session.sync(&mut small, &ids, &mut ()).expect("a prompt");
    let mut saved = Vec::new();
    session.save(&small, &mut saved).expect("it is saved");
    let mut restored = Session::restore(&mut small, &mut &saved[..]).expect("it comes back");
    restored.sync(&mut small, &ids, &mut ()).expect("the last token again");
    let mut fork = session.fork(&mut small, &mut ()).expect("it forks");
    let expected = continue_greedily(&mut small, &mut session, 40);
    assert_eq!(continue_greedily(&mut small, &mut fork, 40), expected, "a fork");
    assert_eq!(continue_greedily(&mut small, &mut restored, 40), expected, "a session that came back");
    for (back, computed) in [(390, 10), (200, 400)] {
        let mut other = ids[..back].to_vec();
        other.extend(ids[back..].iter().map(|id| (id + 1) % 300));
        session.sync(&mut small, &ids, &mut ()).expect("a prompt");
        let before = small.stats().prefill_tokens;
        session.sync(&mut small, &other, &mut ()).expect("another prompt");
        assert_eq!(small.stats().prefill_tokens - before, computed, "back to {back}");
        let mut fresh = Session::open(&mut small);
        fresh.sync(&mut small, &other, &mut ()).expect("the same prompt");
        let expected = continue_greedily(&mut small, &mut fresh, 5);
        assert_eq!(continue_greedily(&mut small, &mut session, 5), expected, "back to {back}");
        fresh.close(&mut small);
    }
}
