"""The held-out suite: tasks with their answers, and texts for perplexity, all of the side that training never saw.

    python heldout.py        writes ../heldout.jsonl

A line is a task: kind, messages up to the question, tools, enable_thinking, expect; or a text: kind "text", text.
What `expect` may hold (see evaluate.judge): number, text, json, calls, items, story, no_call.
"""

import json
import random
from pathlib import Path

from chat import Chat, render
from chats import memory_chat
from corpus import END, no_tool
from extraction import extraction_chat, pairs_chat
from lists import counting, odd, order, some
from questions import plain_story, question_chat, story_chat
from sums import chain, conversion, sum_chat, word_problem
from tools import call_chat, missing_chat, result_chat, two_calls_chat, unable_chat
from words import Source

OUT = Path(__file__).parent.parent / "heldout.jsonl"
# How many tasks of each maker. Kinds are those of the chats: result_chat makes both calls and answers.
TASKS = [
    (call_chat, 80), (two_calls_chat, 12), (result_chat, 40), (missing_chat, 10), (unable_chat, 10), (no_tool, 16), (sum_chat, 80), (chain, 20),
    (word_problem, 50), (conversion, 30), (extraction_chat, 90), (pairs_chat, 20), (question_chat, 40), (order, 25), (odd, 8), (some, 10), (counting, 7),
    (memory_chat, 20), (story_chat, 20),
]
TEXTS = 80
THINKING = 0.75


def tasks(seed: str, times: float = 1) -> list[Chat]:
    """The suite, or one `times` as large, of other random choices for another seed."""
    r = Source(seed, held=True)
    chats = []
    for make, n in TASKS:
        for _ in range(round(n * times)):
            while True:
                chat = make(r, r.chance(THINKING))
                # Small talk has many good answers.
                if make is not story_chat or "story" in chat.expect:
                    break
            if make is no_tool:
                chat.expect = {"no_call": True}
            chats.append(chat)
    return chats


def texts(seed: str, times: float = 1) -> list[str]:
    """Plain stories, and whole chats as the template writes them."""
    r = Source(seed + " texts", held=True)
    stories = [plain_story(r) + END for _ in range(round(TEXTS * times / 2))]
    chats = tasks(seed + " for texts", times * 0.3)
    random.Random(0).shuffle(chats)
    return stories + ["".join(t for t, _ in render(c)) for c in chats[: round(TEXTS * times / 2)]]


def main() -> None:
    with open(OUT, "w") as out:
        for i, c in enumerate(tasks("suite")):
            line = {"id": i, "kind": c.kind, "messages": c.messages[:-1], "enable_thinking": c.thinking, "expect": c.expect}
            if c.tools:
                line["tools"] = c.tools
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
        for text in texts("suite"):
            out.write(json.dumps({"kind": "text", "text": text}, ensure_ascii=False) + "\n")
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
