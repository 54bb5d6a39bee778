"""Holds the corpus to what the evaluation says of it: python test_corpus.py

What is held out stays out of training, and training has the model write every token that is a word or a piece of one.
"""

import re
from collections import Counter

import corpus
from kinds import HELD_BUILDS, HELD_KINDS, KINDS, build
from made_up import MadeUp
from more_kinds import MORE_KINDS
from tools import any_wish, call_chat, can_be_asked, make_wish, pick_kind, schema
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


def held_requests_stay_out() -> None:
    """No request of training is built as one for a held kind, and none has the words of one around other values."""
    for kind in KINDS + MORE_KINDS:
        assert can_be_asked(kind), kind.names
    for kind in MORE_KINDS:
        said = set(re.findall("[a-z]+", " ".join(kind.names + kind.whats + kind.asks).lower()))
        assert not said & HELD_TOOL_WORDS, kind.names
    assert build("Give {0} litres of juice to the old horse {1}.") in HELD_BUILDS and build("give {0} litres to horse {1}") not in HELD_BUILDS
    patterns = [re.compile(re.sub(r"\\\{\d\\\}", ".+", re.escape(ask.rstrip(".?"))), re.I) for kind in HELD_KINDS for ask in kind.asks]
    assert patterns[0].search("Please renew the card K-12 for 3 months.")
    r, dropped = Source("held requests"), 0
    for _ in range(50_000):
        d = pick_kind(r)
        tool, names = schema(r, d)
        text = make_wish(r, d, tool, names).text
        assert not any(p.search(text) for p in patterns), text
        dropped += build(any_wish(r, d, tool, names, False)[1]) in HELD_BUILDS
    held, found = Source("held requests", held=True), 0
    for _ in range(200):
        text = call_chat(held, False).messages[-2]["content"]
        found += any(p.search(text) for p in patterns)
    assert found > 20, "the patterns find what is held out"
    print(f"{dropped:,} of 50,000 requests were dropped, as they are built as one for a held kind")


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
    held_requests_stay_out()
    every_token_is_written()
