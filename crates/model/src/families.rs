//! Architectures, a file for each: what of its config and its tensors makes which blocks.

pub mod deepseek;
pub mod deepseek_v4;
pub mod gemma;
pub mod glm4_moe;
pub mod gpt_oss;
pub mod kimi_linear;
pub mod ling;
pub mod llama;
pub mod minimax;
pub mod minimax_m2;
pub mod mixtral;
pub mod nemotron_h;
pub mod qwen3_5_moe;
pub mod qwen3_moe;
