//! `doctor`: measures this machine as the engine uses it, names each trouble with its fix, and stores the figures for
//! `plan`.

mod drive;
mod facts;
mod show;
mod troubles;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use outpour_engine::profile::{ComputeOptions, Effort, Profile};
use outpour_engine::{EngineError, Inspection};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::term;
use drive::Drives;
use facts::Facts;
use troubles::Trouble;

/// Of the memory that is free, measuring takes this share at most, for weights and then for experts.
const MEMORY_SHARE: u64 = 4;

/// What was found. As JSON it is what `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    facts: Facts,
    /// What is stored, if the processor could be measured.
    profile: Option<Profile>,
    drive: Drives,
    troubles: Vec<Trouble>,
    /// What could not be measured, and why, one line each.
    unmeasured: Vec<String>,
    /// Where the figures were stored.
    stored: Option<PathBuf>,
}

/// Measures.
///
/// # Errors
/// When the model cannot be read, or after Ctrl-C.
pub fn doctor(args: &DoctorArgs) -> Result<ExitCode> {
    term::catch_interrupt()?;
    let inspection = args.model.as_ref().map(|model| Inspection::open(model, false)).transpose()?;
    let steps = term::Steps::start();
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let facts = Facts::gather(args.threads.map(usize::from));
    let mut unmeasured = Vec::new();
    let options = ComputeOptions {
        threads: args.threads.map(usize::from),
        effort,
        weights_bytes: facts.memory.room_bytes(MEMORY_SHARE),
    };
    let measured = Profile::measure_compute(options, &mut |what| steps.next(what));
    let mut profile = note("the processor", measured, &mut unmeasured)?;
    let target = drive::Target::of(inspection.as_ref(), effort);
    let mut drive = target.describe();
    let measured = target.measure(effort, facts.memory.room_bytes(MEMORY_SHARE), &steps, &mut drive);
    note("the drive", measured, &mut unmeasured)?;
    unmeasured.append(&mut drive.unmeasured);
    steps.finish();
    let troubles = troubles::find(&facts, &drive, profile.as_ref());
    let mut stored = None;
    if let Some(profile) = &mut profile {
        profile.drives = drive.storable();
        stored = note("what to store", profile.save().map_err(EngineError::from), &mut unmeasured)?;
    }
    let stored = stored.map(|()| Profile::path());
    let failed = !unmeasured.is_empty();
    let report = Report { facts, profile, drive, troubles, unmeasured, stored };
    term::show(&if args.json { format!("{:#}\n", serde_json::to_value(&report)?) } else { show::describe(&report) })?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What was measured; or `None`, with a line about why not.
fn note<T>(what: &str, result: Result<T, EngineError>, unmeasured: &mut Vec<String>) -> Result<Option<T>> {
    match result {
        Ok(measured) => Ok(Some(measured)),
        Err(EngineError::Cancelled) => Err(EngineError::Cancelled.into()),
        Err(why) => {
            unmeasured.push(term::one_line(&format!("{what}: {why}")));
            Ok(None)
        }
    }
}

/// Whether to go on after Ctrl-C.
fn check_interrupt() -> Result<(), EngineError> {
    if term::stopped() { Err(EngineError::Cancelled) } else { Ok(()) }
}
