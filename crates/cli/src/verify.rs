//! `verify`: whether a model's bytes are those that were written.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use outpour_engine::EngineError;
use outpour_store::bytes::Bytes;
use outpour_store::checkpoint::Checkpoint;
use outpour_store::pack::Manifest;
use outpour_store::verify::{self, Damage, Verified};

use crate::args::VerifyArgs;
use crate::term;

/// Damages that are shown; the rest is counted.
const SHOWN_MAX: usize = 40;
/// What was found wrong.
const DAMAGED: u8 = 1;

/// Verifies a model.
///
/// # Errors
/// When there is none, or its headers are damaged. Damaged bytes are no error: they are shown, and the exit code is 1.
pub fn verify(args: &VerifyArgs) -> Result<ExitCode> {
    term::catch_interrupt()?;
    let dir = &args.model;
    if let Some(manifest) = Manifest::find(dir)? {
        let (verified, seconds) = measured(|progress| verify::pack(dir, &manifest, progress))?;
        let whole = format!("Every byte of the pack is what was written: {} files", manifest.files.len());
        return report(&verified, seconds, &whole, &[]);
    }
    let checkpoint = Checkpoint::open(dir)?;
    let (verified, seconds) = measured(|progress| verify::download(checkpoint.dir(), progress))?;
    let weights: Vec<PathBuf> = checkpoint.files().iter().map(|file| file.path().to_owned()).collect();
    let mut whole = match weights.len() {
        1 => "The weight file has the size that its header wants".to_owned(),
        files => format!("{files} weight files have the sizes that their headers want"),
    };
    if verified.bytes > 0 {
        whole += ", and what the hub left a hash of has that hash";
    }
    report(&verified, seconds, &whole, &weights)
}

type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> std::ops::ControlFlow<()>;

/// Runs a verification with its progress shown; gives the seconds it took.
fn measured(run: impl FnOnce(Progress) -> outpour_store::Result<Verified>) -> Result<(Verified, f64)> {
    let progress = term::WriteProgress::start_of("comparing");
    let verified = run(&mut |read, total| progress.written(read, total))?;
    let seconds = progress.finish();
    if verified.stopped {
        return Err(EngineError::Cancelled.into());
    }
    Ok((verified, seconds))
}

fn report(verified: &Verified, seconds: f64, whole: &str, weights: &[PathBuf]) -> Result<ExitCode> {
    let mut text = String::new();
    // Files that are missing first: they are not to be hidden behind many records of another one.
    let mut damages: Vec<&Damage> = verified.damages.iter().collect();
    damages.sort_by_key(|damage| damage.offset.is_some());
    for Damage { path, offset, what } in damages.iter().take(SHOWN_MAX) {
        let place = offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
        text += &format!("{}{place}: {what}\n", path.display());
    }
    if verified.damages.len() > SHOWN_MAX {
        text += &format!("and {} more\n", verified.damages.len() - SHOWN_MAX);
    }
    if verified.damages.is_empty() {
        text += &format!("{whole}.\n");
    }
    if verified.bytes > 0 {
        let speed = verified.bytes as f64 / seconds.max(1e-9) / 1e9;
        text += &format!("Compared {} at {speed:.2} GB/s.\n", Bytes(verified.bytes));
    }
    let unknown: Vec<String> = weights
        .iter()
        .filter(|path| verified.unknown.contains(path))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    if !unknown.is_empty() {
        text += &format!(
            "Not compared, as no hash of the hub lies beside them: {}. Only their headers and sizes were checked.\n",
            unknown.join(", ")
        );
    }
    term::show(&text)?;
    Ok(if verified.damages.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) })
}
