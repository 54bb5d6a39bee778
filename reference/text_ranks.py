"""Makes tests/fixtures/text_ranks: small `tiktoken.model` and `tekken.json`, and what tiktoken and mistral-common make of texts.

    python reference/text_ranks.py          # rewrites the files, the same bytes each time

tiktoken's own trainer makes the vocabulary, on the text of text_corpus.py. The configuration is Kimi's in small.
"""

import base64
import json
import pathlib

import tiktoken
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tiktoken._educational import bpe_train
from tiktoken.load import load_tiktoken_bpe

from text import EXTRA_STRINGS
from text_corpus import STRINGS, training_text

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "text_ranks"
TOKENS = 600
CASED = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}%s]%s[\p{Ll}\p{Lm}\p{Lo}\p{M}%s]%s"
# Kimi's tokenization_kimi.py: pat_str.
KIMI = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?" + CASED % ("&&[^\\p{Han}]", "*", "&&[^\\p{Han}]", "+") + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?" + CASED % ("&&[^\\p{Han}]", "+", "&&[^\\p{Han}]", "*") + r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    ]
)  # fmt: skip
TEKKEN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?" + CASED % ("", "*", "", "+"), r"[^\r\n\p{L}\p{N}]?" + CASED % ("", "+", "", "*"),
        r"\p{N}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    ]
)  # fmt: skip
NAMED = {0: "[BOS]", 1: "[EOS]", 2: "<|im_end|>", 3: "<|im_user|>", 19: "[PAD]", 22: "<think>", 23: "</think>"}
CONTROLS = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
RESERVED, CONTROL_COUNT = 256, 20
MIXED = ["中文和English混写，東京タワー。", "HelloWorld's camelCase IT'LL 1234567", "a//b/\n/c\r\n\r\n  x", "<|im_end|>[INST]<s>"]


def write(name: str, value) -> None:
    (OUT / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", newline="\n")


def tiktoken_cases(ranks: dict[bytes, int]) -> list[dict]:
    added = {len(ranks) + i: text for i, text in NAMED.items()}
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False)
    decoder = {str(id): dict(content=text, special="think" not in text, **flags) for id, text in added.items()}
    write(
        "tokenizer_config.json",
        dict(added_tokens_decoder=decoder, bos_token="[BOS]", eos_token="[EOS]", tokenizer_class="TikTokenTokenizer"),
    )
    special = {added.get(id, f"<|reserved_token_{id}|>"): id for id in range(len(ranks), len(ranks) + RESERVED)}
    encoding = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    strings = [*texts(), f"<|reserved_token_{len(ranks) + 100}|> x"]
    return [dict(text=text, ids=encoding.encode(text, allowed_special="all")) for text in strings]


def tekken_cases(ranks: dict[bytes, int]) -> list[dict]:
    by_rank = sorted(ranks, key=ranks.get)
    entry = lambda rank, token: dict(rank=rank, token_bytes=base64.b64encode(token).decode(), token_str=None)
    # A file lists more tokens than it takes.
    more = [entry(rank, token) for rank, token in enumerate([*by_rank, b"never taken", b"nor this"])]
    sizes = dict(default_vocab_size=len(ranks) + CONTROL_COUNT, default_num_special_tokens=CONTROL_COUNT)
    controls = [dict(rank=i, token_str=text, is_control=True) for i, text in enumerate(CONTROLS)]
    config = dict(pattern=TEKKEN, num_vocab_tokens=len(more), version="v7") | sizes
    write("tekken.json", dict(config=config, vocab=more, special_tokens=controls, version=1, type="Tekken"))
    tekken = Tekkenizer.from_file(OUT / "tekken.json")
    return [dict(text=text, ids=tekken.encode(text, bos=True, eos=False)) for text in texts() if "<s>" not in text]


def texts() -> list[str]:
    return [text for text in dict.fromkeys([*STRINGS, *EXTRA_STRINGS, *MIXED]) if len(text) < 600]


def main() -> None:
    OUT.mkdir(exist_ok=True)
    trained = bpe_train("\n".join([*training_text(), *STRINGS, *MIXED * 20]), TOKENS, KIMI, visualise=None)
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in trained.items())
    (OUT / "tiktoken.model").write_text("".join(lines), newline="\n")
    ranks = load_tiktoken_bpe(str(OUT / "tiktoken.model"))
    write("cases.json", dict(tiktoken=tiktoken_cases(ranks), tekken=tekken_cases(ranks)))


if __name__ == "__main__":
    main()
