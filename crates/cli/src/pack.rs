//! `pack`: copies a model into a layout where each expert is one read, and says what that gains on this drive.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use outpour_engine::{EngineError, Inspection};
use outpour_kernels::reference::Reference;
use outpour_model::packing::Affine;
use outpour_model::weights::allocate_region;
use outpour_store::bytes::Bytes;
use outpour_store::machine::Machine;
use outpour_store::probe::{self, Flow, ReadSpeed};
use outpour_store::read::{ReaderKind, Region};

use crate::args::PackArgs;
use crate::{model, term};

/// How often each of the two is measured, in turn.
const ROUNDS: u64 = 5;
/// For how long, each time.
const ROUND_TIME: Duration = Duration::from_millis(600);
/// Experts in flight together while reading is measured.
const DEPTH: usize = 8;
/// A gain of less is not worth a pack's room.
const GAIN_MIN: f64 = 0.05;

/// Packs a model, or goes on with it.
///
/// # Errors
/// One line about the model, the folder or the drive; what was finished stays for the next run.
pub fn pack(args: &PackArgs) -> Result<ExitCode> {
    let inspection = Inspection::open(&args.model, false)?;
    if inspection.layout.experts_total() == 0 {
        bail!("{}: is a dense model: it has no experts to pack", args.model.display());
    }
    term::catch_interrupt()?;
    let requantise = args.experts.map(|affine| Affine { bits: affine.bits(), group: args.group });
    let progress = term::WriteProgress::start();
    let packed = inspection.pack(requantise, &args.out, &mut |written, total| progress.written(written, total))?;
    let seconds = progress.finish();
    let out = args.out.display();
    if packed.flow.is_break() {
        term::note(&format!("Stopped. What is finished stays in {out}; the same command goes on from there."));
        return Err(EngineError::Cancelled.into());
    }
    let bytes = Bytes(packed.bytes);
    term::note(&match packed.written {
        0 => format!("{out} holds this pack already: {bytes}."),
        written => format!(
            "Packed into {out}: {bytes}, of which {} were written now, in {seconds:.1} s, {:.2} GB/s.",
            Bytes(written),
            written as f64 / seconds / 1e9
        ),
    });
    if packed.written > 0 && packed.written < packed.bytes {
        term::note(&format!(
            "What an earlier call had written is not read again: `outpour verify {out}` checks all of it."
        ));
    }
    if let Some(Affine { bits, group }) = requantise {
        term::note(&format!(
            "Lossy, as asked: its experts are requantised to {bits} bits in groups of {group}. `outpour eval OUT --against MODEL` measures the cost."
        ));
    }
    if !args.no_check {
        let packed = Inspection::open(&args.out, false)?;
        term::show(&gain(&inspection, &packed)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the same experts in place and packed, in turn.
fn gain(in_place: &Inspection, packed: &Inspection) -> Result<String> {
    let slot_bytes = [in_place, packed].iter().flat_map(|model| model.layout.classes()).max().copied().unwrap_or(0);
    let memory = allocate_region(&Reference, DEPTH * slot_bytes)?;
    let steps = term::Steps::start();
    let mut speeds = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        for (model, speeds) in [in_place, packed].into_iter().zip(&mut speeds) {
            if steps.next(&format!("what the pack gains: {}/{ROUNDS}", round + 1)).is_break() {
                return Err(EngineError::Cancelled.into());
            }
            speeds.push(read(model, &memory, round)?);
        }
    }
    steps.finish();
    let median = |speeds: &[ReadSpeed], of: &dyn Fn(&ReadSpeed) -> f64| {
        let mut values: Vec<f64> = speeds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let experts = |speed: &ReadSpeed| speed.records as f64 / speed.seconds.max(1e-9);
    let [before, after] = [&speeds[0], &speeds[1]].map(|speeds| median(speeds, &experts));
    let [slow, fast] = [&speeds[0], &speeds[1]].map(|speeds| median(speeds, &ReadSpeed::bytes_per_second) / 1e9);
    let gain = after / before.max(1e-9) - 1.0;
    let mut text = format!(
        "Read at random, {ROUNDS} times in turn: {before:.0} experts a second in place ({slow:.2} GB/s), {after:.0} packed ({fast:.2} GB/s): {:+.1} %.\n",
        100.0 * gain
    );
    let drive = |model: &Inspection| Machine::here().drive(model.checkpoint().dir()).map(|drive| drive.name);
    if let (Some(from), Some(to)) = (drive(in_place), drive(packed))
        && from != to
    {
        text += &format!("These are two drives, {from} and {to}: that says nothing of what the pack gains.\n");
    } else if gain < GAIN_MIN {
        text += &format!(
            "That is less than {:.0} %: on this drive the model may as well be read in place, and the pack be removed. What it still has are checksums.\n",
            100.0 * GAIN_MIN
        );
    }
    if speeds.iter().flatten().any(|speed| !speed.is_of_the_drive()) {
        text += "Part of it came from a cache, not from the drive: measure again with `outpour bench`.\n";
    }
    Ok(text)
}

fn read(model: &Inspection, memory: &Arc<Region>, seed: u64) -> Result<ReadSpeed> {
    let mut reader = model::open_reader(ReaderKind::Auto, 1)?;
    reader.register(memory);
    let regions = std::slice::from_ref(memory);
    let (checkpoint, layout) = (model.checkpoint(), &model.layout);
    let speed = probe::expert_reads(checkpoint, layout, &mut *reader, regions, Flow::Steady(DEPTH), ROUND_TIME, seed)?;
    reader.unregister(memory);
    Ok(speed)
}
