//! Weight files that change while an answer is made: the text so far, then one line with the file and the cause.

use std::io::Read;
use std::process::Stdio;

use outpour_model::synth;

use super::common::cli::{command, wait};
use super::*;

/// Its weight file.
const WEIGHTS: &str = "model-00001-of-00001.safetensors";

/// A model whose experts are mostly read anew for each token: 4 layers of 32 experts of 144 KiB.
fn streamed_model() -> tempfile::TempDir {
    let model = tempfile::tempdir().expect("a folder");
    let config = json!({
        "model_type": "qwen3_moe", "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "intermediate_size": 64, "moe_intermediate_size": 128,
        "num_experts": 32, "num_experts_per_tok": 4, "norm_topk_prob": true, "vocab_size": 1280,
        "max_position_embeddings": 32768,
    });
    synth::write(&config, model.path(), 3).expect("the model is written");
    damage::add_text(model.path());
    model
}

/// Changes the weight file under a running answer that is to have `tokens`; returns how the program ended and both its streams.
fn changed_under(model: &Path, reader: &str, tokens: &str, change: impl Fn(&Path)) -> (Option<i32>, String, String) {
    let file = model.join(WEIGHTS);
    let ram = outpour("plan", model, &["--ctx", "32768", "--prefill-chunk", "16", "--ram", "0"]).stderr;
    let minimum = ram.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the minimum");
    let args = ["Once", "--raw", "--ignore-eos", "--ctx", "32768", "--prefill-chunk", "16", "--seed", "1"];
    let args = [&args[..], &["-n", tokens, "--ram", minimum, "--reader", reader]].concat();
    let mut command = command("run", model, &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let (mut stdout, mut stderr) = (child.stdout.take().expect("a pipe"), child.stderr.take().expect("a pipe"));
    let mut text = vec![0; 64];
    stdout.read_exact(&mut text).expect("the answer begins");
    change(&file);
    stdout.read_to_end(&mut text).expect("the answer ends");
    let mut said = String::new();
    stderr.read_to_string(&mut said).expect("messages");
    (wait(child).code(), String::from_utf8(text).expect("no character is cut"), said)
}

/// Changes the weight file under a running answer, which fails; returns its text and the cause.
fn changed_while_running(reader: &str, change: fn(&Path)) -> (String, String) {
    let model = streamed_model();
    let (code, text, said) = changed_under(model.path(), reader, "30000", change);
    assert_eq!(code, Some(1), "{said}");
    println!("{said}");
    assert_eq!(besides_costs(&said).len(), 2, "what does not fit, and the cause: {said}");
    assert!(said.contains("generated tokens (failed)") && !said.contains("panicked"), "{said}");
    assert!(text.ends_with('\n'), "the text so far ends its line");
    let cause = said.lines().last().unwrap_or_default().to_owned();
    let file = model.path().join(WEIGHTS);
    assert!(cause.starts_with("outpour: ") && cause.contains(file.to_str().expect("UTF-8")), "{cause}");
    (text, cause)
}

/// What updates a file writes another one beside it and puts that in its place: the answer goes on with the old one.
#[test]
fn a_file_that_is_replaced() {
    let model = streamed_model();
    let (code, expected, said) = changed_under(model.path(), "pread", "400", |_| ());
    assert_eq!(code, Some(0), "{said}");
    let (code, text, said) = changed_under(model.path(), "pread", "400", |file| {
        let other = file.with_extension("other");
        let mut bytes = fs::read(file).expect("it is read");
        bytes.iter_mut().skip(1 << 16).for_each(|byte| *byte ^= 0x5a);
        fs::write(&other, bytes).and_then(|()| fs::rename(&other, file)).expect("replaced");
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(text == expected, "the answer is another one");
}

#[test]
fn a_file_that_is_cut_short() {
    for reader in ["uring", "pread"] {
        if reader == "uring" && outpour_store::read::open(outpour_store::read::ReaderKind::Uring).is_err() {
            println!("SKIPPED: no io_uring here");
            continue;
        }
        let (_, cause) = changed_while_running(reader, |file| {
            fs::File::options().write(true).open(file).and_then(|file| file.set_len(1 << 20)).expect("cut short");
        });
        assert!(cause.contains("changed while it was in use") && cause.contains("became 1048576"), "{cause}");
    }
}

#[test]
fn a_file_that_is_written_to() {
    let (_, cause) = changed_while_running("pread", |file| {
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(file).expect("opened");
        file.write_all_at(&[0x55], 2 << 20).expect("written");
    });
    assert!(cause.contains("changed while it was in use") && cause.contains("written to"), "{cause}");
}
