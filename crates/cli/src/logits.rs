//! `logits`: the logits after every token, for comparing with other engines.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use outpour_engine::{Engine, EngineError, Observer, Progress, SequenceId, Session, Work};
use outpour_model::Facts;

use crate::args::LogitsArgs;
use crate::npy::{self, WholeOrNothing};
use crate::{model, term};

/// Writes logits and routes.
///
/// # Errors
/// One line about the model, the flags or the files; nothing half-written is left.
pub fn logits(args: &LogitsArgs) -> Result<ExitCode> {
    let inspection = model::open(&args.model, &args.load)?;
    let tokens = args.ids.len();
    let mut options = model::options(&args.load, inspection.checkpoint())?;
    if args.routes.is_some() {
        options.beside += Routes::bytes(tokens, inspection.facts());
    }
    let step_from = args.step_from.unwrap_or(tokens);
    if step_from == 0 || step_from > tokens {
        bail!("--step-from {step_from} is not between 1 and the {tokens} tokens of --ids");
    }
    let facts = inspection.facts().clone();
    model::check_tokens(&args.ids, &facts).context("--ids")?;
    let plan = inspection.plan(&options)?;
    if tokens > plan.ctx {
        return Err(EngineError::ContextFull { tokens, ctx: plan.ctx, ctx_max: facts.context_max }.into());
    }
    let absolute = |path: &Path| std::path::absolute(path).ok();
    if args.routes.as_deref().is_some_and(|routes| absolute(routes) == absolute(&args.out)) {
        bail!("--routes and --out name the same file; give two names");
    }
    let inputs = model::own_files(inspection.checkpoint());
    let mut out = WholeOrNothing::create(&args.out, &inputs)?;
    let create = |path: &std::path::PathBuf| WholeOrNothing::create(path, &inputs);
    let routes_out = args.routes.as_ref().map(create).transpose()?;
    out.write(&npy::header_f32(tokens, facts.vocab))?;
    term::catch_interrupt()?;
    let mut engine = model::load(inspection, &options, args.load.reader())?;
    let mut record = Record { out, failed: None, routes: routes_out.is_some().then(|| Routes::new(&facts)) };
    compute(&mut engine, &args.ids, step_from, &mut record)?;
    if let Some(error) = record.failed {
        return Err(error);
    }
    if let (Some(mut file), Some(routes)) = (routes_out, record.routes) {
        routes.write(&mut file)?;
        file.finish()?;
    }
    record.out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The tokens before `step_from` as a prompt, the rest one at a time through [`Session::step`].
fn compute(engine: &mut Engine, ids: &[u32], step_from: usize, record: &mut Record) -> Result<()> {
    let mut session = Session::open(engine);
    session.extend(engine, &ids[..step_from], Work::PromptWithLogits, record)?;
    for &next in &ids[step_from..] {
        session.step(engine, record, &mut |_, _| next)?;
        let logits = session.logits(engine, record)?.to_vec();
        record.row(&logits);
    }
    session.close(engine);
    Ok(())
}

/// Takes down what the engine shows.
struct Record {
    out: WholeOrNothing,
    /// The first row that could not be written.
    failed: Option<anyhow::Error>,
    routes: Option<Routes>,
}

impl Record {
    fn row(&mut self, logits: &[f32]) {
        if self.failed.is_none() {
            let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
            self.failed = self.out.write(&bytes).err();
        }
    }
}

impl Observer for Record {
    fn logits(&mut self, _: SequenceId, _: usize, logits: &[f32]) {
        self.row(logits);
    }

    fn routes(&mut self, layer: usize, _: &[u32], choice: &[i32], weights: &[f32]) {
        if let Some(routes) = &mut self.routes {
            routes.add(layer, choice, weights);
        }
    }

    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        if term::stopped() || self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Chosen experts and weights by layer, in the order of positions.
struct Routes {
    top_k: usize,
    layers: Vec<(Vec<i32>, Vec<f32>)>,
}

impl Routes {
    /// What the routes of so many tokens take in memory.
    fn bytes(tokens: usize, facts: &Facts) -> usize {
        // A vector that grows holds up to twice its length, and thrice while it moves.
        3 * tokens * facts.layers * facts.top_k * 8
    }

    fn new(facts: &Facts) -> Self {
        Routes { top_k: facts.top_k, layers: vec![Default::default(); facts.layers] }
    }

    fn add(&mut self, layer: usize, choice: &[i32], weights: &[f32]) {
        self.layers[layer].0.extend_from_slice(choice);
        self.layers[layer].1.extend_from_slice(weights);
    }

    /// `{"layers": [{"layer": l, "experts": [[..]], "weights": [[..]]}]}`, one position a row.
    fn write(&self, file: &mut WholeOrNothing) -> Result<()> {
        let sparse = self.layers.iter().enumerate().filter(|(_, (experts, _))| !experts.is_empty());
        file.write(b"{\"layers\": [")?;
        for (i, (layer, (experts, weights))) in sparse.enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            file.write(format!("{comma}{{\"layer\": {layer}, \"experts\": [").as_bytes())?;
            write_rows(file, experts.chunks(self.top_k))?;
            file.write(b"], \"weights\": [")?;
            write_rows(file, weights.chunks(self.top_k))?;
            file.write(b"]}")?;
        }
        file.write(b"]}\n")
    }
}

fn write_rows<'a, T: serde::Serialize + 'a>(
    file: &mut WholeOrNothing,
    rows: impl Iterator<Item = &'a [T]>,
) -> Result<()> {
    for (i, row) in rows.enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        file.write(format!("{comma}{}", serde_json::to_string(row)?).as_bytes())?;
    }
    Ok(())
}
