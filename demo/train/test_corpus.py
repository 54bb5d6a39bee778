"""Holds the corpus to what the evaluation says of it: python test_corpus.py

What is held out stays out of training, and training has the model write every token that is a word or a piece of one.
"""

import re
from collections import Counter

import corpus
from made_up import MadeUp
from tools import pick_kind, schema
from words import BOYS, CITIES, GIRLS, HELD_TOOL_WORDS, Source, is_held

DOCUMENTS = 60_000
LEAST_SEEN = 3  # in that many documents; a whole training has seventy times as many


def held_words_stay_out() -> None:
    r = Source("held words")
    for _ in range(100_000):
        word = r.choice((r.open_word, r.name, r.made_up, lambda: r.unseen(CITIES)))()
        assert not is_held(word), word
    held = Source("held words", held=True)
    for words in (GIRLS, BOYS, CITIES):
        assert all(is_held(held.unseen(words)) for _ in range(1000))


def held_tools_stay_out() -> None:
    r, names = Source("held tools"), set()
    for _ in range(50_000):
        d = pick_kind(r)
        function = schema(r, d)[0]["function"]
        said = set(re.findall("[a-z]+", function["name"].lower())) | set(re.findall("[a-z]+", function["description"].lower()))
        assert not said & HELD_TOOL_WORDS, function
        names.add(function["name"])
    held = Source("held tools", held=True)
    for _ in range(5_000):
        d = pick_kind(held)
        if isinstance(d, MadeUp):
            assert is_held("tool", d.verb, d.noun), (d.verb, d.noun)
    print(f"{len(names):,} names of functions in 50,000 tools of training")


def every_token_is_written() -> None:
    tokenizer, r, written = corpus.load_tokenizer(), Source("coverage"), Counter()
    for _ in range(DOCUMENTS // 500):
        for tokens in corpus.encode(tokenizer, [corpus.document(r) for _ in range(500)]):
            written.update((tokens[(tokens & corpus.OWN) > 0] & corpus.IDS).tolist())
    vocabulary = tokenizer.get_vocab()
    words = [t for t in vocabulary if re.fullmatch("[A-Za-z]+", t)]
    rare = {t: written[vocabulary[t]] for t in words if written[vocabulary[t]] < LEAST_SEEN}
    print(f"of {len(words)} tokens that are letters alone {len(rare)} are written fewer than {LEAST_SEEN} times in {DOCUMENTS:,} documents: {rare}")
    assert len(rare) < 0.02 * len(words), "too many that are hardly ever copied"


if __name__ == "__main__":
    held_words_stay_out()
    held_tools_stay_out()
    every_token_is_written()
