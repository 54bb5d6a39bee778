//! How queries grow along long contexts (Llama 4, Mistral; arXiv 2501.19399).

use outpour_kernels::{Ops, Tensor};

use crate::config::{Config, ModelError};

/// Queries are multiplied with `1 + beta · ln(1 + ⌊(position + ahead) / every⌋)`.
#[derive(Clone, Copy, Debug)]
pub struct Growth {
    /// By how much they grow.
    pub beta: f32,
    /// Positions of a step: those of the original context.
    pub every: usize,
    /// 1 where positions are counted from 1.
    pub ahead: usize,
}

impl Growth {
    /// Reads `llama_4_scaling_beta` of what the config says of RoPE, if it is there (Mistral).
    ///
    /// # Errors
    /// When it is there, and `original_max_position_embeddings` is not.
    pub fn read(config: &Config) -> Result<Option<Self>, ModelError> {
        let (settings, _) = config.rope(10_000.0)?;
        if !settings.has("llama_4_scaling_beta") {
            return Ok(None);
        }
        let beta = settings.positive_or("llama_4_scaling_beta", 0.1)? as f32;
        Ok(Some(Growth { beta, every: settings.size("original_max_position_embeddings")?, ahead: 0 }))
    }

    /// q `[n, heads, q_dim]` of these positions, in place.
    pub fn apply(&self, ops: &dyn Ops, positions: &[u32], q: &Tensor) {
        let passed = |position: u32| (position as usize + self.ahead) / self.every;
        let mut first = 0;
        for rows in positions.chunk_by(|a, b| passed(*a) == passed(*b)) {
            let factor = 1.0 + self.beta * (1.0 + passed(rows[0]) as f32).ln();
            if factor != 1.0 {
                ops.scale(&q.rows(first..first + rows.len()), factor, None);
            }
            first += rows.len();
        }
    }
}
