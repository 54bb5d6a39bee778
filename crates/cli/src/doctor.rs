//! `doctor`: measures this machine.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::DoctorArgs;

/// Not there yet.
///
/// # Errors
/// Always.
pub fn doctor(_args: &DoctorArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
