//! `eval`: what a model can do, and what its numbers cost. Files become tasks ([`items`]), a model computes them
//! ([`measure`]), answers are judged ([`judge`]), and the scores of one model or of two side by side are shown ([`report`]).

mod items;
mod judge;
mod measure;
mod reference;
mod report;
mod results;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use outpour_engine::{EngineError, Inspection, Numerics};
use outpour_store::bytes::Bytes;

use crate::args::{EvalArgs, SuiteArg};
use crate::{builtin, model, term};
use items::{Task, What};
use measure::{Divergence, Measured, Measuring};
use reference::Reference;
use results::Results;

/// Longest window of a text where --ctx does not say, so that machines of different memory measure the same.
const WINDOW_DEFAULT: usize = 2048;

/// Runs the tasks and shows the scores.
///
/// # Errors
/// One line about the model, the flags or a line of a file.
pub fn eval(args: &EvalArgs) -> Result<ExitCode> {
    let tasks = tasks(args)?;
    let mut results = Results::open(args.out.as_deref())?;
    check(args)?;
    term::catch_interrupt()?;
    let (numerics, precise) = (args.load.numerics(), args.load.precise);
    let own = Side { dir: &args.model, mirrors: &args.load.mirror, numerics, precise };
    let other = args.against.as_deref().map(|dir| Side {
        dir,
        mirrors: &[],
        numerics: Numerics::from(args.against_precise),
        precise: args.against_precise,
    });
    if let Some(other) = &other {
        check_comparable(&own, other)?;
    }
    let mut reference = other.as_ref().map(|_| Reference::create(&outpour_store::machine::cache_dir())).transpose()?;
    let mut sides = Vec::new();
    let mut divergence = None;
    for (side, is_other) in other.iter().map(|other| (other, true)).chain([(&own, false)]) {
        let divergence_of = match (&mut reference, is_other) {
            (None, _) => Divergence::None,
            (Some(reference), true) => Divergence::Keep(reference),
            (Some(reference), false) => Divergence::Compare(reference, Default::default()),
        };
        let (measured, apart) = side.run(args, &tasks, divergence_of, &mut results)?;
        let finished = measured.finished;
        sides.push((is_other, measured));
        divergence = apart;
        if !finished {
            break;
        }
    }
    let other = sides.iter().find(|(is_other, _)| *is_other).map(|(_, measured)| measured);
    let own = sides.iter().find(|(is_other, _)| !*is_other).map(|(_, measured)| measured);
    let report = report::Report::new(&tasks, own, other, divergence.as_ref());
    term::show(&if args.json { format!("{:#}\n", report.json()) } else { report.table() })?;
    let finished = sides.iter().all(|(_, measured)| measured.finished);
    Ok(if finished { ExitCode::SUCCESS } else { ExitCode::from(term::INTERRUPTED) })
}

/// Reads the files before anything is computed, so that a fault in them is known at once.
fn tasks(args: &EvalArgs) -> Result<Vec<Task>> {
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let mut tasks = Vec::new();
    for file in &args.text {
        tasks.push(items::text(file)?);
    }
    for file in &args.choices {
        tasks.push(items::choices(file, limit, args.shots.into(), args.compare, args.seed)?);
    }
    let suite = args.suite.map(|SuiteArg::Demo| builtin::heldout()).transpose()?;
    for file in suite.iter().chain(&args.generate) {
        tasks.push(items::answers(file, limit)?);
    }
    if tasks.is_empty() {
        bail!(
            "nothing to measure: give --text, --choices, --generate or --suite; `outpour help eval` says what they are"
        );
    }
    Ok(tasks)
}

/// What flags cannot mean.
fn check(args: &EvalArgs) -> Result<()> {
    if args.load.ctx.is_some_and(|ctx| ctx < 2) {
        bail!(
            "--ctx {}: something predicted and something before it are 2 tokens at least",
            args.load.ctx.unwrap_or(0)
        );
    }
    Ok(())
}

/// Checks, before anything is computed, that both models are there and have one vocabulary.
fn check_comparable(own: &Side, other: &Side) -> Result<()> {
    let vocab = |side: &Side| Inspection::open(side.dir, side.numerics).map(|inspection| inspection.facts().vocab);
    let (own_vocab, other_vocab) = (vocab(own)?, vocab(other)?);
    if own_vocab != other_vocab {
        bail!(
            "--against {}: has a vocabulary of {other_vocab} tokens, and {} one of {own_vocab}; give a model of the same tokenizer",
            other.dir.display(),
            own.dir.display()
        );
    }
    Ok(())
}

/// A model and its numbers.
struct Side<'a> {
    dir: &'a Path,
    mirrors: &'a [PathBuf],
    numerics: Numerics,
    precise: bool,
}

impl Side<'_> {
    /// Loads the model, in all of the memory, and computes the tasks.
    fn run(
        &self,
        args: &EvalArgs,
        tasks: &[Task],
        divergence: Divergence,
        results: &mut Results,
    ) -> Result<(Measured, Option<measure::Apart>)> {
        let inspection = Inspection::open_mirrored(self.dir, self.mirrors, self.numerics)?;
        let mut options = model::options(&args.load, inspection.checkpoint())?;
        options.precise = self.precise;
        options.beside += results.bytes() + tasks.iter().map(Task::bytes).sum::<usize>();
        options.beside += ROWS * 8 * inspection.facts().vocab;
        // The same window on every machine, and for both models of a comparison: without --ctx, memory decides on the context.
        let window = args.load.ctx.unwrap_or(WINDOW_DEFAULT.min(inspection.facts().context_max));
        let has_texts = |task: &Task| match &task.what {
            What::Text(_) => true,
            What::Choices(..) => false,
            What::Answers(_, texts) => !texts.is_empty(),
        };
        if tasks.iter().any(has_texts) && inspection.plan(&options)?.ctx < window {
            options.ctx = Some(window);
        }
        let tokenizer = model::tokenizer_of(inspection.checkpoint())?;
        let stop_tokens = model::stop_tokens(&inspection, &tokenizer)?;
        let template = model::template(inspection.checkpoint(), &tokenizer)?;
        let engine = model::load(inspection, &options, args.load.reader())?;
        term::note(&format!("{}: {}, in {}", self.dir.display(), engine.identity(), Bytes(options.ram as u64)));
        Measuring {
            identity: engine.identity().to_owned(),
            dir: self.dir.to_owned(),
            engine,
            tokenizer,
            template,
            stop_tokens,
            window,
            limit: args.limit.map_or(usize::MAX, |limit| limit as usize),
            answer_tokens_max: args.max_tokens as usize,
            raw: args.raw,
            divergence,
            results,
        }
        .run(tasks)
    }
}

/// Rows of logits that are held beside the engine's own.
const ROWS: usize = 3;

/// Whether a failure is Ctrl-C.
fn is_interrupt(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(EngineError::Cancelled))
}
