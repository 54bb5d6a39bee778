//! Frequencies of rotary position embeddings.

use outpour_kernels::{Rope, RopePairs};

use crate::config::{Config, ModelError};

/// RoPE over the first part of a head, `partial_rotary_factor` of it. Sections of `mrope` make no difference to text,
/// whose positions are equal in all of them.
///
/// # Errors
/// As [`plain`], and for a factor that leaves no whole pair.
pub fn partial(config: &Config, head_dim: usize, factor_default: f64, theta_default: f64) -> Result<Rope, ModelError> {
    let (settings, _) = config.rope(theta_default)?;
    let old = config.float_or("partial_rotary_factor", factor_default)?;
    let factor = settings.float_or("partial_rotary_factor", old)?;
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if !(0.0..=1.0).contains(&factor) || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
        let problem =
            format!("partial_rotary_factor {factor} of head_dim {head_dim} leaves no whole pairs; download it again");
        return Err(ModelError::Config(problem));
    }
    plain(config, rotary_dim, theta_default)
}

/// Plain RoPE over the first `rotary_dim` dimensions of a head, in halves, from `rope_theta` of the config.
///
/// # Errors
/// For any scaling of the frequencies, which this family's released models have only as an option.
pub fn plain(config: &Config, rotary_dim: usize, theta_default: f64) -> Result<Rope, ModelError> {
    let (settings, theta) = config.rope(theta_default)?;
    let kind = settings.text_or("rope_type", settings.text_or("type", "default")?)?;
    if kind != "default" {
        return Err(ModelError::Config(format!(
            "asks for RoPE of the type {kind:?}, which this family does not support here; remove rope_scaling to run it at its original context"
        )));
    }
    // θ_i = theta^(-2i / d), in f32 as transformers computes it.
    let inv_freq = (0..rotary_dim / 2).map(|i| 1.0 / (theta as f32).powf(2.0 * i as f32 / rotary_dim as f32)).collect();
    Ok(Rope { inv_freq, first: 0, pairs: RopePairs::Half, scale: 1.0 })
}
