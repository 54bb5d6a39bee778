//! Architectures, a file for each: what of its config and its tensors makes which blocks.

pub mod deepseek;
pub mod deepseek_v4;
pub mod ernie4_5_moe;
pub mod gemma;
pub mod glm4_moe;
pub mod glm5_next;
pub mod gpt_oss;
pub mod granite;
pub mod hunyuan_v1_moe;
pub mod hy_v4;
pub mod jamba;
pub mod kimi_linear;
pub mod lfm2_moe;
pub mod ling;
pub mod ling3;
pub mod llama;
pub mod longcat_flash;
pub mod minimax;
pub mod minimax_m2;
pub mod minimax_m3;
pub mod mistral_large4;
pub mod mixtral;
pub mod nemotron_h;
pub mod qwen3_5_moe;
pub mod qwen3_moe;
