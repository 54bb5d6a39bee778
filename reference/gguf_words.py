#!/usr/bin/env python3
"""Makes tests/fixtures/gguf_text/words.json: what Hugging Face's tokenizers make of texts that are cut into words in the ways
that GGUF files name (`tokenizer.ggml.pre`). The vocabulary is trained on texts that are not cut, so that its tokens reach over
words and any other cut shows.

    python reference/gguf_words.py make | check

The patterns are those of the models' tokenizer.json, and of Kimi's tokenization_kimi.py, whose names llama.cpp chose. `texts`
are those of text_corpus.py and cases_text.json of which at least two ways make something else; `ids` has by name the ids of each.
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from text_corpus import STRINGS, training_text

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
OUT = FIXTURES / "gguf_text" / "words.json"
TEXTS_MAX = 150
VOCAB_SIZE = 900
# Where the ways differ most.
EXTRA = [
    "in 2026, 12345678 and 3.14", "DON'T HTMLParser's iPhone OR'd we'LL", "日本語とkanji漢字カタカナ", "path/to//x\n\n  y/\n/z",
    "a#include <b>", "é́ ñ̃o", "१२३ ๑๒๓", "$x+=1;//end", "(foo)bar\"baz", "中文abc中文123", "  \n \t x", "Ünï's ß'S", "한국어 text",
]  # fmt: skip# What random texts are made of.
ATOMS = [
    "don't", "HTML", "Parser", " ", "  ", "\n", "\r\n", "123", "4567", "漢字", "かな", "é", "é", "ß", "!", "//", "#inc", "_x",
    "…", "한국", "๑๒", " \t", "'LL", "'s", "A", "bC", "$", "(x)", "я", "Δx", "😀", "नि", ".", ",",
]  # fmt: skip

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
ENDS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
UPPER, LOWER, HAN = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}", r"&&[^\p{Han}]"


def cased(ending: str, numbers: str, symbols: str, but: str = "") -> str:
    """Words of capitals and then small letters, as of o200k."""
    word = rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}{but}]*[{LOWER}{but}]+{ending}|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}{but}]+[{LOWER}{but}]*{ending}"
    return rf"{word}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+{symbols}|{ENDS}"


def simple(numbers: str, letters: str = r"\p{L}", symbols: str = r"[^\s\p{L}\p{N}]") -> str:
    return rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?{letters}+|{numbers}| ?{symbols}+[\r\n]*|{ENDS}"


# Patterns, whether the text becomes NFC before, and whether whole words are looked up before merges.
WAYS = {
    "qwen2": ([simple(r"\p{N}")], True, False),
    "qwen35": ([simple(r"\p{N}", r"[\p{L}\p{M}]", r"[^\s\p{L}\p{M}\p{N}]")], True, False),
    "llama-bpe": ([simple(r"\p{N}{1,3}")], False, True),
    "glm4": ([simple(r"\p{N}{1,3}")], False, True),
    "deepseek-v3": (
        [
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
            rf"|{ENDS}",
        ],
        False,
        False,
    ),
    "gpt-4o": ([cased(CONTRACTIONS + "?", r"\p{N}{1,3}", r"[\r\n/]*")], False, False),
    "minimax-m2": ([cased(CONTRACTIONS + "?", r"\p{N}{1,3}", r"[\r\n/]*")], False, False),
    "kimi-k2": ([r"[\p{Han}]+|" + cased(CONTRACTIONS + "?", r"\p{N}{1,3}", r"[\r\n]*", HAN)], False, False),
    "refact": ([r"\p{N}", GPT2], False, False),
    "hunyuan": ([simple(r"\p{N}")], True, False),
    "solar-open": ([simple(r"\p{N}")], False, False),
    "exaone-moe": (
        [
            rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]?"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ],
        False,
        False,
    ),
    "deepseek-llm": (
        [
            r"[\r\n]",
            r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
            r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
            r"\s+$",
            r"[一-龥ࠀ-一가-퟿]+",
            r"\p{N}+",
        ],
        False,
        False,
    ),
    "bailingmoe2": (
        [
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ],
        False,
        False,
    ),
    "lfm2": ([simple(r"\p{N}{1,3}")], False, True),
    "dbrx": ([simple(r"\p{N}{1,3}")], False, False),
    "tekken": ([cased("", r"\p{N}", r"[\r\n/]*")], False, True),
}


def vocabulary(texts: list[str]) -> dict:
    """`tokens` by id, and `merges`."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False))
    model = json.loads(made.to_str())["model"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return dict(tokens=sorted(model["vocab"], key=model["vocab"].get), merges=merges)


def tokenizer(vocabulary: dict, patterns: list[str], nfc: bool, ignore_merges: bool) -> Tokenizer:
    vocab = {token: id for id, token in enumerate(vocabulary["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in vocabulary["merges"]]
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in patterns]
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_])
    made.normalizer = normalizers.NFC() if nfc else normalizers.Sequence([])
    return made


def cases() -> str:
    every = json.loads((FIXTURES / "text" / "cases_text.json").read_text())["encode"]
    rng = random.Random(7)
    mixed = ["".join(rng.choices(ATOMS, k=7)) for _ in range(120)]
    texts = [*EXTRA, *mixed, *STRINGS, *(case["text"] for case in every)]
    texts = [text for text in dict.fromkeys(texts) if len(text) < 300]
    kept = vocabulary([*texts * 3, *list(training_text())[:200]])
    made = {name: tokenizer(kept, *way) for name, way in WAYS.items()}
    ids = {text: {name: one.encode(text).ids for name, one in made.items()} for text in texts}
    differ = [text for text in texts if len({tuple(way) for way in ids[text].values()}) > 1][:TEXTS_MAX]
    by_name = {name: [ids[text][name] for text in differ] for name in WAYS}
    lines = ",\n".join(f"{json.dumps(name)}:{json.dumps(rows, separators=(',', ':'))}" for name, rows in by_name.items())
    kept = ",\n".join(f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in kept.items())
    return f'{{{kept},\n"texts":{json.dumps(differ, ensure_ascii=False)},\n"ids":{{\n{lines}\n}}}}\n'


if __name__ == "__main__":
    if sys.argv[1:] == ["make"]:
        OUT.write_text(cases(), encoding="utf-8")
    elif sys.argv[1:] == ["check"]:
        assert OUT.read_text(encoding="utf-8") == cases()
    else:
        sys.exit(__doc__)
