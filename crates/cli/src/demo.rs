//! `demo`: the built-in model tells a story and calls a tool, in memory that holds a part of its experts.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use outpour_store::bytes::Bytes;
use outpour_text::{ChatRequest, StopStrings};
use serde_json::{Value, json};

use crate::args::{DemoArgs, LoadArgs, SamplingArgs};
use crate::generation::Generation;
use crate::run::{self, Output};
use crate::{builtin, model, term};

/// Holds six in ten of the experts.
const RAM_DEFAULT: Bytes = Bytes(24 << 20);
const STORY: &str = "Tell me a story about a fox.";
/// Greedy stories give their characters odd names; this one is drawn as the model's own defaults say.
const STORY_SEED: u64 = 3;
const CALL: &str = "Wake me at 06:45 on Monday.";

/// Runs the demo.
///
/// # Errors
/// When the model cannot be laid out in the cache folder, or `--ram` is too small.
pub fn demo(args: &DemoArgs) -> Result<ExitCode> {
    if !args.load.mirror.is_empty() {
        bail!("--mirror names a copy of a model, and the demo brings its own; leave it out");
    }
    term::catch_interrupt()?;
    let dir = builtin::folder()?;
    let load = LoadArgs { ram: Some(args.load.ram.unwrap_or(RAM_DEFAULT)), ..args.load.clone() };
    let inspection = model::open(&dir, &load)?;
    let plan = inspection.plan(&model::options(&load, inspection.checkpoint())?)?;
    let bytes: u64 = inspection.checkpoint().files().iter().map(|file| file.bytes()).sum();
    term::note(&format!(
        "demo: a Qwen3.5-MoE of 14.8 million parameters and {}, trained for this. In {} of memory {} of its {} experts fit; \
         the others are read from the drive when the router picks them.",
        Bytes(bytes),
        Bytes(plan.ram as u64),
        plan.expert_slots.min(inspection.layout.experts_total()),
        inspection.layout.experts_total()
    ));
    drop(inspection);
    term::note(&format!("\n> {STORY}"));
    let story = SamplingArgs { seed: args.sampling.seed.or(Some(STORY_SEED)), ..args.sampling.clone() };
    let ended = answer(&dir, &load, args.max_tokens, request(STORY, None), &story)?;
    if ended != ExitCode::SUCCESS {
        return Ok(ended);
    }
    term::note(&format!("\n> {CALL}   (it has two tools: get_weather and set_alarm)"));
    let greedy = SamplingArgs { temperature: args.sampling.temperature.or(Some(0.0)), ..args.sampling.clone() };
    answer(&dir, &load, args.max_tokens, request(CALL, Some(tools())), &greedy)
}

fn request(question: &str, tools: Option<Vec<Value>>) -> ChatRequest {
    let kwargs = [("enable_thinking".to_owned(), Value::Bool(false))].into_iter().collect();
    let messages = vec![json!({"role": "user", "content": question})];
    ChatRequest { messages, tools, add_generation_prompt: true, kwargs, ..ChatRequest::default() }
}

fn tools() -> Vec<Value> {
    let tool = |name: &str, what: &str, properties: Value, required: &[&str]| {
        let parameters = json!({"type": "object", "properties": properties, "required": required});
        json!({"type": "function", "function": {"name": name, "description": what, "parameters": parameters}})
    };
    let text = |what: &str| json!({"type": "string", "description": what});
    vec![
        tool("get_weather", "Get the weather of a city", json!({"city": text("Name of the city")}), &["city"]),
        tool(
            "set_alarm",
            "Set an alarm",
            json!({"time": text("Time as HH:MM"), "day": text("Day of the week")}),
            &["time"],
        ),
    ]
}

/// Answers with nothing in memory from an earlier answer.
fn answer(
    dir: &Path,
    load: &LoadArgs,
    tokens_max: usize,
    request: ChatRequest,
    sampling: &SamplingArgs,
) -> Result<ExitCode> {
    let inspection = model::open(dir, load)?;
    let tokenizer = model::tokenizer_of(inspection.checkpoint())?;
    let template =
        model::template(inspection.checkpoint(), &tokenizer)?.context("the built-in model has no template")?;
    let generation = Generation {
        tokens: tokenizer.encode(&template.render(&request)?, true)?,
        mark: None,
        tokens_max,
        stop_tokens: model::stop_tokens(&inspection, &tokenizer)?,
        stop_strings: StopStrings::new(Vec::new())?,
        shown: Vec::new(),
        sampling: model::sampling(&inspection, sampling)?,
    };
    let options = model::options(load, inspection.checkpoint())?;
    let mut engine = model::load(inspection, &options, load.reader())?;
    run::answer(generation, Output::new(None), &mut engine, &tokenizer)
}
