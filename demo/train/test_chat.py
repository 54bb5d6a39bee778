"""Holds chat.render to model/chat_template.jinja, on random conversations: python test_chat.py"""

import json

from transformers.utils.chat_template_utils import render_jinja_template

from chat import render
from corpus import MIXTURE
from export import MODEL
from words import Source


def main() -> None:
    template = (MODEL / "chat_template.jinja").read_text()
    r, n = Source("template"), 0
    for make, _ in MIXTURE:
        for k in range(15):
            chat = make(r, k % 3 != 0)
            # The template writes a thought where there is one; the last message's is what the prompt opens.
            text = "".join(t for t, _ in render(chat, prompt=True))
            (theirs,), _ = render_jinja_template(
                [chat.messages[:-1]], tools=chat.tools or None, chat_template=template, add_generation_prompt=True, enable_thinking=chat.thinking
            )
            assert theirs == text, f"{json.dumps(chat.messages)}\n{theirs!r}\n{text!r}"
            (theirs,), _ = render_jinja_template([chat.messages], tools=chat.tools or None, chat_template=template)
            text = "".join(t for t, _ in render(chat))
            assert theirs == text, f"{json.dumps(chat.messages)}\n{theirs!r}\n{text!r}"
            n += 1
    print(f"{n} conversations: the same text")


if __name__ == "__main__":
    main()
