"""The official clients of OpenAI, Anthropic and Prometheus against a server: python clients.py http://127.0.0.1:PORT KEY

Words are a small model's and are not compared with anything but themselves; types, events, counts and errors are.
"""

import json
import sys
import urllib.request

import anthropic
import openai
from prometheus_client.parser import text_string_to_metric_families

URL, KEY = sys.argv[1:3]
SCHEMA = {
    "type": "object", "additionalProperties": False, "required": ["city"],
    "properties": {"city": {"type": "string", "enum": ["Oslo", "Bergen"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
}
QUESTION = [{"role": "user", "content": "What is the weather in Oslo?"}]


def openai_chat(client):
    asked = {"model": "m", "messages": QUESTION, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    assert len(whole.choices[0].logprobs.content) >= whole.usage.completion_tokens - 1
    chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == (whole.choices[0].message.content or "")


def openai_tools(client):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
    forced = {"type": "function", "function": {"name": "weather"}}
    asked = {"model": "m", "tools": tools, "temperature": 0, "max_tokens": 400, "extra_body": {"thinking_budget": 16}}
    whole = client.chat.completions.create(**asked, messages=QUESTION, tool_choice=forced)
    call = whole.choices[0].message.tool_calls[0]
    assert whole.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Bergen")
    names, parts = [], []
    for chunk in client.chat.completions.create(**asked, messages=QUESTION, tool_choice=forced, stream=True):
        for part in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            names += [part.function.name] if part.function.name else []
            parts += [part.function.arguments] if part.function.arguments else []
    assert names == ["weather"] and len(parts) > 1 and "".join(parts) == call.function.arguments
    with client.chat.completions.stream(**asked, messages=QUESTION, tool_choice=forced) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
    assert [event.arguments for event in done] == [call.function.arguments]
    turn = [*QUESTION, whole.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    second = client.chat.completions.create(**asked, messages=turn)
    assert second.usage.prompt_tokens_details.cached_tokens > whole.usage.prompt_tokens // 2


def openai_forms(client):
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}
    asked = {"model": "m", "messages": QUESTION, "max_tokens": 400, "temperature": 0, "extra_body": {"thinking_budget": 16}}
    answer = client.chat.completions.create(**asked, response_format=form)
    assert json.loads(answer.choices[0].message.content)["city"] in ("Oslo", "Bergen")


def openai_completions(client):
    answer = client.completions.create(model="m", prompt="Once upon a time", max_tokens=5, logprobs=2, echo=True, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text.startswith("Once upon a time") and logprobs.token_logprobs[0] is None
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    assert client.models.list().data[0].id


def openai_responses(client):
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}]
    asked = {"model": "m", "input": QUESTION, "tools": tools, "max_output_tokens": 400, "temperature": 0, "extra_body": {"thinking_budget": 16}}
    whole = client.responses.create(**asked, tool_choice="required", store=False)
    calls = [item for item in whole.output if item.type == "function_call"]
    assert calls and json.loads(calls[0].arguments)["city"] in ("Oslo", "Bergen")
    parts = list(client.responses.create(**asked, tool_choice="required", store=False, stream=True))
    deltas = [event.delta for event in parts if event.type == "response.function_call_arguments.delta"]
    done = [event.arguments for event in parts if event.type == "response.function_call_arguments.done"]
    assert len(deltas) > len(done) and "".join(deltas) == "".join(done) == "".join(call.arguments for call in calls)
    turn = [*QUESTION, calls[0].model_dump(exclude_none=True), {"type": "function_call_output", "call_id": calls[0].call_id, "output": "sunny"}]
    events = list(client.responses.create(**{**asked, "input": turn}, stream=True))
    assert events[0].type == "response.created" and events[-1].type in ("response.completed", "response.incomplete")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said == events[-1].response.output_text


def openai_errors(client):
    for wrong, field in [({"temperature": 9000}, "temperature"), ({"messages": []}, "messages")]:
        try:
            client.chat.completions.create(**{"model": "m", "messages": QUESTION, **wrong})
        except openai.BadRequestError as error:
            assert field in str(error), error
        else:
            raise AssertionError(f"{wrong} was taken")
    try:
        openai.OpenAI(base_url=f"{URL}/v1", api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError:
        pass
    else:
        raise AssertionError("a wrong key was taken")


def anthropic_messages(client):
    asked = {"model": "m", "max_tokens": 60, "messages": QUESTION, "system": "You are brief.", "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    counted = client.messages.count_tokens(model="m", messages=QUESTION, system="You are brief.")
    assert counted.input_tokens == whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(block.text for block in whole.content if block.type == "text")
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def anthropic_tools(client):
    tools = [{"name": "weather", "description": "of a city", "input_schema": SCHEMA}]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    asked = {"model": "m", "max_tokens": 400, "tools": tools, "thinking": thinking, "extra_body": {"temperature": 0}}
    forced = {"type": "tool", "name": "weather"}
    with client.messages.stream(**asked, messages=QUESTION, tool_choice=forced) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    use = [block for block in final.content if block.type == "tool_use"][0]
    assert len(parts) > 1 and json.loads("".join(parts)) == use.input
    whole = client.messages.create(**asked, messages=QUESTION, tool_choice=forced)
    assert [block.input for block in whole.content if block.type == "tool_use"] == [use.input]
    assert final.stop_reason == "tool_use" and use.input["city"] in ("Oslo", "Bergen")
    answer = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}]}
    turn = [*QUESTION, {"role": "assistant", "content": [block.model_dump() for block in final.content]}, answer]
    second = client.messages.create(**asked, messages=turn)
    assert second.usage.cache_read_input_tokens > 20, second.usage


def anthropic_errors(client):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    try:
        client.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": [image]}])
    except anthropic.BadRequestError as error:
        assert "messages[0].content[0]" in str(error)
    else:
        raise AssertionError("an image was taken")


def prometheus():
    request = urllib.request.Request(f"{URL}/metrics", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=60) as response:
        families = list(text_string_to_metric_families(response.read().decode()))
    named = {family.name: family for family in families}
    assert len(named) == len(families) and all(family.documentation and family.type != "unknown" for family in families)
    assert named["outpour_requests"].samples[0].value > 10 and named["outpour_generated_tokens"].samples[0].value > 100
    times = [sample.value for sample in named["outpour_first_token_seconds"].samples if sample.name.endswith("_bucket")]
    count = next(s.value for s in named["outpour_first_token_seconds"].samples if s.name.endswith("_count"))
    assert times == sorted(times) and times[-1] == count > 0


def main():
    ours = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
    theirs = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)
    checks = [openai_chat, openai_tools, openai_forms, openai_completions, openai_responses, openai_errors]
    for check in checks:
        check(ours)
        print(f"{check.__name__}: ok", flush=True)
    for check in [anthropic_messages, anthropic_tools, anthropic_errors]:
        check(theirs)
        print(f"{check.__name__}: ok", flush=True)
    prometheus()
    print("prometheus: ok", flush=True)


main()
