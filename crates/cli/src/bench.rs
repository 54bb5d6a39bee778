//! `bench`: measures tokens a second against the limit.

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::BenchArgs;

/// Not there yet.
///
/// # Errors
/// Always.
pub fn bench(_args: &BenchArgs) -> Result<ExitCode> {
    bail!("not there yet")
}
