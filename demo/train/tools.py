"""Tool calls: choose among tools, fill the arguments, use the result, ask for what is missing, or answer without one.

Tools come from kinds.py (what people really have) and made_up.py. Whole kinds, and pairs of verb and noun, are held out.
"""

import re
from dataclasses import dataclass
from typing import Callable

from chat import Chat, calls, reply, result, user
from kinds import HELD_BUILDS, HELD_KINDS, KINDS, Kind, build, said
from made_up import GENERIC_PARAMS, MadeUp, act, lifelike, named, named_request
from more_kinds import MORE_KINDS
from phrased import phrased
from values import code, message, task, title, topic
from words import Source, cap

# Shares of named, lifelike, real and phrased kinds; on the held-out side half of the real ones are of kinds that training never had.
SHARES, HELD_SHARES = (0.08, 0.22, 0.3, 0.4), (0.25, 0.25, 0.5, 0)
MORE_SHARE = 0.5  # of the real kinds in training are of more_kinds.py
# What the model answers itself, or is sure not to know: tools for it are not there when it is asked without meaning one.
ITS_OWN = {"calculate", "translate", "draw_image", "get_forecast", "get_weather", "get_news", "search", "define_word", "write_review"}

ORDERS = ["{V}", "{V}", "{V}", "Please {v}", "Please {v}", "I want to {v}", "I need to {v}", "I would like to {v}", "Help me to {v}"]
ORDERS_FOR_ME = ["{V}", "{V}", "Please {v}", "I want you to {v}"]  # "I want to wake me" is no English
ASKED = ["Can you {v}", "Can you {v}", "Could you {v}", "Could you please {v}", "Would you {v}"]
QUESTION = re.compile(r"(Where|Is|Are|Which|Do|Does|How|What|Who|When|Has|Will|Am|Can|Could|Would)\b")
FREE_TEXT = (message, task, topic)


@dataclass
class Wish:
    """A request, and the call that answers it."""

    tool: dict
    text: str
    call: tuple[str, dict]
    missing: str | None  # the name of a required parameter that the request leaves out
    answer: tuple[object, str]  # the tool's result, and what to say about it


def schema(r: Source, d: Kind) -> tuple[dict, list[str]]:
    """The JSON description of a tool, with one of its names for everything; and the names of its parameters."""
    names: list[str] = []
    for p in d.params:
        free = [n for n in p.names if n not in names] or [p.names[0] + "_2"]
        names.append(r.choice(free))
    properties = {}
    order = list(zip(names, d.params))
    if r.chance(0.3):
        r.shuffle(order)
    describe = r.chance(0.8)
    for n, p in order:
        properties[n] = {"type": p.type}
        if describe:
            properties[n]["description"] = r.choice(p.whats)
        if p.enum:
            properties[n]["enum"] = p.enum
        if p.type == "array":
            properties[n]["items"] = {"type": "string"}
    parameters = {"type": "object", "properties": properties, "required": [n for n, p in order if p.required]}
    return {"type": "function", "function": {"name": r.choice(d.names), "description": r.choice(d.whats), "parameters": parameters}}, names


# ------------------------------------------------------------------------------------------------------------ requests
def framed(r: Source, text: str, free_end: bool) -> str:
    """An order as somebody says it; a text without quotation marks at its end stays at the end."""
    orders = ORDERS_FOR_ME if re.search(r"\b(me|my)\b", text) else ORDERS
    if free_end:
        return r.choice(orders).format(V=cap(text), v=text)
    form = r.randrange(10)
    if form < 3:
        return r.choice(ASKED).format(v=text) + "?"
    if form == 3:
        return text
    if form == 4:
        return f"{cap(text)}, please."
    return r.choice(orders).format(V=cap(text), v=text) + "."


def request(r: Source, d: Kind, ask: str, values: dict[int, object]) -> tuple[str, str]:
    """`ask` with its values, and the other values behind it; and the same without values."""
    text = ask.format(*[said(values.get(i, "")) for i in range(len(d.params))])
    extra = [i for i in values if f"{{{i}}}" not in ask]
    if isinstance(d, MadeUp) or r.chance(0.3):
        r.shuffle(extra)
    text = " ".join([text.rstrip(".?")] + [d.params[i].mentioned(values[i]) for i in extra])
    template = " ".join([ask.rstrip(".?")] + [d.params[i].says for i in extra])
    places = re.findall(r"\{(\d)\}$", ask.rstrip("."))
    free_end = bool(places) and not extra and d.params[int(places[0])].value in FREE_TEXT
    if ask[0].islower():
        text = framed(r, text, free_end)
    elif not free_end:
        text += "?" if QUESTION.match(text.split(". ")[-1]) else "."
    is_name = re.match(r"\d|\S*[._@]\w", text)  # of a file, say: written as it is
    text = text if is_name or ask[0].islower() else cap(text)
    if r.chance(0.12):
        text = r.choice(("Hello! ", "Please help me. ", "Hi. ", "One more thing: ")) + text
    return text, template


def make_wish(r: Source, d: Kind, tool: dict, names: list[str], leave_out: bool = False) -> Wish:
    while True:
        wish, template = any_wish(r, d, tool, names, leave_out)
        if r.held or build(template) not in HELD_BUILDS:
            return wish
        leave_out = False  # what is left without it may never do


def any_wish(r: Source, d: Kind, tool: dict, names: list[str], leave_out: bool) -> tuple[Wish, str]:
    """A wish, and its request without values."""
    ask = r.choice(d.asks) if d.asks else ""
    values: dict[int, object] = {}
    for i, p in enumerate(d.params):
        if p.required or f"{{{i}}}" in ask or r.chance(0.5):
            v = p.value(r)
            while v in values.values() and p.type == "string" and not p.enum:
                v = p.value(r)
            values[i] = v
    missing = None
    needed = [i for i in values if d.params[i].required and d.params[i].type != "boolean" and f"{{{i}}}" not in ask]
    if leave_out and isinstance(d, MadeUp) and needed:
        i = r.choice(needed)
        del values[i]
        missing = names[i]
    by_name = isinstance(d, MadeUp) and d.by_name
    text, template = (named_request(r, d, values), "") if by_name else request(r, d, ask, values)
    arguments = {}
    for n in tool["function"]["parameters"]["properties"]:
        i = names.index(n)
        if i in values:
            arguments[n] = values[i]
    answer = d.result(r, [values.get(i, "") for i in range(len(d.params))]) if d.result else any_result(r, d)
    return Wish(tool, text, (tool["function"]["name"], arguments), missing, answer), template


def any_result(r: Source, d: Kind) -> tuple[object, str]:
    form = r.randrange(4)
    if form == 0:
        done = f"Done: {d.verb} the {d.said} worked." if isinstance(d, MadeUp) and d.by_name else "Done."
        return {"status": r.choice(("ok", "done", "success"))}, done
    if form == 1:
        x = code(r)
        return {"status": "ok", "id": x}, f"Done. The id is {x}."
    if form == 2:
        error = r.choice(("not found", "no access", "too late", "already done", "server is down", "not allowed"))
        return {"error": error}, f"It did not work: {error}."
    p = r.choice([p for p in GENERIC_PARAMS if callable(p[2]) and p[2] not in (message, title)])
    x = p[2](r)
    return {p[0]: x}, f"The {p[0]} is {x}."


# --------------------------------------------------------------------------------------------------------------- chats
Box = list[tuple[Kind, dict, list[str]]]
SYSTEMS = ["You are a helpful assistant.", "You help with tools.", "Be brief.", "You are demo, a small assistant.", "Use the tools when they help."]


def pick_kind(r: Source) -> Kind:
    while True:
        source = r.choices((named, lifelike, None, phrased), HELD_SHARES if r.held else SHARES)[0]
        if source is not None:
            d = source(r)
        elif r.held:
            d = r.choice(HELD_KINDS if r.chance(0.5) else KINDS)
        else:
            d = r.choice(MORE_KINDS if r.chance(MORE_SHARE) else KINDS)
        if r.held or can_be_asked(d):
            return d


def can_be_asked(d: Kind) -> bool:
    """Whether training has a way to ask for it: some request that is not built as one for a held kind."""
    needed = [(f"{{{i}}}", p.says) for i, p in enumerate(d.params) if p.required]
    return not d.asks or any(build(" ".join([ask.rstrip(".?")] + [says for place, says in needed if place not in ask])) not in HELD_BUILDS for ask in d.asks)


def toolbox(r: Source, size: int, without: frozenset | set = frozenset(), alike: float = 0.4) -> Box:
    """Some different tools; `alike` is how often a made-up one is easily taken for the one before."""
    box, seen = [], set(without)
    while len(box) < size:
        d = pick_kind(r)
        before = box[-1][0] if box else None
        if isinstance(d, MadeUp) and isinstance(before, MadeUp) and before.asks_by_verb and r.chance(alike):
            d = (named if d.by_name else act)(r, like=before)
            if not r.held and not can_be_asked(d):
                continue
        tool, names = schema(r, d)
        key = d.verb + d.noun if isinstance(d, MadeUp) else d.names[0]
        if key not in seen and tool["function"]["name"] not in seen:
            seen |= {key, tool["function"]["name"]}
            box.append((d, tool, names))
    return box


def thought_of(wish: Wish) -> str:
    return f"The tool {wish.call[0]} can do this."


def pack(r: Source, kind: str, messages: list[dict], box: Box, think: bool, expect: dict) -> Chat:
    if not think:
        messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in messages]
    if r.chance(0.25):
        messages = [{"role": "system", "content": r.choice(SYSTEMS)}] + messages
    return Chat(kind, messages, [tool for _, tool, _ in box], think, expect)


def call_chat(r: Source, think: bool) -> Chat:
    """One request and its call."""
    box = toolbox(r, r.choices((1, 2, 3, 4), (3, 4, 3, 1))[0])
    wish = make_wish(r, *r.choice(box))
    final = calls(wish.call, thought=thought_of(wish))
    return pack(r, "tool calls", [user(wish.text), final], box, think, {"calls": [list(wish.call)]})


def missing_chat(r: Source, think: bool) -> Chat:
    """A request that leaves out what the tool needs: ask for it."""
    while True:
        box = toolbox(r, r.choices((1, 2, 3), (3, 3, 1))[0])
        wish = make_wish(r, *r.choice(box), leave_out=True)
        if wish.missing:
            break
    final = reply(f"What is the {wish.missing.replace('_', ' ')}?", f"The tool {wish.call[0]} needs {wish.missing}, and it is not given.")
    return pack(r, "tool asks", [user(wish.text), final], box, think, {"text": final["content"]})


def result_chat(r: Source, think: bool, turns: int = 2) -> Chat:
    """Calls are made and answered, one request after the other; the last one may still be without its result."""
    box = toolbox(r, r.choices((1, 2, 3), (3, 3, 1))[0])
    messages: list[dict] = []
    for _ in range(r.randrange(1, turns + 1)):
        for m in messages:
            m.pop("reasoning_content", None)
        wish = make_wish(r, *r.choice(box))
        messages += [user(wish.text), calls(wish.call, thought=thought_of(wish)), result(wish.answer[0]), reply(wish.answer[1], "The tool has answered.")]
    expect: dict = {"text": wish.answer[1]}
    if len(messages) > 4 and r.chance(0.5):
        messages, expect = messages[:-2], {"calls": [list(wish.call)]}
    return pack(r, "tool calls" if "calls" in expect else "tool results", messages, box, think, expect)


def session_chat(r: Source, think: bool) -> Chat:
    """Several requests for one set of tools, for training: many calls for each schema that is read."""
    return result_chat(r, think, turns=4)


def two_calls_chat(r: Source, think: bool) -> Chat:
    """Two requests at once: two calls in one message."""
    box = toolbox(r, r.choices((1, 2, 3), (2, 4, 1))[0])
    w1, w2 = make_wish(r, *r.choice(box)), make_wish(r, *r.choice(box))
    text = w1.text + ("" if w1.text[-1] in ".?" else ".") + r.choice((" And then: ", " Also: ", " Then this: ", " And: ")) + w2.text
    final = calls(w1.call, w2.call, thought=f"These are two calls: {w1.call[0]} and {w2.call[0]}.")
    messages, expect = [user(text), final], {"calls": [list(w1.call), list(w2.call)]}
    if r.chance(0.3):
        answer = f"{w1.answer[1]} {w2.answer[1]}"
        messages += [result(w1.answer[0]), result(w2.answer[0]), reply(answer, "The tools have answered.")]
        expect = {"text": answer}
    return pack(r, "tool calls" if "calls" in expect else "tool results", messages, box, think, expect)


def no_tool_chat(r: Source, think: bool, plain: Callable) -> Chat:
    """Tools are there, but the question needs none: `plain` makes it and its answer."""
    box = toolbox(r, r.choices((1, 2, 3), (4, 3, 1))[0], ITS_OWN)
    inner = plain(r, think)
    messages = [m for m in inner.messages if m["role"] != "system"]
    return pack(r, "no tool", messages, box, think, inner.expect | {"no_call": True})


def unable_chat(r: Source, think: bool) -> Chat:
    """The request needs a tool that is not there."""
    # Few alike: a model that has seen many refuses whatever says another verb than the tool.
    box = toolbox(r, r.choices((2, 3, 4), (3, 3, 1))[0], ITS_OWN, 0.4 if r.held else 0.1)
    wish = make_wish(r, *box.pop(r.randrange(len(box))))
    final = reply("None of my tools can do that.", "No tool fits this.")
    return pack(r, "no tool", [user(wish.text), final], box, think, {"text": final["content"], "no_call": True})
