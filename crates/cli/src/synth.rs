//! `synth`: writes a model with random weights.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::SynthArgs;

/// Not there yet.
///
/// # Errors
/// Always.
pub fn synth(_args: &SynthArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
