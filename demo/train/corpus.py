"""The mixture, and packing it into rows of tokens.

A token is kept in 16 bits: 12 of id, and two flags. OWN marks what the model itself is to write (all of a plain text);
the rest, system and user messages, has a smaller weight in the loss. START marks the first token of a document: state
and attention do not pass it.
"""

import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from chat import Chat, render
from chats import long_chat, memory_chat, simple_chat
from extraction import ask_record, extraction_chat, pairs_chat
from lists import list_chat
from questions import plain_story, question_chat, retell, story_chat
from sums import chain, compare, conversion, sum_chat, word_problem
from tools import call_chat, missing_chat, no_tool_chat, session_chat, two_calls_chat, unable_chat
from words import Source

OWN, START, IDS = 1 << 15, 1 << 14, (1 << 12) - 1
END = "<|endoftext|>"
ROW = 1024  # tokens


def plain_question(r: Source, think: bool) -> Chat:
    """Something that needs no tool."""
    return r.choices((simple_chat, sum_chat, story_chat, memory_chat, list_chat), (5, 3, 1, 2, 1))[0](r, think)


def no_tool(r: Source, think: bool) -> Chat:
    return no_tool_chat(r, think, plain_question)


def several(r: Source, think: bool) -> Chat:
    return long_chat(r, think, [simple_chat, sum_chat, story_chat, question_chat, memory_chat, list_chat, word_problem, conversion, extraction_chat])


# Share of documents. The long ones (tools, stories) have a larger share of the tokens than of the documents.
MIXTURE = [
    (story_chat, 9), (question_chat, 8), (retell, 1.2), (sum_chat, 9), (chain, 2.5), (compare, 1), (word_problem, 6), (conversion, 3.5), (list_chat, 7),
    (extraction_chat, 14), (pairs_chat, 4), (ask_record, 2.5), (simple_chat, 5), (memory_chat, 3),
    (call_chat, 16), (session_chat, 8), (two_calls_chat, 3), (missing_chat, 2), (unable_chat, 1.5), (no_tool, 2.5), (several, 2.5),
]
TOOLS = {call_chat, session_chat, two_calls_chat, missing_chat, unable_chat, no_tool}
PLAIN = 0.05  # of documents are stories without a chat around them
THINKING = 0.6  # of chats are rendered with thoughts


def document(r: Source, more_tools: float = 1) -> list[tuple[str, bool]]:
    """One document in pieces, each with whether the model writes it; `more_tools` times as often one with tools."""
    if r.chance(PLAIN / more_tools):
        return [(plain_story(r) + END, True)]
    make = r.choices([m for m, _ in MIXTURE], [w * (more_tools if m in TOOLS else 1) for m, w in MIXTURE])[0]
    return render(make(r, r.chance(THINKING)))


def encode(tokenizer: Tokenizer, documents: list[list[tuple[str, bool]]]) -> list[np.ndarray]:
    """Documents to flagged tokens. Pieces are encoded one by one: none begins or ends inside a pre-token."""
    pieces = [text for d in documents for text, _ in d]
    ids = iter([e.ids for e in tokenizer.encode_batch_fast(pieces, add_special_tokens=False)])
    out = []
    for d in documents:
        parts = [np.array(next(ids), np.uint16) | np.uint16(OWN if own else 0) for _, own in d]
        tokens = np.concatenate(parts)
        tokens[0] |= START
        out.append(tokens)
    return out


def pack(documents: list[np.ndarray], pad: int) -> np.ndarray:
    """Rows [n, ROW] of whole documents, longest first into the fullest row that has room; the rest is padding."""
    rows: list[list[np.ndarray]] = []
    room: list[list[int]] = [[] for _ in range(ROW + 1)]  # rows by the room they have left
    for d in sorted(documents, key=len, reverse=True):
        if len(d) > ROW:
            continue
        at = next((k for k in range(len(d), ROW + 1) if room[k]), None)
        if at is None:
            rows.append([])
            row, at = len(rows) - 1, ROW
        else:
            row = room[at].pop()
        rows[row].append(d)
        room[at - len(d)].append(row)
    packed = np.full((len(rows), ROW), pad | START, np.uint16)
    for i, parts in enumerate(rows):
        joined = np.concatenate(parts)
        packed[i, : len(joined)] = joined
    return packed


def shard(seed: int, tokenizer: Tokenizer, tokens: int = 2_000_000, more_tools: float = 1) -> np.ndarray:
    """Rows of about so many tokens, a function of the seed. Nearly empty rows are dropped."""
    r = Source(f"shard {seed}")
    documents, total = [], 0
    while total < tokens:
        batch = encode(tokenizer, [document(r, more_tools) for _ in range(500)])
        documents += batch
        total += sum(map(len, batch))
    rows = pack(documents, tokenizer.token_to_id(END))
    rows = rows[((rows & START) == 0).mean(1) > 0.5]
    np.random.default_rng(seed).shuffle(rows)
    return rows


def load_tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(Path(__file__).parent.parent / "model" / "tokenizer.json"))


if __name__ == "__main__":  # look at some documents: python corpus.py [seed]
    source = Source(sys.argv[1] if len(sys.argv) > 1 else 0)
    for _ in range(8):
        print("".join(text for text, _ in document(source)), end="\n" + "-" * 80 + "\n")
