#!/usr/bin/env python3
"""Writes a GGUF file of Qwen3-30B-A3B's shape with random Q4_0 weights: gguf_model.py OUT LAYERS."""

import sys

import gguf
import numpy as np

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, EXPERTS, TOP_K, WIDTH, VOCABULARY = 2048, 32, 4, 128, 128, 8, 768, 151936
BLOCK, BLOCK_BYTES = 32, 18
PART = 1 << 18  # blocks that are made at once


def blocks(rng, count, deviation):
    """So many random blocks of Q4_0, whose weights deviate so much from 0."""
    data = rng.integers(0, 256, (count, BLOCK_BYTES), dtype=np.uint8)
    # Numbers from -8 to 7, all as likely, deviate by 4.6 and their mean is -0.5: scales of either sign make up for it.
    scale = (deviation / 4.6 * rng.choice([-1, 1], count)).astype(np.float16)
    data[:, :2] = scale.view(np.uint8).reshape(count, 2)
    return data


def tensors(layers):
    """Names, shapes, and the deviation of random weights; None for norms, which are 1."""
    yield "token_embd.weight", (VOCABULARY, HIDDEN), 1.0
    for layer in range(layers):
        at = f"blk.{layer}."
        for norm, width in [("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD_DIM), ("attn_k_norm", HEAD_DIM)]:
            yield f"{at}{norm}.weight", (width,), None
        for name, rows in [("attn_q", HEADS * HEAD_DIM), ("attn_k", KV_HEADS * HEAD_DIM), ("attn_v", KV_HEADS * HEAD_DIM)]:
            yield f"{at}{name}.weight", (rows, HIDDEN), HIDDEN**-0.5
        yield f"{at}attn_output.weight", (HIDDEN, HEADS * HEAD_DIM), 0.3 * (HEADS * HEAD_DIM) ** -0.5
        yield f"{at}ffn_gate_inp.weight", (EXPERTS, HIDDEN), HIDDEN**-0.5
        yield f"{at}ffn_gate_exps.weight", (EXPERTS, WIDTH, HIDDEN), HIDDEN**-0.5
        yield f"{at}ffn_up_exps.weight", (EXPERTS, WIDTH, HIDDEN), HIDDEN**-0.5
        yield f"{at}ffn_down_exps.weight", (EXPERTS, HIDDEN, WIDTH), WIDTH**-0.5
    yield "output_norm.weight", (HIDDEN,), None
    yield "output.weight", (VOCABULARY, HIDDEN), HIDDEN**-0.5


def is_plain(name, deviation):
    return deviation is None or "gate_inp" in name


def write(path, layers):
    rng = np.random.default_rng(1)
    file = gguf.GGUFWriter(path, "qwen3moe")
    file.add_block_count(layers)
    file.add_context_length(40960)
    file.add_embedding_length(HIDDEN)
    file.add_feed_forward_length(6144)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KV_HEADS)
    file.add_key_length(HEAD_DIM)
    file.add_value_length(HEAD_DIM)
    file.add_layer_norm_rms_eps(1e-6)
    file.add_rope_freq_base(1e6)
    file.add_expert_count(EXPERTS)
    file.add_expert_used_count(TOP_K)
    file.add_expert_feed_forward_length(WIDTH)
    file.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre("qwen2")
    file.add_token_list([f"<{i}>" for i in range(VOCABULARY)])
    file.add_token_types([gguf.TokenType.NORMAL] * VOCABULARY)
    file.add_token_merges(["<1> <2>"])
    file.add_eos_token_id(VOCABULARY - 1)
    plan = list(tensors(layers))
    for name, shape, deviation in plan:
        if is_plain(name, deviation):
            file.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
        else:
            stored = shape[:-1] + (shape[-1] // BLOCK * BLOCK_BYTES,)
            q4_0 = gguf.GGMLQuantizationType.Q4_0
            file.add_tensor_info(name, stored, np.dtype(np.uint8), int(np.prod(stored)), raw_dtype=q4_0)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_ti_data_to_file()
    out = file.fout[0]

    def pad():
        out.write(bytes(-out.tell() % file.data_alignment))

    pad()
    for name, shape, deviation in plan:
        count = int(np.prod(shape))
        if deviation is None:
            out.write(np.ones(count, np.float32).data)
        elif is_plain(name, deviation):
            out.write(rng.normal(0, deviation, count).astype(np.float32).data)
        else:
            for first in range(0, count // BLOCK, PART):
                out.write(blocks(rng, min(PART, count // BLOCK - first), deviation).data)
        pad()
    file.close()


write(sys.argv[1], int(sys.argv[2]))
