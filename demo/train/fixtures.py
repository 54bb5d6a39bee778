"""Writes ../fixtures out of the bf16 checkpoint, with transformers as the outside truth.

    python fixtures.py BF16_FOLDER

    reference.json   prompts (text and token ids), transformers' greedy continuation (ids and text)
    logits.npy       f32 [n, vocab]: transformers' logits in float32 at the positions that reference.json names
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

OUT = Path(__file__).parent.parent / "fixtures"
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather of a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name of the city"}}, "required": ["city"]}}}
ALARM = {"type": "function", "function": {"name": "set_alarm", "description": "Set an alarm", "parameters": {
    "type": "object", "properties": {"time": {"type": "string", "description": "Time as HH:MM"}}, "required": ["time"]}}}
PROMPTS = [
    ("story", "Tell me a story about a fox named Felix and a bear.", {}),
    ("sum with thinking", "What is 347 + 285?", {}),
    ("sum without thinking", "What is 46 x 7?", {"enable_thinking": False}),
    ("tool call", "What is the weather in Paris?", {"tools": [WEATHER, ALARM]}),
    ("json", "Give me name, age and city as JSON.\n\nMeet Tom. Tom is 34 years old. Tom lives in Oslo.", {"enable_thinking": False}),
]
NEW = 48
POSITIONS = 4  # at the end of each prompt and its continuation, in even steps


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    # Not AutoTokenizer: for this family it puts its own split pattern in place of that of tokenizer.json.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    OUT.mkdir(exist_ok=True)
    cases, logits = [], []
    for name, question, options in PROMPTS:
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        ids = tokenizer(text, add_special_tokens=False).input_ids
        greedy = model.generate(torch.tensor([ids]), max_new_tokens=NEW, do_sample=False, temperature=None, top_k=None, top_p=None)[0, len(ids):].tolist()
        full = model(torch.tensor([ids + greedy])).logits[0]
        positions = np.linspace(len(ids) - 1, len(ids) + len(greedy) - 1, POSITIONS).astype(int).tolist()
        logits.append(full[positions].numpy())
        case = {"name": name, "messages": messages, **options, "prompt": text, "prompt_ids": ids, "greedy_ids": greedy,
                "greedy_text": tokenizer.decode(greedy), "positions": positions, "logits_std": float(full.std())}
        cases.append(case)
        print(f"{name}: {case['greedy_text']!r}")
    np.save(OUT / "logits.npy", np.concatenate(logits).astype(np.float32))
    (OUT / "reference.json").write_text(json.dumps({"cases": cases}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
