//! `logits`: the logits after every token, for comparing with other engines.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use outpour_engine::{Engine, EngineError, Inspection, Observer, Progress, SequenceId, Session};
use serde_json::{Value, json};

use crate::args::LogitsArgs;
use crate::npy::{self, WholeOrNothing};
use crate::{model, term};

/// Writes logits and routes.
///
/// # Errors
/// One line about the model, the flags or the files; nothing half-written is left.
pub fn logits(args: &LogitsArgs) -> Result<ExitCode> {
    let inspection = Inspection::open(&args.model, args.load.precise)?;
    let options = model::options(&args.load, inspection.checkpoint().dir())?;
    let tokens = args.ids.len();
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
    let mut out = WholeOrNothing::create(&args.out)?;
    let routes_out = args.routes.as_deref().map(WholeOrNothing::create).transpose()?;
    out.write(&npy::header_f32(tokens, facts.vocab))?;
    term::catch_interrupt()?;
    let mut engine = model::load(inspection, &options, args.load.reader())?;
    let mut record = Record { out, failed: None, routes: routes_out.is_some().then(|| Routes::new(facts.layers)) };
    compute(&mut engine, &args.ids, step_from, &mut record)?;
    if let Some(error) = record.failed {
        return Err(error);
    }
    if let (Some(mut file), Some(routes)) = (routes_out, record.routes) {
        file.write(routes.json().to_string().as_bytes())?;
        file.finish()?;
    }
    record.out.finish()?;
    Ok(ExitCode::SUCCESS)
}

/// The tokens before `step_from` as a prompt, the rest one at a time through [`Session::step`].
fn compute(engine: &mut Engine, ids: &[u32], step_from: usize, record: &mut Record) -> Result<()> {
    let mut session = Session::open(engine);
    session.extend(engine, &ids[..step_from], true, record)?;
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

    fn routes(&mut self, layer: usize, positions: &[u32], choice: &[i32], weights: &[f32]) {
        if let Some(routes) = &mut self.routes {
            routes.add(layer, positions.len(), choice, weights);
        }
    }

    fn progress(&mut self, _: Progress) -> ControlFlow<()> {
        if term::stopped() || self.failed.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Chosen experts and weights by layer, in the order of positions.
struct Routes(Vec<(Vec<Value>, Vec<Value>)>);

impl Routes {
    fn new(layers: usize) -> Self {
        Routes((0..layers).map(|_| (Vec::new(), Vec::new())).collect())
    }

    fn add(&mut self, layer: usize, positions: usize, choice: &[i32], weights: &[f32]) {
        let top_k = choice.len() / positions;
        self.0[layer].0.extend(choice.chunks(top_k).map(|experts| json!(experts)));
        self.0[layer].1.extend(weights.chunks(top_k).map(|weights| json!(weights)));
    }

    fn json(&self) -> Value {
        let sparse = self.0.iter().enumerate().filter(|(_, (experts, _))| !experts.is_empty());
        let layers: Vec<Value> = sparse
            .map(|(layer, (experts, weights))| json!({"layer": layer, "experts": experts, "weights": weights}))
            .collect();
        json!({ "layers": layers })
    }
}
