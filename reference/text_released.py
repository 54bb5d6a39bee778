"""Makes tests/fixtures/text_released: chat templates of released models, and what transformers makes of conversations with them.

    python reference/text_released.py            # renders the .jinja files that are there, and rewrites cases.json
    python reference/text_released.py FOLDER     # the same of all of a folder of templates, to compare once

tests/fixtures/text_released/README.md says where each template is from and under which licence.
"""

import json
import pathlib
import sys

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

import text
from text_chats import SYSTEM, USER

OUT = text.OUT.parent / "text_released"


def tool(name: str, description: str, properties: dict, required: list[str]) -> dict:
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


CITY = {"type": "string", "description": "Name\nof the city"}
UNIT = {"type": "string", "description": "°C or °F", "enum": ["°C", "°F"], "default": "°C"}
PLACE = {"type": "object", "description": "", "properties": {"lat": {"type": "number", "description": "N"}}, "required": []}
DAYS = {"type": "array", "description": "Which", "items": {"type": "integer"}}
WEATHER = tool("get_weather", "Wetter & <Regen> für 'eine' Stadt – 天気 \"now\"", dict(city=CITY, unit=UNIT, place=PLACE, days=DAYS), ["city"])
SEARCH = tool("search", "Search the web", {}, [])


def call(id: str, name: str, arguments) -> dict:
    return {"type": "function", "id": id, "function": {"name": name, "arguments": arguments}}


def result(id: str, name: str, content) -> dict:
    return {"role": "tool", "tool_call_id": id, "name": name, "content": content}


CALLS = {
    "role": "assistant",
    "content": "",
    "reasoning_content": "I need both tools.",
    "tool_calls": [call("call00001", "get_weather", {"city": "Zürich <&>'\"", "days": [1, 2]}), call("call00002", "search", {})],
}
RESULTS = [result("call00001", "get_weather", '{"temp": 21, "sky": "☀️"}'), result("call00002", "search", "nothing\nfound")]
SUNNY = {"role": "assistant", "content": "Sunny, 21 °C.", "reasoning_content": "The first tool says so."}
AGAIN = {"role": "user", "content": "  And tomorrow? 🎉 <b>&\n"}
TOOLS = [WEATHER, SEARCH]

CHATS = [
    {"name": "one question", "messages": [USER], "add_generation_prompt": True},
    {"name": "system and turns", "messages": [SYSTEM, USER, {"role": "assistant", "content": "Sunny. "}, AGAIN], "add_generation_prompt": True},
    {"name": "no generation prompt", "messages": [SYSTEM, USER, {"role": "assistant", "content": "Sunny."}]},
    {"name": "thinking off", "messages": [USER], "add_generation_prompt": True, "kwargs": {"enable_thinking": False, "thinking": False}},
    {"name": "thinking on", "messages": [SYSTEM, USER], "add_generation_prompt": True, "kwargs": {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}},
    {"name": "tools", "messages": [USER], "tools": TOOLS, "add_generation_prompt": True},
    {"name": "tools and system", "messages": [SYSTEM, USER], "tools": TOOLS, "add_generation_prompt": True, "kwargs": {"enable_thinking": False, "thinking": False}},
    {"name": "calls", "messages": [SYSTEM, USER, CALLS], "tools": TOOLS},
    {"name": "calls and results", "messages": [SYSTEM, USER, CALLS, *RESULTS], "tools": TOOLS, "add_generation_prompt": True},
    {"name": "one call and its result", "messages": [USER, CALLS | {"content": "Let me look.", "tool_calls": CALLS["tool_calls"][:1]}, RESULTS[0]], "tools": TOOLS[:1], "add_generation_prompt": True},
    {"name": "the answer", "messages": [SYSTEM, USER, CALLS, *RESULTS, SUNNY], "tools": TOOLS},
    {"name": "the next question", "messages": [SYSTEM, USER, CALLS, *RESULTS, SUNNY, AGAIN], "tools": TOOLS, "add_generation_prompt": True},
    {"name": "arguments as text", "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call("call00003", "search", '{"q": "a  b"}')]}, result("call00003", "search", "ok")], "tools": TOOLS},
    {"name": "thoughts of earlier turns", "messages": [USER, SUNNY, AGAIN, {"role": "assistant", "content": "Rain.", "reasoning_content": "A cloud."}, USER], "add_generation_prompt": True},
    {"name": "thoughts in the text", "messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSunny."}, AGAIN], "add_generation_prompt": True},
    {"name": "content in parts", "messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b\n"}]}], "add_generation_prompt": True},
    {"name": "unknown role", "messages": [USER, {"role": "robot", "content": "beep"}]},
]  # fmt: skip


def main() -> None:
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    chat_template_utils.datetime = text.FixedClock
    hf = AutoTokenizer.from_pretrained(text.OUT)
    expected = {}
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_text(encoding="utf-8")
        expected[path.name] = [text.render(hf, chat, template) for chat in CHATS]
    cases = {"now": "2026-03-04T05:06:07", "chats": CHATS, "expected": expected}
    (folder / "cases.json").write_text(json.dumps(cases, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print({name: sum("expected" in case for case in cases) for name, cases in expected.items()})


if __name__ == "__main__":
    main()
