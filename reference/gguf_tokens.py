#!/usr/bin/env python3
"""What llama.cpp makes of tokens of every kind in GGUF files, and of the switches that put BOS and EOS around a text.

    python reference/gguf_tokens.py LLAMA_TOKENIZE      write tests/fixtures/gguf_text/tokens.json

Two vocabularies of the fixtures, GPT-2's and sentencepiece's way of writing tokens, get tokens of further kinds; llama.cpp's
`llama-tokenize` says the ids.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from gguf import GGUFReader, GGUFWriter, TokenType

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
SOURCES = {"gpt2": "gguf_text/vocab.gguf", "llama": "text_pieces/vocab.gguf"}
MORE = [
    ("<ctl>", TokenType.CONTROL),
    ("<ud>", TokenType.USER_DEFINED),
    ("<ud> two", TokenType.USER_DEFINED),
    ("    ", TokenType.USER_DEFINED),
    ("ello", TokenType.USER_DEFINED),
    ("<none>", TokenType.UNUSED),
]
TEXTS = [
    "hello", " hello", "hello world", "hello  world", "a <ctl> b", "a<ctl>b", "<ctl>", "<ctl><ud>x", "x<ud>y", "x <ud> y", "<ud> two",
    "<ud>  two", "jello", "yellow <ud>mellow", "a    b", "a     b", "    x", "\n    x\n", "<none>", "a<none>b", "<unk>", "a <unk> b", "<0x41>",
    "Grüße 😀 你好", "\t", "<ctl> <ctl>", "<s>x</s>", "x<|endoftext|>y",
]  # fmt: skip
# Bytes that UTF-8 has not. DeepSeek-V2's vocabulary has their letters as texts of their own.
LETTERS = "ÀÁõö÷øùúûüýþÿ"
WITH_LETTERS = ["À la carte", "fête ÿ", "schön für übung", "ø÷þ", "Größe 😀 ñ", "x"]
SWITCHES = [(None, None), (True, None), (False, None), (True, True), (False, True), (None, True), (None, False)]


def field(reader: GGUFReader, key: str):
    found = reader.get_field(f"tokenizer.ggml.{key}")
    return None if found is None else found.contents()


def write(path: Path, vocab: dict, add_bos: bool | None, add_eos: bool | None) -> None:
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_tokenizer_model(vocab["model"])
    if vocab["model"] == "gpt2":
        writer.add_tokenizer_pre(vocab["pre"])
        writer.add_token_merges(vocab["merges"])
    else:
        writer.add_token_scores(vocab["scores"])
    writer.add_token_list(vocab["tokens"])
    writer.add_token_types(vocab["kinds"])
    writer.add_bos_token_id(vocab["bos"])
    writer.add_eos_token_id(vocab["eos"])
    for add, switch in [(writer.add_add_bos_token, add_bos), (writer.add_add_eos_token, add_eos)]:
        if switch is not None:
            add(switch)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def vocabulary(model: str) -> dict:
    reader = GGUFReader(FIXTURES / SOURCES[model])
    tokens, kinds = field(reader, "tokens"), field(reader, "token_type")
    # Behind a text that is defined llama.cpp writes a space that sentencepiece does not.
    left = TokenType.USER_DEFINED if model == "llama" else None
    more = [(text, kind) for text, kind in MORE if text not in tokens and kind != left]
    if model == "gpt2":
        more.append(("<unk>", TokenType.UNKNOWN))
    vocab = dict(
        model=model, tokens=tokens + [text for text, _ in more], kinds=kinds + [int(kind) for _, kind in more],
        bos=tokens.index("<s>" if model == "llama" else "<|im_start|>"),
        eos=tokens.index("</s>" if model == "llama" else "<|endoftext|>"),
    )  # fmt: skip
    if model == "gpt2":
        return vocab | dict(pre="qwen2", merges=field(reader, "merges"), scores=[])
    return vocab | dict(pre=None, merges=[], scores=field(reader, "scores") + [0.0] * len(more))


def without_bytes(vocab: dict) -> dict:
    kinds = [int(TokenType.USER_DEFINED) if text in LETTERS else kind for text, kind in zip(vocab["tokens"], vocab["kinds"])]
    assert sum(kind == TokenType.USER_DEFINED for kind in kinds) >= len(LETTERS)
    merges = [merge for merge in vocab["merges"] if not set(merge) & set(LETTERS)]
    return vocab | dict(kinds=kinds, merges=merges)


def texts(vocabulary: str, add_bos: bool | None, add_eos: bool | None) -> list[str]:
    """Switches show at any text."""
    plain = (add_bos, add_eos) == (None, None)
    if vocabulary == "letters":
        return WITH_LETTERS if plain else []
    return TEXTS if plain else TEXTS[:6]


def main() -> None:
    vocabularies, cases = {model: vocabulary(model) for model in SOURCES}, []
    vocabularies["letters"] = without_bytes(vocabularies["gpt2"])
    with tempfile.TemporaryDirectory() as folder:
        for name, vocab in vocabularies.items():
            model = vocab["model"]
            for add_bos, add_eos in SWITCHES:
                if add_eos and not (model == "llama" if add_bos is None else add_bos):
                    continue  # llama-tokenize leaves both away where BOS is not asked for
                file = Path(folder) / "vocab.gguf"
                write(file, vocab, add_bos, add_eos)
                for text in texts(name, add_bos, add_eos):
                    prompt = Path(folder) / "prompt"
                    prompt.write_text(text)
                    command = [sys.argv[1], "-m", str(file), "-f", str(prompt), "--ids", "--no-escape"]
                    said = subprocess.run(command, capture_output=True, text=True)
                    if said.returncode != 0:
                        sys.exit(f"{command}: {said.stderr}")
                    ids = json.loads(said.stdout.strip().splitlines()[-1])
                    cases.append(dict(vocabulary=name, add_bos=add_bos, add_eos=add_eos, text=text, ids=ids))
    out = FIXTURES / "gguf_text" / "tokens.json"
    out.write_text(json.dumps(dict(vocabularies=vocabularies, cases=cases), ensure_ascii=False) + "\n")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    main()
