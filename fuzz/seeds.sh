#!/bin/sh
# Fills fuzz/corpus with what each target begins from.
set -eu
cd "$(dirname "$0")/.."
fixtures=tests/fixtures
corpus=fuzz/corpus
for target in safetensors gguf config tokenizer template; do mkdir -p "$corpus/$target"; done
for file in "$fixtures"/*/*.safetensors; do
    cp "$file" "$corpus/safetensors/$(basename "$(dirname "$file")")-$(basename "$file")"
done
for file in "$fixtures"/*/*.gguf; do
    cp "$file" "$corpus/gguf/$(basename "$(dirname "$file")")-$(basename "$file")"
done
for file in configs/*.json "$fixtures"/*/config.json; do
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
