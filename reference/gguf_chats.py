"""Makes tests/fixtures/gguf_chat/chat.gguf and chats.json: the tokenizer of tests/fixtures/text with BOS and EOS, and two templates, one for
conversations with tools, in a file as llama.cpp's converter writes it; and the conversations as transformers renders them.

    PYTHONPATH=LLAMA_CPP/gguf-py python reference/gguf_chats.py

LLAMA_CPP as in gguf_converted.py. `x` has the ids of that text, what it begins with included.
"""

import json
import shutil
import tempfile
from pathlib import Path

import gguf
from transformers import AutoTokenizer

from text import CHATS, OUT as TEXT, render

OUT = TEXT.parent / "gguf_chat"
BOS, EOS = "<|endoftext|>", "<|im_end|>"


def main() -> None:
    base = (TEXT / "chat_template.jinja").read_text(encoding="utf-8")
    default = "{{- bos_token }}" + base + "{%- if not add_generation_prompt %}{{- eos_token }}{%- endif %}"
    tool_use = "{{- bos_token ~ '[tools]' }}" + base
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        shutil.copy(TEXT / "tokenizer.json", path)
        config = json.loads((TEXT / "tokenizer_config.json").read_text()) | dict(bos_token=BOS, eos_token=EOS, add_bos_token=True)
        config["chat_template"] = [dict(name="default", template=default), dict(name="tool_use", template=tool_use)]
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        (path / "config.json").write_text("{}")
        hf = AutoTokenizer.from_pretrained(path)
        vocab, added = hf.get_vocab(), hf.added_tokens_decoder
        tokens = sorted(vocab, key=vocab.get)
        assert [vocab[token] for token in tokens] == list(range(len(tokens)))
        kinds = [gguf.TokenType.NORMAL if i not in added else
                 gguf.TokenType.CONTROL if added[i].special else gguf.TokenType.USER_DEFINED for i in range(len(tokens))]  # fmt: skip
        writer = gguf.GGUFWriter(OUT / "chat.gguf", "qwen3moe")
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types(kinds)
        gguf.SpecialVocab(path, load_merges=True).add_to_gguf(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    chats = [case | render(hf, case, None) for case in CHATS]
    x = [hf.bos_token_id, *hf("x", add_special_tokens=False)["input_ids"]]
    made = dict(bos=hf.bos_token_id, eos=[hf.eos_token_id], x=x, chats=chats)
    (OUT / "chats.json").write_text(json.dumps(made, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
