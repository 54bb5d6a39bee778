"""A conversation, and how the chat template writes it.

`render` does in Python what model/chat_template.jinja does, a hundred times faster; test_chat.py holds the two together.
It returns pieces with a flag: True for what the model itself writes, so that training can weigh it.
"""

import json
from dataclasses import dataclass, field


@dataclass
class Chat:
    kind: str
    messages: list[dict]  # the last one is the assistant's
    tools: list[dict] = field(default_factory=list)
    thinking: bool = True
    expect: dict = field(default_factory=dict)  # how a held-out answer is judged


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def reply(text: str, thought: str = "") -> dict:
    message = {"role": "assistant", "content": text}
    return message | {"reasoning_content": thought} if thought else message


def calls(*made: tuple[str, dict], thought: str = "", text: str = "") -> dict:
    """An assistant's message that calls tools."""
    functions = [{"type": "function", "function": {"name": n, "arguments": args}} for n, args in made]
    return reply(text, thought) | {"tool_calls": functions}


def result(value) -> dict:
    return {"role": "tool", "content": value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}


TOOLS_HEAD = "# Tools\n\nYou have these functions:\n\n<tools>"
TOOLS_TAIL = """
</tools>

To call a function, reply only in this form:

<tool_call>
<function=name_of_function>
<parameter=name_of_parameter>
value
</parameter>
</function>
</tool_call>"""


def call_text(call: dict) -> str:
    f = call["function"]
    text = f"<tool_call>\n<function={f['name']}>\n"
    for key, value in f["arguments"].items():
        value = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        text += f"<parameter={key}>\n{value}\n</parameter>\n"
    return text + "</function>\n</tool_call>"


def render(chat: Chat, prompt: bool = False) -> list[tuple[str, bool]]:
    """The conversation in pieces (text, written by the model); with `prompt`, only up to its last message."""
    messages = chat.messages[:-1] if prompt else chat.messages
    out, system = [], ""
    if messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    if chat.tools:
        listed = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in chat.tools)
        head = TOOLS_HEAD + listed + TOOLS_TAIL + ("\n\n" + system if system else "")
        out.append((f"<|im_start|>system\n{head}<|im_end|>\n", False))
    elif system:
        out.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))

    last_user = max(i for i, m in enumerate(messages) if m["role"] == "user")
    for i, m in enumerate(messages):
        if m["role"] == "user":
            out.append((f"<|im_start|>user\n{m['content']}<|im_end|>\n", False))
        elif m["role"] == "tool":
            opens = messages[i - 1]["role"] != "tool"
            closes = i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
            text = ("<|im_start|>user" if opens else "") + f"\n<tool_response>\n{m['content']}\n</tool_response>"
            out.append((text + ("<|im_end|>\n" if closes else ""), False))
        else:
            body = m["content"]
            for n, call in enumerate(m.get("tool_calls", [])):
                body += ("\n\n" if n == 0 and body else "\n" if n else "") + call_text(call)
            if i > last_user:
                # With thinking, the prompt ends in "<think>\n"; without, the empty thought is part of it.
                if chat.thinking:
                    out.append(("<|im_start|>assistant\n<think>\n", False))
                    body = f"{m.get('reasoning_content', '')}\n</think>\n\n{body}"
                else:
                    out.append(("<|im_start|>assistant\n<think>\n\n</think>\n\n", False))
                out += [(body + "<|im_end|>", True), ("\n", False)]
            else:  # thoughts of earlier turns are dropped
                out += [("<|im_start|>assistant\n", False), (body + "<|im_end|>", True), ("\n", False)]
    if prompt:
        out.append(("<|im_start|>assistant\n<think>\n" + ("" if chat.thinking else "\n</think>\n\n"), False))
    return out
