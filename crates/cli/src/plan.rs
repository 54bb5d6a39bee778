//! `plan`: the size of every buffer for a given `--ram`, and the tokens a second to expect, before anything is loaded.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use outpour_engine::Inspection;
use outpour_engine::forecast::{self, Forecast};
use outpour_engine::profile::{ComputeOptions, Effort, Profile};
use outpour_model::synth::{self, Format};
use outpour_store::bytes::Bytes;
use outpour_store::machine::cache_dir;
use outpour_store::pack::MANIFEST;
use outpour_store::plan::Plan;
use outpour_store::read::whole::read_whole;
use serde_json::{Value, json};

use crate::args::PlanArgs;
use crate::{model, term};

/// Largest config.json that is read.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// Shows the plan.
///
/// # Errors
/// When the memory is too small: one line with the minimum and what uses it.
pub fn plan(args: &PlanArgs) -> Result<ExitCode> {
    check(args)?;
    let outline = Outline::of(args)?;
    let dir = outline.as_ref().map_or(args.model.as_path(), |outline| &outline.dir);
    let inspection = model::open(dir, &args.load)?;
    let options = model::options(&args.load, inspection.checkpoint())?;
    let plan = inspection.plan(&options)?;
    let (profile, stored) = profile(args)?;
    let (drive, drive_from) = drive(args, &profile, &inspection, outline.is_some())?;
    let experts = inspection.layout.experts_total();
    let needed = inspection.layout.sparse_layers() * inspection.facts().top_k;
    let hit_rate = args.hit_rate.unwrap_or_else(|| forecast::hit_rate(plan.expert_slots, experts, needed));
    let profile = if args.load.precise { profile.precise() } else { profile };
    let forecast = forecast::forecast(&inspection, &plan, &profile, drive, hit_rate, args.prompt);
    let shown = Shown { plan: &plan, experts, forecast, drive_from, stored, estimated: outline.is_some() };
    term::show(&if args.json { format!("{:#}\n", shown.report()) } else { shown.describe() })?;
    Ok(ExitCode::SUCCESS)
}

fn check(args: &PlanArgs) -> Result<()> {
    match args {
        PlanArgs { drive: Some(Bytes(0)), .. } => bail!("--drive 0 reads nothing; give what the drive gives, as 2.5G"),
        PlanArgs { hit_rate: Some(rate), .. } if !(0.0..=1.0).contains(rate) => {
            bail!("--hit-rate {rate} is no share; give a number from 0 to 1")
        }
        PlanArgs { prompt: 0, .. } => bail!("-p 0 is no prompt; give at least 1"),
        _ => Ok(()),
    }
}

/// A model of which only the config is there: files of the right sizes without data, removed at the end.
struct Outline {
    dir: PathBuf,
}

impl Outline {
    /// Of a config.json, or of a folder that holds one and no weights.
    fn of(args: &PlanArgs) -> Result<Option<Outline>> {
        let path = &args.model;
        let config = if path.is_dir() { path.join("config.json") } else { path.clone() };
        let has_weights = |path: &Path| {
            path.extension().is_some_and(|end| ["safetensors", "gguf"].iter().any(|weights| end == *weights))
        };
        let weights = |entry: &std::fs::DirEntry| has_weights(&entry.path()) || entry.file_name() == MANIFEST;
        let no_weights = |dir: std::fs::ReadDir| !dir.flatten().any(|entry| weights(&entry));
        if has_weights(path) || path.is_dir() && !(config.is_file() && std::fs::read_dir(path).is_ok_and(no_weights)) {
            if args.format.is_some() {
                bail!("--format is for a config.json alone: {} holds weights, in their own format", path.display());
            }
            return Ok(None);
        }
        let bytes = read_whole(&config, CONFIG_BYTES_MAX)?;
        let parsed: Value = serde_json::from_slice(&bytes)
            .with_context(|| format!("{}: is no JSON; give a config.json, or a model's folder", config.display()))?;
        let format = args.format.unwrap_or_else(|| Format::of_config(&parsed));
        let outline = Outline { dir: cache_dir().join(format!("plan-{}", std::process::id())) };
        synth::outline(&parsed, format, &outline.dir)?;
        Ok(Some(outline))
    }
}

impl Drop for Outline {
    fn drop(&mut self) {
        // What cannot be removed takes no room, and lies in the cache folder under our name.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// What this machine computes: as `doctor` stored it, or measured in a hurry. And whether it was stored.
fn profile(args: &PlanArgs) -> Result<(Profile, bool)> {
    let threads = args.load.threads.map(usize::from);
    match Profile::load_for(threads) {
        Ok(Some(profile)) => return Ok((profile, true)),
        Ok(None) => {
            term::note("Measuring this machine for two seconds; `outpour doctor` measures well, and stores it.")
        }
        Err(error) => term::note(&format!("{error}. Measuring in a hurry instead.")),
    }
    let options = ComputeOptions { threads, effort: Effort::Quick, weights_bytes: None };
    Ok((Profile::measure_compute(options, &mut |_| ControlFlow::Continue(()))?, false))
}

/// What the drive gives in a second, and how that is known.
fn drive(args: &PlanArgs, profile: &Profile, inspection: &Inspection, outlined: bool) -> Result<(f64, &'static str)> {
    if let Some(Bytes(bytes)) = args.drive {
        return Ok((bytes as f64, "given"));
    }
    let known = profile.drive_for(&args.model);
    if let Some(known) = known {
        return Ok((known.bytes_per_second(inspection.facts().top_k), "measured by doctor"));
    }
    if outlined {
        bail!("nothing is known of this drive: run `outpour doctor`, or give --drive, as in --drive 2.5G");
    }
    term::note("Measuring the drive with the model's own experts for a second.");
    Ok((model::measure_drive(inspection, args.load.reader())?, "measured now"))
}

struct Shown<'a> {
    plan: &'a Plan,
    experts: usize,
    forecast: Forecast,
    drive_from: &'static str,
    stored: bool,
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
            "total_bytes": plan.total(),
            "buffers": buffers,
            "expert_slots": plan.expert_slots,
            "experts": self.experts,
            "ctx": plan.ctx,
            "context_bytes": plan.context_bytes,
            "prefill_chunk": plan.chunk,
            "slab_pieces": plan.pieces,
            "slab_piece_bytes": plan.piece_bytes,
            "estimated": self.estimated,
            "decode_tokens_per_second": forecast.decode_tokens_per_second,
            "bound_by": forecast.decode_bound_by.name(),
            "prefill_tokens_per_second": forecast.prefill_tokens_per_second,
            "prefill_bound_by": forecast.prefill_bound_by.name(),
            "prompt_tokens": forecast.prompt_tokens,
            "hit_rate": forecast.hit_rate,
            "bytes_read_per_token": forecast.read_bytes_per_token,
            "drive_bytes_per_second": forecast.drive_bytes_per_second,
            "drive_speed_is": self.drive_from,
            "compute_speed_is": if self.stored { "measured by doctor" } else { "measured now" },
        })
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
        let share = 100.0 * plan.expert_slots as f64 / (*experts).max(1) as f64;
        text += &format!(
            "The slab holds {} of {experts} experts ({share:.0} %), in {} pieces of {}.\n",
            plan.expert_slots,
            plan.pieces,
            show(plan.piece_bytes)
        );
        text += &format!(
            "A context of {} tokens takes {} of it as it fills; prompts are computed {} tokens at a time.\n",
            plan.ctx,
            show(plan.context_bytes),
            plan.chunk
        );
        text += &format!(
            "Expect {:.2} tok/s for answers (bound by {}) and {:.0} tok/s for a prompt of {} (bound by {}){}.\n",
            forecast.decode_tokens_per_second,
            forecast.decode_bound_by.phrase(),
            forecast.prefill_tokens_per_second,
            forecast.prompt_tokens,
            forecast.prefill_bound_by.phrase(),
            if self.estimated { ", estimated from the config alone" } else { "" }
        );
        text += &format!(
            "That takes the drive at {:.2} GB/s ({}) and {:.0} % of experts found in memory, {} read for each token; \
             computing {}.\n",
            forecast.drive_bytes_per_second / 1e9,
            self.drive_from,
            100.0 * forecast.hit_rate,
            Bytes(forecast.read_bytes_per_token as u64),
            if self.stored { "as doctor measured" } else { "measured now, in a hurry" }
        );
        text
    }
}
