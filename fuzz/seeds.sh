#!/bin/sh
# Adds to fuzz/corpus what each target begins from: headers, configs, tokenizers and templates of the tests' fixtures.
set -eu
cd "$(dirname "$0")/.."
fixtures=tests/fixtures
corpus=fuzz/corpus
for target in safetensors gguf config tokenizer template; do mkdir -p "$corpus/$target"; done
# In the order of FIXTURES in src/lib.rs.
which=0
for name in qwen3_moe_odd qwen3_moe_mlx_fp4 qwen3_moe_fp8 gpt_oss_mxfp4 qwen3_moe_nvfp4 glm4_moe_compressed qwen3_moe_gptq qwen3_5_moe_mlx4; do
    file="$fixtures/$name/model.safetensors"
    header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
    { printf %s "$which"; head -c "$((header + 8))" "$file"; } > "$corpus/safetensors/$name"
    which=$((which + 1))
done
for file in "$fixtures"/*/*.gguf; do
    # Headers of fixtures are not longer.
    head -c 16384 "$file" > "$corpus/gguf/$(basename "$(dirname "$file")")-$(basename "$file")"
done
for file in "$fixtures"/*/config.json; do
    cp "$file" "$corpus/config/$(echo "$file" | tr / -)"
done
for file in "$fixtures"/*/*.jinja demo/model/*.jinja; do
    [ -f "$file" ] && cp "$file" "$corpus/template/$(echo "$file" | tr / -)"
done
# kind FILE...
kind() {
    letter=$1
    shift
    for file in "$@"; do
        [ -f "$file" ] || continue
        { printf %s "$letter"; cat "$file"; } > "$corpus/tokenizer/$(echo "$file" | tr / -)"
    done
}
kind j "$fixtures"/*/tokenizer.json
kind r "$fixtures"/*/tiktoken.model
kind t "$fixtures"/*/tekken.json
kind s "$fixtures"/*/tokenizer.model
