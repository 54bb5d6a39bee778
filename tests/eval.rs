//! `outpour eval`: its numbers against those of transformers' logits and of the engine's own, two models side by side, runs
//! that are stopped and go on, and what bad files get.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::cli::{Ran, assert_refused, command, outpour, wait};
use common::damage::{add_text, copy};
use common::{Npy, engine, fixture, logits, roomy};
use outpour_engine::sample::argmax;
use outpour_engine::{Engine, Numerics, Options, Session, Work, score};
use outpour_model::synth;
use outpour_store::read::ReaderKind;
use outpour_text::Tokenizer;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Log-softmax of a row, plainly.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f64::MIN, |max, &logit| max.max(logit as f64));
    let sum: f64 = row.iter().map(|&logit| (logit as f64 - max).exp()).sum();
    row.iter().map(|&logit| logit as f64 - max - sum.ln()).collect()
}

/// A small model with random weights and the text fixtures' tokenizer: every layer sparse, or with recurrent states.
fn make_model(dir: &Path, recurrent: bool) {
    let mut config = if recurrent {
        let file = fs::read(fixture("qwen3_5_moe").join("config.json")).expect("the config");
        serde_json::from_slice::<Value>(&file).expect("JSON")["text_config"].take()
    } else {
        json!({
            "model_type": "qwen3_moe", "hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64,
            "num_experts": 16, "num_experts_per_tok": 4, "norm_topk_prob": true, "max_position_embeddings": 4096,
        })
    };
    config["vocab_size"] = json!(1280);
    synth::write(&config, dir, 7).expect("the model is written");
    add_text(dir);
}

/// A folder with a model in it, and room for files beside it.
fn model() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let model = dir.path().join("model");
    make_model(&model, false);
    (dir, model)
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn lines(items: impl IntoIterator<Item = Value>) -> String {
    items.into_iter().map(|item| format!("{item}\n")).collect()
}

/// The report of `eval --json`.
fn report(model: &Path, args: &[&str]) -> Value {
    let ran = outpour("eval", model, &[args, &["--json", "--ram", "1G"]].concat());
    assert!(ran.status.success(), "{args:?}: {ran:?}");
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// A score of the report's task, of this model or of the one against it.
fn score_of(report: &Value, task: usize, of: &str, name: &str, side: &str) -> f64 {
    let scores = report["tasks"][task]["scores"].as_array().expect("scores");
    let score = scores.iter().find(|score| score["of"] == of && score["name"] == name);
    score.unwrap_or_else(|| panic!("no {of} {name} in {report:#}"))[side]["value"].as_f64().expect("a number")
}

const TEXT: &str = "Once upon a time a small fox lived in a wood. It had 12 apples, and it wanted to give them away.\n\
    \"Who wants an apple?\" it asked. The hare did, and the owl, who slept by day: größer als gedacht.\n";

#[test]
fn perplexity_is_that_of_transformers() {
    for name in ["qwen3_moe", "qwen3_moe_odd", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_mlx4"] {
        let npy = |file: &str| Npy::read(&fixture(name).join(file));
        let ids = [npy("prompt_ids.npy").ids(), npy("greedy_ids.npy").ids()].concat();
        let reference = npy("logits_full.npy");
        let vocab = reference.shape[1];
        let expected: f64 =
            reference.f32().chunks(vocab).zip(&ids[1..]).map(|(row, &next)| -log_softmax(row)[next as usize]).sum();
        let mut engine = engine(&fixture(name), &Options { precise: true, ..roomy() }, ReaderKind::Auto);
        let nats = nats_of_windows(&mut engine, &ids, ids.len());
        let perplexity = |nats: f64| (nats / (ids.len() - 1) as f64).exp();
        let off = perplexity(nats) / perplexity(expected) - 1.0;
        println!("{name}: perplexity {:.4}, {off:.1e} from that of transformers", perplexity(nats));
        assert!(off.abs() < 1e-3, "{name}: perplexity {} is {off} from {}", perplexity(nats), perplexity(expected));

        let nats = nats_of_windows(&mut engine, &ids, 16);
        let expected: f64 = score::windows(ids.len(), 16)
            .into_iter()
            .map(|window| {
                let rows = logits(&mut engine, &ids[window.tokens.clone()], window.tokens.len()).logits;
                let row = |i: usize| &rows[(i - 1 - window.tokens.start) * vocab..][..vocab];
                (window.scored_from..window.tokens.end).map(|i| -log_softmax(row(i))[ids[i] as usize]).sum::<f64>()
            })
            .sum();
        assert!((nats / expected - 1.0).abs() < 1e-9, "{name}: in windows {nats} is not {expected}");
    }
}

/// Negative log-likelihood of all tokens but the first, in windows.
fn nats_of_windows(engine: &mut Engine, ids: &[u32], window: usize) -> f64 {
    let mut nats = 0.0;
    for score::Window { tokens, scored_from } in score::windows(ids.len(), window) {
        let mut session = Session::open(engine);
        session.extend(engine, &ids[tokens.start..scored_from], Work::Prompt, &mut ()).expect("a context");
        let scored = &ids[scored_from..tokens.end];
        let mut see = |i: usize, logits: &[f32]| nats -= score::log_probability(logits, scored[i]);
        score::predictions(engine, &mut session, scored, &mut (), &mut see).expect("it computes");
        session.close(engine);
    }
    nats
}

#[test]
fn perplexity_of_a_text_file_is_that_of_its_tokens() {
    let (dir, model) = model();
    let text = write(dir.path(), "text.txt", &TEXT.repeat(3));
    let report = report(&model, &["--text", &text, "--ctx", "64", "--precise"]);
    let ids = Tokenizer::load(&model).and_then(|tokenizer| tokenizer.encode_raw(&TEXT.repeat(3))).expect("tokens");
    let mut engine = engine(&model, &Options { precise: true, ..roomy() }, ReaderKind::Auto);
    let nats = nats_of_windows(&mut engine, &ids, 64);
    let score = |name| score_of(&report, 0, "", name, "this");
    assert_eq!(score("tokens scored"), (ids.len() - 1) as f64);
    let expected = (nats / (ids.len() - 1) as f64).exp();
    assert!((score("perplexity") / expected - 1.0).abs() < 1e-9, "{} is not {expected}", score("perplexity"));
    let first = Tokenizer::load(&model).expect("a tokenizer").decode(&ids[..1]).len();
    let bits = nats / std::f64::consts::LN_2 / (TEXT.len() * 3 - first) as f64;
    assert!((score("bits per byte") / bits - 1.0).abs() < 1e-9, "{} is not {bits}", score("bits per byte"));
    assert_eq!(report["tasks"][0]["window"], 64);
}

/// Questions whose right answer is `answer(i)`.
fn questions(answer: impl Fn(usize) -> Value) -> String {
    lines((0..6).map(|i| {
        json!({
            "question": format!("What is {i} plus {}?", i + 1),
            "choices": [format!("{}", 2 * i), format!("It is {} apples", 2 * i + 1), "nothing at all", "a fox"],
            "answer": answer(i),
        })
    }))
}

#[test]
fn choices_are_those_of_the_logits() {
    for recurrent in [false, true] {
        let dir = tempfile::tempdir().expect("a folder");
        let model = dir.path().join("model");
        make_model(&model, recurrent);
        let tokenizer = Tokenizer::load(&model).expect("a tokenizer");
        let mut engine = engine(&model, &Options { precise: true, ..roomy() }, ReaderKind::Auto);
        let mut likelihood = |prompt: &str, continuation: &str| -> f64 {
            let prefix = tokenizer.encode_raw(prompt).expect("tokens").len();
            let ids = tokenizer.encode_raw(&format!("{prompt}{continuation}")).expect("tokens");
            let rows = logits(&mut engine, &ids, ids.len()).logits;
            (prefix..ids.len()).map(|i| log_softmax(&rows[(i - 1) * 1280..][..1280])[ids[i] as usize]).sum()
        };
        let likeliest = |values: &[f64]| argmax(&values.iter().map(|&x| x as f32).collect::<Vec<_>>()) as usize;
        let items: Vec<Value> =
            questions(|_| json!(0)).lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        let (mut letters, mut texts, mut by_length) = (Vec::new(), Vec::new(), Vec::new());
        for item in &items {
            let question = item["question"].as_str().expect("text");
            let choices: Vec<&str> = (0..4).map(|i| item["choices"][i].as_str().expect("text")).collect();
            let listed: String =
                choices.iter().zip("ABCD".chars()).map(|(c, letter)| format!("{letter}. {c}\n")).collect();
            let prompt = format!("{question}\n{listed}Answer:");
            letters.push(likeliest(&["A", "B", "C", "D"].map(|letter| likelihood(&prompt, &format!(" {letter}")))));
            let prompt = format!("Question: {question}\nAnswer:");
            let nats: Vec<f64> = choices.iter().map(|choice| likelihood(&prompt, &format!(" {choice}"))).collect();
            texts.push(likeliest(&nats));
            by_length.push(likeliest(&nats.iter().zip(&choices).map(|(n, c)| n / c.len() as f64).collect::<Vec<_>>()));
        }
        // The right answers are those that the model takes, but for one question.
        let file = |name: &str, taken: &[usize]| {
            write(dir.path(), name, &questions(|i| if i == 2 { json!((taken[i] + 1) % 4) } else { json!(taken[i]) }))
        };
        for (compare, taken, name) in [
            ("letters", &letters, "accuracy"),
            ("texts", &texts, "accuracy"),
            ("texts", &by_length, "accuracy by length"),
        ] {
            let file = file("questions.jsonl", taken);
            let report = report(&model, &["--choices", &file, "--compare", compare, "--precise"]);
            let accuracy = score_of(&report, 0, "", name, "this");
            assert!((accuracy - 5.0 / 6.0).abs() < 1e-12, "recurrent {recurrent}, {compare}, {name}: {accuracy}");
        }
    }
}

#[test]
fn shots_come_from_other_questions() {
    let (dir, model) = model();
    let file = write(dir.path(), "questions.jsonl", &questions(|i| json!(i % 4)));
    let with = |shots: &str, seed: &str| {
        let out = dir.path().join(format!("out-{shots}-{seed}.jsonl"));
        let out = out.to_str().expect("UTF-8");
        report(&model, &["--choices", &file, "--shots", shots, "--seed", seed, "--out", out]);
        let text = fs::read_to_string(out).expect("results");
        text.lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["choice"]["nats"].clone())
            .collect::<Vec<_>>()
    };
    assert_ne!(with("0", "0"), with("3", "0"));
    assert_ne!(with("3", "0"), with("3", "1"), "another seed draws others");
    assert_refused(
        &outpour("eval", &model, &["--choices", &file, "--shots", "6"]),
        "more shots than other questions",
        &["questions.jsonl", "--shots 6", "at most 5"],
    );
}

/// What `run` answers, greedily.
fn answer_of(model: &Path, prompt: &str, args: &[&str]) -> String {
    let ran = outpour("run", model, &[&[prompt, "--temperature", "0", "--ram", "1G"], args].concat());
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).expect("UTF-8").trim_end_matches('\n').to_owned()
}

#[test]
fn answers_are_those_of_run() {
    let (dir, model) = model();
    for (raw, args) in [(false, &["-n", "12"][..]), (true, &["-n", "12", "--raw"])] {
        let said = answer_of(&model, "Tell me a story.", args);
        let messages = json!([{"role": "user", "content": "Tell me a story."}]);
        let file = lines([
            json!({"prompt": "Tell me a story.", "expect": said, "kind": "said"}),
            json!({"prompt": "Tell me a story.", "expect": {"text": format!("  {said}\n")}, "kind": "spaced"}),
            json!({"prompt": "Tell me a story.", "expect": "something else", "kind": "else"}),
            json!({"messages": messages, "expected": said, "kind": if raw { "template" } else { "said" }}),
            json!({"prompt": "Tell me a story.", "expect": {"calls": [["f", {}]]}, "kind": "tool calls"}),
        ]);
        let file = write(dir.path(), "prompts.jsonl", &file);
        let report = report(&model, &[&["--generate", &file], args].concat());
        let right = |kind| score_of(&report, 0, kind, "right", "this");
        assert_eq!([right("said"), right("spaced"), right("else"), right("tool calls")], [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(score_of(&report, 0, "tool calls", "valid", "this"), 0.0);
    }
}

#[test]
fn given_answers_are_scored_as_the_template_writes_them() {
    let (dir, model) = model();
    let messages = json!([
        {"role": "user", "content": "How many apples?"},
        {"role": "assistant", "content": "The fox has 12 apples."},
    ]);
    let chat = json!({"messages": messages, "expect": {"number": 12}});
    let file = write(dir.path(), "chats.jsonl", &lines([chat.clone()]));
    let both = write(dir.path(), "both.jsonl", &lines([chat, json!({"kind": "text", "text": TEXT})]));
    let report = report(&model, &["--generate", &file, "--generate", &both, "--precise", "-n", "4"]);
    let prompt = "<|im_start|>user\nHow many apples?<|im_end|>\n<|im_start|>assistant\n";
    let tokenizer = Tokenizer::load(&model).expect("a tokenizer");
    let encode = |text: &str| tokenizer.encode(text, true).expect("tokens");
    let (mut ids, answer) = (encode(prompt), encode("The fox has 12 apples.<|im_end|>"));
    let from = ids.len();
    ids.extend(&answer);
    let mut engine = engine(&model, &Options { precise: true, ..roomy() }, ReaderKind::Auto);
    let rows = logits(&mut engine, &ids, ids.len()).logits;
    let nats: f64 = (from..ids.len()).map(|i| -log_softmax(&rows[(i - 1) * 1280..][..1280])[ids[i] as usize]).sum();
    let perplexity = score_of(&report, 0, "texts", "perplexity", "this");
    assert!((perplexity / (nats / answer.len() as f64).exp() - 1.0).abs() < 1e-9, "{perplexity}");
    // A line with nothing but a text is scored as a text.
    let text = tokenizer.encode_raw(TEXT).expect("tokens");
    let nats = nats + nats_of_windows(&mut engine, &text, text.len());
    let perplexity = score_of(&report, 1, "texts", "perplexity", "this");
    let expected = (nats / (answer.len() + text.len() - 1) as f64).exp();
    assert!((perplexity / expected - 1.0).abs() < 1e-9, "{perplexity} is not {expected}");
}

#[test]
fn a_model_against_itself_is_no_distance_away_and_lossy_ones_are() {
    let (dir, model) = model();
    let text = write(dir.path(), "text.txt", TEXT);
    let same = model.to_str().expect("UTF-8");
    let against = |args: &[&str]| {
        let report = report(&model, &[&["--text", &text, "--against", same], args].concat());
        let distance = |name: &str| report["divergence"][name].as_f64().expect("a number");
        let perplexities = ["this", "against"].map(|side| score_of(&report, 0, "", "perplexity", side));
        println!("{args:?}: {} {perplexities:?}", report["divergence"]);
        assert!(distance("kl_mean") <= distance("kl_max") && distance("kl_p99") <= distance("kl_max"));
        (distance("kl_mean"), distance("top1_agreement"), perplexities)
    };
    let (kl, agree, [own, other]) = against(&[]);
    assert_eq!((kl, agree), (0.0, 1.0));
    assert_eq!(own, other);
    let (rounding, agree, _) = against(&["--against-precise"]);
    assert!(rounding > 0.0 && rounding < 1e-3 && agree > 0.9, "{rounding}, {agree}");
    for kv in ["bf16", "q8"] {
        let (distance, _, _) = against(&["--kv", kv]);
        assert!(distance > 0.0 && distance < 1e-2, "{kv}: {distance}");
    }
    let (fewer, _, [own, other]) = against(&["--top-k-experts", "1"]);
    assert!(fewer > 10.0 * rounding && own != other, "{fewer}");
    // The divergence by its definition, of two runs of the engine.
    let ids = Tokenizer::load(&model).and_then(|tokenizer| tokenizer.encode_raw(TEXT)).expect("tokens");
    let rows = |options: &Options| logits(&mut engine(&model, options, ReaderKind::Auto), &ids, ids.len()).logits;
    let (precise, default) = (rows(&Options { precise: true, ..roomy() }), rows(&roomy()));
    let pairs = precise.chunks(1280).zip(default.chunks(1280)).take(ids.len() - 1);
    let total: f64 = pairs
        .map(|(p, q)| log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum::<f64>())
        .sum();
    let expected = total / (ids.len() - 1) as f64;
    assert!((rounding / expected - 1.0).abs() < 1e-3, "{rounding} is not {expected}");
}

#[test]
fn fewer_experts_are_the_model_with_that_config() {
    for name in ["qwen3_moe", "qwen3_5_moe"] {
        let edited = copy(name);
        common::damage::edit_json(&edited.path().join("config.json"), |config| {
            let text = if name == "qwen3_moe" { config } else { &mut config["text_config"] };
            text["num_experts_per_tok"] = json!(1);
        });
        let ids: Vec<u32> = (0..40).map(|i| (i * 7 + 3) % 100).collect();
        let own = logits(&mut engine(edited.path(), &roomy(), ReaderKind::Auto), &ids, 20).logits;
        let numerics = Numerics { top_k: Some(1), ..Numerics::default() };
        let inspection = outpour_engine::Inspection::open(&fixture(name), numerics).expect("it opens");
        assert!(inspection.lossy().is_some());
        let reader = outpour_store::read::open(ReaderKind::Auto).expect("a reader");
        let progress = &mut |_, _| std::ops::ControlFlow::Continue(());
        let mut cut = Engine::load(inspection, &roomy(), reader, progress).expect("it loads");
        assert!(cut.identity().contains("1 of"), "{}", cut.identity());
        let cut = logits(&mut cut, &ids, 20).logits;
        assert!(own.iter().zip(&cut).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}");
    }
    let (_dir, model) = model();
    let run = |args: &[&str]| outpour("run", &model, &[&["hi", "--raw", "-n", "2", "--ram", "1G"], args].concat());
    let ran = run(&["--top-k-experts", "2"]);
    assert!(
        ran.status.success() && ran.stderr.contains("2 of the 4 experts") && ran.stderr.contains("Lossy"),
        "{ran:?}"
    );
    assert!(run(&["--kv", "bf16"]).stderr.contains("Lossy") && run(&["--kv", "q8"]).stderr.contains("Lossy"));
    let odd = outpour("run", &fixture("qwen3_moe_odd"), &["hi", "--raw", "--kv", "q8"]);
    assert_refused(&odd, "heads of an odd width", &["--kv q8", "multiple of 32"]);
    for exact in [&["--top-k-experts", "4"][..], &["--kv", "f16"], &["--kv", "f32"]] {
        assert!(!run(exact).stderr.contains("Lossy"), "{exact:?}");
    }
    for k in ["0", "5"] {
        assert_refused(&run(&["--top-k-experts", k]), k, &["--top-k-experts", "1 to 4"]);
    }
}

/// A model and files of every kind.
fn all_kinds() -> (TempDir, PathBuf, Vec<String>) {
    let (dir, model) = model();
    let prompts = lines((0..8).map(|i| json!({"prompt": format!("Count to {i}."), "expect": {"number": i}})));
    let files = [
        ("--text", write(dir.path(), "text.txt", &TEXT.repeat(2))),
        ("--choices", write(dir.path(), "questions.jsonl", &questions(|i| json!(i % 4)))),
        ("--generate", write(dir.path(), "prompts.jsonl", &prompts)),
    ];
    let mut args: Vec<String> = files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file]).collect();
    args.extend(["--ctx", "96", "-n", "16"].map(str::to_owned));
    (dir, model, args)
}

/// A report without how many items were known.
fn scores(mut report: Value) -> Value {
    report["tasks"]
        .as_array_mut()
        .expect("tasks")
        .iter_mut()
        .for_each(|task| drop(task.as_object_mut().map(|t| t.remove("items"))));
    report
}

#[test]
fn a_stopped_run_goes_on() {
    let (dir, model, args) = all_kinds();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let unbroken = report(&model, &args);
    let out = dir.path().join("out.jsonl");
    let with_out = [&args[..], &["--out", out.to_str().expect("UTF-8")]].concat();
    let written = report(&model, &with_out);
    assert_eq!(unbroken, written);
    let whole = fs::read_to_string(&out).expect("results");
    let items = whole.lines().count();
    for keep in [whole.len() / 3, whole.len() / 2, whole.len() - 1, whole.len()] {
        fs::write(&out, &whole[..keep]).expect("cut");
        let resumed = report(&model, &with_out);
        let kept: u64 =
            (0..3).map(|task| resumed["tasks"][task]["items"]["this"]["kept"].as_u64().expect("a count")).sum();
        assert_eq!(kept as usize, whole[..keep].matches('\n').count());
        assert_eq!(scores(resumed), scores(unbroken.clone()), "{keep} bytes kept");
        assert_eq!(fs::read_to_string(&out).expect("results"), whole, "{keep} bytes kept");
    }
    let other = report(&model, &[&with_out[..], &["--top-k-experts", "2"]].concat());
    assert_eq!(other["tasks"][1]["items"]["this"]["kept"], 0, "another model's results are not taken");
    assert_eq!(fs::read_to_string(&out).expect("results").lines().count(), 2 * items);
}

#[test]
fn ctrl_c_shows_what_is_known() {
    let (dir, model) = model();
    let prompts = lines((0..2000).map(|i| json!({"prompt": format!("Count to {i}."), "expect": {"number": i}})));
    let prompts = write(dir.path(), "prompts.jsonl", &prompts);
    let out = dir.path().join("out.jsonl");
    let args = ["--generate", &prompts, "-n", "64", "--ram", "1G", "--out", out.to_str().expect("UTF-8")];
    let mut stdout = tempfile::tempfile().expect("a file");
    let child = command("eval", &model, &args)
        .stdout(stdout.try_clone().expect("a second handle"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let (began, enough) = (Instant::now(), |text: String| text.lines().count() >= 3);
    while !fs::read_to_string(&out).is_ok_and(enough) {
        assert!(began.elapsed() < Duration::from_secs(30), "no results come");
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(killed.success());
    assert_eq!(wait(child).code(), Some(130));
    let mut shown = String::new();
    std::io::Seek::rewind(&mut stdout)
        .and_then(|()| std::io::Read::read_to_string(&mut stdout, &mut shown))
        .expect("text");
    assert!(shown.contains("stopped after") && shown.contains("right"), "{shown}");
    let done = fs::read_to_string(&out).expect("results").lines().count();
    let limit = done.to_string();
    let again = report(&model, &["--generate", &prompts, "-n", "64", "--limit", &limit, "--out", args[7]]);
    assert_eq!(again["tasks"][0]["items"]["this"]["kept"], done, "nothing is lost");
}

/// Asserts that `eval` refuses a file.
fn assert_file_refused(model: &Path, flag: &str, file: &str, names: &[&str]) {
    let ran: Ran = outpour("eval", model, &[flag, file]);
    assert_refused(&ran, flag, names);
}

#[test]
fn bad_files_are_named_with_their_line() {
    let (dir, model) = model();
    let good = json!({"question": "q", "choices": ["a", "b"], "answer": 0}).to_string();
    for (line, names) in [
        ("{", &["line 2", "not JSON"][..]),
        ("[]", &["line 2", "not a JSON object"]),
        ("{}", &["line 2", "question"]),
        (r#"{"question": "q", "choices": ["a"], "answer": 0}"#, &["line 2", "1 choices"]),
        (r#"{"question": "q", "choices": ["a", 1], "answer": 0}"#, &["line 2", "no text"]),
        (r#"{"question": "q", "choices": ["a", "b"]}"#, &["line 2", "answer"]),
        (r#"{"question": "q", "choices": ["a", "b"], "answer": 2}"#, &["line 2", "answer 2"]),
        (r#"{"question": "q", "choices": ["a", "b"], "answer": "E"}"#, &["line 2", "\"E\""]),
    ] {
        let file = write(dir.path(), "bad.jsonl", &format!("{good}\n{line}\n"));
        assert_file_refused(&model, "--choices", &file, &[&["bad.jsonl"], names].concat());
    }
    let good = json!({"prompt": "p", "expect": "x"}).to_string();
    for (line, names) in [
        (r#"{"prompt": "p"}"#, &["line 3", "expect"][..]),
        (r#"{"expect": "x"}"#, &["line 3", "messages"]),
        (r#"{"prompt": "p", "messages": [], "expect": "x"}"#, &["line 3", "both"]),
        (r#"{"messages": [], "expect": "x"}"#, &["line 3", "no message"]),
        (r#"{"messages": [{}], "expect": "x"}"#, &["line 3", "role"]),
        (r#"{"messages": [{"role": "nobody", "content": "x"}], "expect": "x"}"#, &["line 3", "nobody"]),
        (r#"{"prompt": "p", "expect": {"taste": "x"}}"#, &["line 3", "taste"]),
        (r#"{"prompt": "p", "tools": 1, "expect": "x"}"#, &["line 3", "tools"]),
    ] {
        let file = write(dir.path(), "bad.jsonl", &format!("{good}\n\n{line}\n"));
        let loads = line.contains("nobody");
        let ran = outpour("eval", &model, &["--generate", &file]);
        assert_eq!(ran.status.code(), Some(2), "{line}: {ran:?}");
        // What only the template can know is found after the model was loaded, which was said.
        assert_eq!(ran.stderr.lines().count(), 1 + usize::from(loads), "{line}: {ran:?}");
        let last = ran.stderr.lines().last().unwrap_or_default();
        assert!(["bad.jsonl"].iter().chain(names).all(|name| last.contains(name)), "{line}: {last}");
    }
    let long = write(dir.path(), "long.jsonl", &lines([json!({"prompt": "word ".repeat(500), "expect": "x"})]));
    let ran = outpour("eval", &model, &["--generate", &long, "--ctx", "100"]);
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains("long.jsonl line 1") && last.contains("--ctx") && ran.status.code() == Some(2), "{ran:?}");
}

#[test]
fn calls_without_sense() {
    let (dir, model) = model();
    assert_refused(&outpour("eval", &model, &[]), "nothing to do", &["--text", "--choices", "--generate", "--suite"]);
    assert_file_refused(&model, "--text", "/nonexistent/x.txt", &["/nonexistent/x.txt"]);
    let empty = write(dir.path(), "empty.txt", " \n");
    assert_file_refused(&model, "--text", &empty, &["empty.txt", "empty"]);
    assert_file_refused(&model, "--choices", &empty, &["empty.txt", "empty"]);
    fs::write(&empty, b"one\ntwo \xff\n").expect("written");
    assert_file_refused(&model, "--text", &empty, &["empty.txt line 2", "UTF-8"]);
    let text = write(dir.path(), "text.txt", TEXT);
    let notes = write(dir.path(), "notes.txt", "my notes\n");
    let ran = outpour("eval", &model, &["--text", &text, "--out", &notes]);
    assert_refused(&ran, "--out over something else", &["notes.txt line 1", "no result"]);
    assert_eq!(fs::read_to_string(&notes).expect("it is there"), "my notes\n");
    let ran = outpour("eval", &model, &["--text", &text, "--out", "/nonexistent/out.jsonl"]);
    assert_refused(&ran, "no such folder", &["/nonexistent/out.jsonl", "cannot write"]);
    assert_refused(&outpour("eval", &model, &["--text", &text, "--ctx", "1"]), "a window of one", &["--ctx 1"]);
    let ran = outpour("eval", &model, &["--text", &text, "--against-precise"]);
    assert!(ran.status.code() == Some(2) && ran.stderr.contains("--against"), "{ran:?}");
    let ran = outpour("eval", &model, &["--text", &text, "--against", "/nonexistent"]);
    assert_refused(&ran, "no other model", &["/nonexistent"]);
    let other = dir.path().join("other");
    synth::write(
        &json!({
            "model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
            "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 64,
            "num_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 4096, "vocab_size": 1300,
        }),
        &other,
        1,
    )
    .expect("a model");
    add_text(&other);
    let ran = outpour("eval", &model, &["--text", &text, "--against", other.to_str().expect("UTF-8")]);
    assert_refused(&ran, "another vocabulary", &["--against", "1300", "1280"]);
}
