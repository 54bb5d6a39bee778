//! `plan`: the size of every buffer for a given `--ram`, and the tokens a second to expect, before anything is loaded.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use outpour_engine::forecast::{self, Forecast, Speed};
use outpour_engine::profile::{DriveRate, Profile};
use outpour_engine::{Inspection, rehearsal};
use outpour_hub::Settings;
use outpour_store::bytes::{Bytes, Rate};
use outpour_store::layout::ExpertId;
use outpour_store::plan::Plan;
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::outline::Outline;
use crate::term::INTERRUPTED;
use crate::{model, term};

/// How long computing a token, and a prompt, is rehearsed.
const REHEARSAL_TIME: Duration = Duration::from_millis(800);

/// Shows the plan. Of a model of which there are `headers_only`, the drive is measured with other bytes.
///
/// # Errors
/// When the memory is too small: one line with the minimum and what uses it.
pub fn plan(args: &PlanArgs, headers_only: bool) -> Result<ExitCode> {
    check(args)?;
    term::catch_interrupt()?;
    let outline = Outline::of(&args.model, args.format)?;
    let dir = outline.as_ref().map_or(args.model.as_path(), Outline::dir);
    let inspection = model::open(dir, &args.load)?;
    let context_max = inspection.facts().context_max;
    for (flag, tokens) in [("-p", args.prompt), ("-n", args.generate)] {
        if tokens > context_max {
            bail!("{flag} {tokens} is longer than this model's context of {context_max}; give at most {context_max}");
        }
    }
    let mut options = model::options(&args.load, inspection.checkpoint())?;
    options.beside += model::states_bytes(&args.states, &inspection);
    let plan = inspection.plan(&options)?;
    let (drive, drive_from) = drive(args, &inspection, headers_only || outline.is_some())?;
    term::note("Rehearsing this model's computing on this machine, without its weights, for some seconds.");
    let extent = rehearsal::Extent {
        prompt_tokens: args.prompt,
        prompt_chunk: plan.chunk,
        context: (args.generate / 2).min(plan.ctx.saturating_sub(1)),
        budget: REHEARSAL_TIME,
    };
    if term::stopped() {
        return Ok(ExitCode::from(INTERRUPTED));
    }
    // A layer of a large model takes long.
    term::end_at_interrupt();
    let rehearsal = inspection.rehearse(&options, extent)?;
    let ask = forecast::Ask { prompt_tokens: args.prompt, answer_tokens: args.generate, hit_rate: args.hit_rate };
    let forecast = forecast::forecast(&inspection, &plan, &rehearsal, &drive, ask);
    let experts = inspection.layout.experts_total();
    let layout = inspection.model().state_layout();
    let state_bytes = [layout.fixed_bytes(), layout.bytes_per_token()];
    let (sweep_tokens, estimated) = (inspection.sweep_tokens(&plan), outline.is_some());
    let serve_bytes = outpour_serve::serve_bytes(inspection.facts().vocab);
    let plan = &plan;
    let shown =
        Shown { args, state_bytes, serve_bytes, plan, sweep_tokens, experts, forecast, drive, drive_from, estimated };
    term::show(&if args.json { format!("{:#}\n", shown.report()) } else { shown.describe() })?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &PlanArgs) -> Result<()> {
    match args {
        PlanArgs { hit_rate: Some(rate), .. } if !(0.0..=1.0).contains(rate) => {
            bail!("--hit-rate {rate} is no share; give a number from 0 to 1")
        }
        PlanArgs { prompt: 0, .. } => bail!("-p 0 is no prompt; give at least 1"),
        PlanArgs { generate: 0, .. } => bail!("-n 0 is no answer; give at least 1"),
        _ => Ok(()),
    }
}

/// What the drive gives in a second, and how that is known.
fn drive(args: &PlanArgs, inspection: &Inspection, outlined: bool) -> Result<(DriveRate, &'static str)> {
    if let Some(Rate(rate)) = args.drive {
        return Ok((DriveRate::constant(rate), "given"));
    }
    let profile = Profile::load().unwrap_or_else(|error| {
        term::note(&format!("{error}. Going on without."));
        None
    });
    // What is not here yet would be downloaded into the cache.
    let place = if outlined { Settings::from_env()?.cache } else { args.model.clone() };
    if let Some(known) = profile.as_ref().and_then(|profile| profile.drive_for(&place)) {
        return Ok((known.rate(), "measured by doctor"));
    }
    let layout = &inspection.layout;
    let (top_k, reader) = (inspection.facts().top_k, args.load.reader());
    let Some(layer) = (0..layout.layers()).find(|&layer| layout.experts(layer) > 0) else {
        return Ok((DriveRate::constant(f64::INFINITY), "not needed"));
    };
    if outlined {
        let expert = layout.expert_bytes(ExpertId { layer: layer as u32, expert: 0 });
        return Ok((model::measure_drive_at(&place, u32::try_from(expert)?, top_k, reader)?, "measured now"));
    }
    term::note("Measuring the drive with the model's own experts for two seconds.");
    Ok((model::measure_drive(inspection.checkpoint().files(), layout, top_k, reader)?, "measured now"))
}

struct Shown<'a> {
    args: &'a PlanArgs,
    /// Of a state: bytes however short it is, and for each token.
    state_bytes: [usize; 2],
    /// What `serve` and `batch` take for themselves.
    serve_bytes: usize,
    plan: &'a Plan,
    /// Tokens of a prompt for which each expert is read once.
    sweep_tokens: usize,
    experts: usize,
    forecast: Forecast,
    drive: DriveRate,
    drive_from: &'static str,
    estimated: bool,
}

impl Shown<'_> {
    fn report(&self) -> Value {
        let Shown { plan, forecast, .. } = self;
        let buffers: Vec<Value> =
            plan.buffers.iter().map(|line| json!({"name": line.name, "bytes": line.bytes})).collect();
        json!({
            "ram_bytes": plan.ram,
            "minimum_ram_bytes": plan.minimum_ram,
            "serve_bytes": self.serve_bytes,
            "total_bytes": plan.total(),
            "buffers": buffers,
            "expert_slots": plan.expert_slots,
            "experts": self.experts,
            "ctx": plan.ctx,
            "context_bytes": plan.context_bytes,
            "prefill_chunk": plan.chunk,
            "prefill_sweep": self.sweep_tokens,
            "state_fixed_bytes": self.state_bytes[0],
            "state_bytes_per_token": self.state_bytes[1],
            "state_dir_bytes_max": self.args.states.state_dir.as_ref().map(|_| self.args.states.state_size.0),
            "slab_pieces": plan.pieces,
            "slab_piece_bytes": plan.piece_bytes,
            "estimated": self.estimated,
            "prompt_tokens": self.args.prompt,
            "answer_tokens": self.args.generate,
            "decode_tokens_per_second": forecast.decode.tokens_per_second,
            "bound_by": forecast.decode.bound_by.name(),
            "hit_rate": forecast.decode.hit_rate,
            "bytes_read_per_token": forecast.decode.read_bytes_per_token,
            "prefill_tokens_per_second": forecast.prefill.tokens_per_second,
            "prefill_bound_by": forecast.prefill.bound_by.name(),
            "decode": speed(&forecast.decode),
            "decode_cold": speed(&forecast.decode_cold),
            "prefill": speed(&forecast.prefill),
            "prefill_cold": speed(&forecast.prefill_cold),
            "drive_bytes_per_second": self.drive.steady,
            "drive_bursts": self.drive.bursts,
            "drive_speed_is": self.drive_from,
        })
    }

    /// Experts that are taken to be in memory, in words.
    fn found(&self) -> String {
        let Forecast { decode, decode_cold, .. } = &self.forecast;
        match decode.hit_rate > 0.0 {
            true => format!(
                "finding {:.0} % of a token's experts in memory ({:.0} % after a cold start)",
                100.0 * decode.hit_rate,
                100.0 * decode_cold.hit_rate
            ),
            false => "finding none of a token's experts in memory, which holds no more than one token needs".to_owned(),
        }
    }

    fn describe(&self) -> String {
        let Shown { plan, experts, forecast, .. } = self;
        let show = |bytes: usize| Bytes(bytes as u64).to_string();
        let mut text = String::new();
        for line in &plan.buffers {
            text += &format!("{:>12}  {:>10}\n", line.name, show(line.bytes));
        }
        text += &format!(
            "{:>12}  {:>10}  of {} given; the minimum is {}\n",
            "total",
            show(plan.total()),
            show(plan.ram),
            show(plan.minimum_ram)
        );
        text +=
            &format!("For `serve` and `batch` the process takes {} more, and the slab less.\n", show(self.serve_bytes));
        let share = 100.0 * plan.expert_slots as f64 / (*experts).max(1) as f64;
        text += &format!(
            "The slab holds {} of {experts} experts ({share:.0} %), in {} pieces of {}.\n",
            plan.expert_slots,
            plan.pieces,
            show(plan.piece_bytes)
        );
        let read = match self.sweep_tokens > plan.chunk {
            true => format!("up to {} of them for one read of each expert", self.sweep_tokens),
            false => "with one read of each expert".to_owned(),
        };
        text += &format!(
            "A context of {} tokens takes {} of it as it fills; prompts are computed {} tokens at a time, {read}.\n",
            plan.ctx,
            show(plan.context_bytes),
            plan.chunk,
        );
        if let Some(dir) = &self.args.states.state_dir {
            let [fixed, per_token] = self.state_bytes;
            text += &format!(
                "On the drive, {} takes up to {} for states: a state takes {}, and {} for each token.\n",
                dir.display(),
                self.args.states.state_size,
                show(fixed),
                show(per_token)
            );
        }
        let Forecast { decode, decode_cold, prefill, prefill_cold } = forecast;
        let PlanArgs { prompt, generate, .. } = self.args;
        let first = if *generate == 1 { "first token".to_owned() } else { format!("first {generate} tokens") };
        text += &format!(
            "Expect {:.2} tok/s for answers once memory is full, bound by {}; {:.2} for the {first} after a \
             cold start.\n",
            decode.tokens_per_second,
            decode.bound_by.phrase(),
            decode_cold.tokens_per_second,
        );
        text += &format!(
            "Expect {:.1} tok/s for a prompt of {prompt}, bound by {}.\n",
            prefill_cold.tokens_per_second,
            prefill_cold.bound_by.phrase(),
        );
        if prefill.tokens_per_second > prefill_cold.tokens_per_second {
            let hits = 100.0 * prefill.hit_rate;
            let speed = prefill.tokens_per_second;
            text += &format!("After another one, with {hits:.0} % of its experts still in memory, {speed:.1}.\n");
        }
        let ms = |seconds: f64| 1e3 * seconds;
        let read = match experts {
            0 => "It reads nothing for a token of an answer".to_owned(),
            _ => format!(
                "That counts on {}, and on {} read for each token of an answer, {:.0} ms at the drive's {:.2} GB/s ({})",
                self.found(),
                Bytes(decode.read_bytes_per_token as u64),
                ms(decode.read_seconds),
                self.drive.steady / 1e9,
                self.drive_from,
            ),
        };
        text += &format!(
            "{read}, beside {:.0} ms of computing experts and {:.0} ms of the rest, as rehearsed{}.\n",
            ms(decode.expert_seconds),
            ms(decode.trunk_seconds),
            if self.estimated { "; all of it estimated from the config alone" } else { "" }
        );
        text
    }
}

/// A prediction, to be laid beside a row of `bench`.
fn speed(speed: &Speed) -> Value {
    json!({
        "tokens_per_second": speed.tokens_per_second,
        "bound_by": speed.bound_by.name(),
        "hit_rate": speed.hit_rate,
        "bytes_read_per_token": speed.read_bytes_per_token,
        "trunk_seconds_per_token": speed.trunk_seconds,
        "expert_seconds_per_token": speed.expert_seconds,
        "read_seconds_per_token": speed.read_seconds,
    })
}
