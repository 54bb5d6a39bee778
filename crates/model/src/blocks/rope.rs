//! Frequencies of rotary position embeddings, and how long contexts stretch them.

use std::f64::consts::TAU;

use outpour_kernels::{Rope, RopePairs};

use crate::config::{Config, ModelError};

/// RoPE over the first part of a head, `partial_rotary_factor` of it. Sections of `mrope` make no difference to text,
/// whose positions are equal in all of them.
///
/// # Errors
/// As [`plain()`], and for a factor that leaves no whole pair.
pub fn partial(config: &Config, head_dim: usize, factor_default: f64, theta_default: f64) -> Result<Rope, ModelError> {
    let (settings, _) = config.rope(theta_default)?;
    let old = config.float_or("partial_rotary_factor", factor_default)?;
    let factor = settings.float_or("partial_rotary_factor", old)?;
    plain(config, rotary_dim(head_dim, factor)?, theta_default)
}

/// The dimensions of a head that are turned, where they are `factor` of it.
///
/// # Errors
/// For a factor that leaves no whole pair.
pub fn rotary_dim(head_dim: usize, factor: f64) -> Result<usize, ModelError> {
    let rotary_dim = (head_dim as f64 * factor) as usize;
    if !(0.0..=1.0).contains(&factor) || rotary_dim < 2 || !rotary_dim.is_multiple_of(2) {
        let problem =
            format!("partial_rotary_factor {factor} of head_dim {head_dim} leaves no whole pairs; download it again");
        return Err(ModelError::Config(problem));
    }
    Ok(rotary_dim)
}

/// The same as [`plain()`], or by `longrope` (arXiv 2402.13753) with each frequency divided by its `short_factor`; then the
/// original context too, beyond which these factors do not hold.
///
/// # Errors
/// As [`plain()`], and when there is not a factor for each frequency, or no `short_mscale`.
pub fn long(config: &Config, rotary_dim: usize, theta_default: f64) -> Result<(Rope, Option<usize>), ModelError> {
    let (settings, theta) = config.rope(theta_default)?;
    if settings.text_or("rope_type", settings.text_or("type", "default")?)? != "longrope" {
        return Ok((plain(config, rotary_dim, theta_default)?, None));
    }
    let mut rope = unscaled(rotary_dim, theta);
    divide(&mut rope, settings.positives("short_factor")?, "short_factor")?;
    if !settings.has("short_mscale") {
        return Err(ModelError::Config("longrope has no short_mscale; download it again".into()));
    }
    rope.scale = settings.positive_or("short_mscale", 1.0)? as f32;
    Ok((rope, Some(original_context(config, &settings)? as usize)))
}

/// RoPE over the first `rotary_dim` dimensions of a head, where the config has such a key, or as [`partial()`] (MiniMax).
///
/// # Errors
/// As [`partial()`].
pub fn first(config: &Config, head_dim: usize, factor_default: f64, theta_default: f64) -> Result<Rope, ModelError> {
    match config.size_or_none("rotary_dim")? {
        None => partial(config, head_dim, factor_default, theta_default),
        Some(rotary_dim) if rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim => {
            plain(config, rotary_dim, theta_default)
        }
        Some(rotary_dim) => Err(ModelError::Config(format!(
            "rotary_dim {rotary_dim} of head_dim {head_dim} leaves no whole pairs; download it again"
        ))),
    }
}

/// RoPE over the first `rotary_dim` dimensions of a head, in halves, from `rope_theta` of the config and what
/// `rope_parameters` or `rope_scaling` say of scaling: `default`, `linear`, `dynamic` with an `alpha`, `llama3`,
/// `proportional` or `yarn`.
///
/// # Errors
/// For a scaling of another type, or one that lacks a key.
pub fn plain(config: &Config, rotary_dim: usize, theta_default: f64) -> Result<Rope, ModelError> {
    let (settings, theta) = config.rope(theta_default)?;
    scaled(config, &settings, rotary_dim, theta)
}

/// The same from the settings of one kind of layer.
///
/// # Errors
/// As [`plain()`].
pub fn scaled(config: &Config, settings: &Config, rotary_dim: usize, theta: f64) -> Result<Rope, ModelError> {
    let mut rope = unscaled(rotary_dim, theta);
    match settings.text_or("rope_type", settings.text_or("type", "default")?)? {
        "default" => {}
        "linear" => {
            let factor = factor(settings)? as f32;
            rope.inv_freq.iter_mut().for_each(|freq| *freq /= factor);
        }
        // A base that is stretched once and for all, whatever the context (Hunyuan).
        "dynamic" if settings.has("alpha") => {
            let alpha = settings.positive_or("alpha", 1.0)?;
            rope = unscaled(rotary_dim, theta * alpha.powf(rotary_dim as f64 / (rotary_dim as f64 - 2.0)));
        }
        // GGUF files have them as numbers.
        "factors" => divide(&mut rope, settings.positives("factors")?, "factors")?,
        "llama3" => llama3(config, settings, &mut rope)?,
        "proportional" => proportional(settings, rotary_dim, &mut rope)?,
        "yarn" => yarn(config, settings, rotary_dim, theta, &mut rope)?,
        kind => {
            return Err(ModelError::Config(format!(
                "asks for RoPE of the type {kind:?}; supported are default, linear, llama3, proportional and yarn. Remove rope_scaling to run it at its original context"
            )));
        }
    }
    Ok(rope)
}

/// RoPE over the first `rotary_dim` dimensions of a head, in halves, from the base frequency `theta`.
pub fn unscaled(rotary_dim: usize, theta: f64) -> Rope {
    // θ_i = theta^(-2i / d), in f32 as transformers computes it.
    let power = |i: usize| (theta as f32).powf(2.0 * i as f32 / rotary_dim as f32);
    let inv_freq = (0..rotary_dim / 2).map(|i| 1.0 / power(i)).collect();
    Rope { inv_freq, first: 0, pairs: RopePairs::Half, scale: 1.0, stretch: None }
}

/// Which dimensions are turned together: neighbours where `rope_interleave` is on.
///
/// # Errors
/// When it is no switch.
pub fn pairs(config: &Config, interleaved_default: bool) -> Result<RopePairs, ModelError> {
    let interleaved = config.flag_or("rope_interleave", interleaved_default)?;
    Ok(if interleaved { RopePairs::Interleaved } else { RopePairs::Half })
}

/// Divides each frequency by its own factor, of which `key` has a list.
fn divide(rope: &mut Rope, factors: Vec<f64>, key: &str) -> Result<(), ModelError> {
    if factors.len() != rope.inv_freq.len() {
        let (n, pairs) = (factors.len(), rope.inv_freq.len());
        return Err(ModelError::Config(format!("{key} has {n} numbers for {pairs} pairs; download it again")));
    }
    rope.inv_freq.iter_mut().zip(factors).for_each(|(freq, factor)| *freq /= factor as f32);
    Ok(())
}

fn factor(settings: &Config) -> Result<f64, ModelError> {
    if !settings.has("factor") {
        return Err(ModelError::Config("scales RoPE, and has no factor of it; download it again".into()));
    }
    settings.positive_or("factor", 1.0)
}

/// The context that frequencies were trained for.
fn original_context(config: &Config, settings: &Config) -> Result<f64, ModelError> {
    let original = config.size_or("max_position_embeddings", 4096)?;
    Ok(settings.size_or("original_max_position_embeddings", original)? as f64)
}

/// Llama 3.1: low frequencies are divided by the factor, high ones kept, those between blended.
fn llama3(config: &Config, settings: &Config, rope: &mut Rope) -> Result<(), ModelError> {
    let factor = factor(settings)? as f32;
    let low = settings.positive_or("low_freq_factor", 1.0)? as f32;
    let high = settings.positive_or("high_freq_factor", 4.0)? as f32;
    let original = original_context(config, settings)? as f32;
    for freq in &mut rope.inv_freq {
        let wavelength = TAU as f32 / *freq;
        if wavelength > original / low {
            *freq /= factor;
        } else if wavelength >= original / high {
            let smooth = (original / wavelength - low) / (high - low);
            *freq = (1.0 - smooth) * *freq / factor + smooth * *freq;
        }
    }
    Ok(())
}

/// Gemma 4: only the first pairs of the head turn, `partial_rotary_factor` of them, at the frequencies that they have among all.
fn proportional(settings: &Config, rotary_dim: usize, rope: &mut Rope) -> Result<(), ModelError> {
    let (factor, share) =
        (settings.positive_or("factor", 1.0)? as f32, settings.float_or("partial_rotary_factor", 1.0)?);
    let turned = (share * rotary_dim as f64 / 2.0) as usize;
    rope.inv_freq.iter_mut().for_each(|freq| *freq /= factor);
    rope.inv_freq.iter_mut().skip(turned).for_each(|freq| *freq = 0.0);
    Ok(())
}

/// YaRN (arXiv 2309.00071): frequencies that turn often within the original context are kept, those that turn seldom are
/// divided by the factor, and a ramp lies between.
fn yarn(config: &Config, settings: &Config, dim: usize, theta: f64, rope: &mut Rope) -> Result<(), ModelError> {
    let factor = factor(settings)?;
    let original = original_context(config, settings)?;
    // The dimension whose pair turns so often within the original context.
    let turning = |turns: f64| dim as f64 * (original / (turns * TAU)).ln() / (2.0 * theta.ln());
    let low = turning(settings.positive_or("beta_fast", 32.0)?);
    let high = turning(settings.positive_or("beta_slow", 1.0)?);
    let truncate = settings.flag_or("truncate", true)?;
    let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
    let (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    let width = if low == high { 0.001 } else { high - low };
    for (i, freq) in rope.inv_freq.iter_mut().enumerate() {
        let divided = ((i as f64 - low) / width).clamp(0.0, 1.0) as f32;
        *freq = *freq / factor as f32 * divided + *freq * (1.0 - divided);
    }
    let scale = match (settings.float_or("mscale", 0.0)?, settings.float_or("mscale_all_dim", 0.0)?) {
        (mscale, all) if mscale != 0.0 && all != 0.0 => yarn_scale(factor, mscale) / yarn_scale(factor, all),
        _ => yarn_scale(factor, 1.0),
    };
    rope.scale = settings.float_or("attention_factor", scale)? as f32;
    Ok(())
}

/// What YaRN multiplies queries and keys with, each.
fn yarn_scale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// What DeepSeek multiplies the scale of attention with, for YaRN's `mscale_all_dim`.
///
/// # Errors
/// When a key has the wrong type.
pub fn yarn_attention_scale(config: &Config) -> Result<f32, ModelError> {
    let (settings, _) = config.rope(10_000.0)?;
    let kind = settings.text_or("rope_type", settings.text_or("type", "default")?)?;
    let all = settings.float_or("mscale_all_dim", 0.0)?;
    Ok(if kind == "default" || all == 0.0 { 1.0 } else { yarn_scale(factor(&settings)?, all).powi(2) as f32 })
}
