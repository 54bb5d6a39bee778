//! What architectures are built from. Each block says what workspace it takes for `n` tokens.

pub mod attention;
pub mod block_index;
pub mod compressed;
pub mod decoder;
pub mod deepseek_moe;
pub mod delta_net;
pub mod feed_forward;
pub mod gated_residual;
pub mod growth;
pub mod hyper;
pub mod indexer;
pub mod kda;
pub mod lightning;
pub mod mamba;
pub mod mamba2;
pub mod mixer;
pub mod mla;
pub mod mlp;
pub mod moe;
pub mod ngrams;
pub mod norm;
pub mod pooled_index;
pub mod rope;
pub mod short_conv;
