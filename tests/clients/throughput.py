"""Tokens a second and bytes read for each with 1, 4 and 8 clients, and the time to the first token of a second turn:
python throughput.py http://127.0.0.1:PORT. Needs nothing but Python; the numbers go to EXPERIMENTS.md.
"""

import json
import sys
import threading
import time
import urllib.request

URL = sys.argv[1]
TOKENS = 48


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def metric(name):
    with urllib.request.urlopen(f"{URL}/metrics") as response:
        lines = response.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def generate(client):
    prompt = f"{client} Once upon a time there was a "
    post("/v1/completions", {"prompt": prompt, "max_tokens": TOKENS, "temperature": 1, "seed": client, "ignore_eos": True})


def main():
    generate(0)
    print("clients | tokens/s | MB read/token", flush=True)
    for clients in (1, 4, 8):
        read, began = metric("outpour_read_bytes_total"), time.time()
        threads = [threading.Thread(target=generate, args=(100 * clients + i,)) for i in range(clients)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        tokens, seconds = clients * TOKENS, time.time() - began
        print(f"{clients} | {tokens / seconds:.2f} | {(metric('outpour_read_bytes_total') - read) / tokens / 1e6:.1f}", flush=True)
    words = "The fox and the owl met at the river, and they spoke of many things. " * 16
    messages = [{"role": "system", "content": words}, {"role": "user", "content": "Hello"}]
    for turn in (1, 2):
        began = time.time()
        answer = post("/v1/chat/completions", {"messages": messages, "max_tokens": 1, "temperature": 0})
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        print(f"turn {turn}: {usage['prompt_tokens']} tokens, {cached} found, first token after {time.time() - began:.2f} s", flush=True)
        said = answer["choices"][0]["message"]["content"] or "x"
        messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And then?"}]


main()
