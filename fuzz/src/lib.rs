//! What the targets do with an input. Nothing may panic, whatever it is; `tests/corpus` does the same with the corpus.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use outpour_engine::{Inspection, Options};
use outpour_model::synth::{self, Format};
use outpour_store::checkpoint::Checkpoint;
use outpour_text::{ChatRequest, ChatTemplate, Detokenizer, Tokenizer};
use serde_json::{Map, json};

/// This process's folder for a target: in memory where the system has such a place, for every input is a file once.
pub fn folder(target: &str) -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = parent.join(format!("outpour-fuzz-{target}-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A file that begins with `data` and has zeros behind, up to `bytes`: a header is small where weights need no bytes.
fn write(path: &Path, data: &[u8], bytes: u64) {
    let mut file = File::create(path).expect("a file");
    file.write_all(data).expect("it is written");
    file.set_len(bytes.max(data.len() as u64)).expect("it is longer");
}

/// The config and the length of the weight file of a fixture.
macro_rules! fixture {
    ($name:literal) => {
        (
            include_str!(concat!("../../tests/fixtures/", $name, "/config.json")),
            include_bytes!(concat!("../../tests/fixtures/", $name, "/model.safetensors")).len() as u64,
        )
    };
}

/// One of each format.
const FIXTURES: [(&str, u64); 8] = [
    fixture!("qwen3_moe_odd"),
    fixture!("qwen3_moe_mlx_fp4"),
    fixture!("qwen3_moe_fp8"),
    fixture!("gpt_oss_mxfp4"),
    fixture!("qwen3_moe_nvfp4"),
    fixture!("glm4_moe_compressed"),
    fixture!("qwen3_moe_gptq"),
    fixture!("qwen3_5_moe_mlx4"),
];

/// A weight file, from its header on, of the fixture that the first byte names (`0` is the first): whatever it says, it is opened or
/// refused.
pub fn safetensors(data: &[u8]) {
    static FOLDERS: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
        let made = |(i, (config, _)): (usize, &(&str, u64))| {
            let folder = folder("safetensors").join(i.to_string());
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join("config.json"), config).expect("a file");
            folder
        };
        FIXTURES.iter().enumerate().map(made).collect()
    });
    let Some((which, header)) = data.split_first() else { return };
    let which = usize::from(which.wrapping_sub(b'0')) % FIXTURES.len();
    write(&FOLDERS[which].join("model.safetensors"), header, FIXTURES[which].1);
    if let Err(error) = Inspection::open(&FOLDERS[which], false) {
        assert!(!error.to_string().is_empty());
    }
}

/// A GGUF file, from its header on: whatever it says, its model is opened or refused, and so is its tokenizer.
pub fn gguf(data: &[u8]) {
    static FILE: LazyLock<PathBuf> = LazyLock::new(|| folder("gguf").join("model.gguf"));
    // The length of the largest fixture.
    write(&FILE, data, 396_480);
    let Ok(checkpoint) = Checkpoint::open(&FILE) else { return };
    if let Some(metadata) = checkpoint.gguf() {
        for key in ["tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"] {
            // What is no list of that kind is refused.
            let _ = (metadata.texts(key), metadata.numbers(key));
        }
    }
    let _ = Inspection::open(&FILE, false);
}

/// A config.json alone: whatever it says, its model is laid out, opened and planned, or refused.
pub fn config(data: &[u8]) {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| folder("config"));
    let Ok(config) = serde_json::from_slice(data) else { return };
    let Ok(format) = Format::of_config(&config) else { return };
    let made = FOLDER.join("model");
    if synth::outline(&config, format, &made).is_ok()
        && let Ok(inspection) = Inspection::open(&made, false)
    {
        let _ = inspection.plan(&Options { ram: 8 << 30, ctx: None, threads: Some(1), ..Options::default() });
    }
    if made.exists() {
        fs::remove_dir_all(&made).expect("what was made");
    }
}

/// Words, signs, letters of several bytes, a control token and white space.
const TEXT: &str = " The river\n\n  ran 12.5 km; don't <|im_end|>\t你好 e\u{301} 👩‍👩‍👧 \u{0}x";

/// A tokenizer's file, its kind by the first byte: refused, or it takes texts to ids and back.
pub fn tokenizer(data: &[u8]) {
    let Some((kind, file)) = data.split_first() else { return };
    let read = match kind {
        b'j' => Tokenizer::from_json(file, None),
        b'r' => Tokenizer::from_tiktoken("tiktoken.model", file, None),
        b't' => Tokenizer::from_tekken("tekken.json", file, None),
        b's' => Tokenizer::from_sentencepiece("tokenizer.model", file, None),
        _ => return,
    };
    let Ok(tokenizer) = read else { return };
    let ids = tokenizer.encode(TEXT, true).expect("it is short");
    let mut stream = Detokenizer::new(&tokenizer, false);
    let mut text: String = ids.iter().map(|&id| stream.push(&tokenizer, id).to_owned()).collect();
    text.push_str(stream.finish());
    assert_eq!(text, tokenizer.decode(&ids));
}

/// A chat template: refused, or it renders a conversation or says why not, within its limits.
pub fn template(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let config = json!({"bos_token": "<s>", "eos_token": "</s>"});
    let config: Map<_, _> = config.as_object().cloned().unwrap_or_default();
    let Ok(template) = ChatTemplate::from_source(source, &config) else { return };
    let messages = json!([
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the weather?"},
        {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [{"type": "function",
            "id": "a", "function": {"name": "weather", "arguments": {"city": "Paris", "days": [1, 2.5, null]}}}]},
        {"role": "tool", "tool_call_id": "a", "content": "rain"},
        {"role": "user", "content": "Thanks 🎉"},
    ]);
    let tools = json!([{"type": "function", "function": {"name": "weather", "description": "x",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]);
    for tools in [None, tools.as_array().cloned()] {
        let request = ChatRequest {
            messages: messages.as_array().cloned().unwrap_or_default(),
            tools,
            add_generation_prompt: true,
            kwargs: Map::new(),
            now_s: Some(1_772_600_000),
        };
        if let Ok(prompt) = template.render(&request) {
            assert!(prompt.len() <= ChatTemplate::OUTPUT_BYTES_MAX);
        }
    }
}
