"""Trains the tokenizer on a sample of the corpus: byte-level BPE, NFC, one token per digit, added tokens at the end.

The model is to copy words that it has never seen, out of a sentence (" Oslo") into JSON ("Oslo") or a call. So only a
space is joined to a word, never a sign, and the trainer sees every text once more with each word at the start of a line:
whatever is a token with a space before it is one without, too, and a copy has the tokens of its original.

    python tokenizer.py        writes ../model/tokenizer.json, tokenizer_config.json and generation_config.json
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from corpus import document
from words import PIECES, Source

MODEL = Path(__file__).parent.parent / "model"
VOCAB_SIZE = 4096
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>"]
# Contractions, words with the space before them, single digits, runs of signs with single spaces in them (as in JSON),
# line ends, spaces.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+(?: [^\s\p{L}\p{N}]+)*[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DOCUMENTS = 60_000


def texts():
    PIECES.clear()  # words are not made of the pieces of an earlier tokenizer
    r = Source("tokenizer")
    for _ in range(DOCUMENTS):
        text = "".join(text for text, _ in document(r))
        yield from (text, text.replace(" ", "\n"))


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(NOT_SPECIAL), min_frequency=2,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in NOT_SPECIAL])
    return tokenizer


def write_json(name: str, value) -> None:
    (MODEL / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    tokenizer = train()
    if tokenizer.get_vocab_size() != VOCAB_SIZE:
        raise SystemExit(f"{tokenizer.get_vocab_size()} tokens: the sample is too small for {VOCAB_SIZE}")
    (MODEL / "tokenizer.json").write_text(tokenizer.to_str(pretty=False) + "\n")
    id_of = tokenizer.token_to_id
    entry = lambda t: dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=t in SPECIAL)
    write_json("tokenizer_config.json", {
        "added_tokens_decoder": {str(id_of(t)): entry(t) for t in SPECIAL + NOT_SPECIAL},
        "bos_token": None, "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "model_max_length": 2048, "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": None,
    })
    write_json("generation_config.json", {
        "eos_token_id": [id_of("<|im_end|>"), id_of("<|endoftext|>")], "pad_token_id": id_of("<|endoftext|>"),
        "do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95,
    })
    print(f"{VOCAB_SIZE} tokens, {(MODEL / 'tokenizer.json').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
