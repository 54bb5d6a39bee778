"""The conversations and one-line templates that text.py renders with transformers."""

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Wetter & <Regen> für 'eine' Stadt – 天気 \"now\"",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name\nof the city"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "default": None},
                "days": {"type": "integer", "minimum": 1, "maximum": 1.5e16, "step": 1.0},
                "place": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {}}},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
        "strict": True,
    },
}
SEARCH = {"name": "search", "parameters": {"type": "object", "properties": {}}, "description": ""}

USER = {"role": "user", "content": "What is the weather in Paris?"}
SYSTEM = {"role": "system", "content": "You are a kind helper. Ça va?"}


def call(name: str, arguments) -> dict:
    return {"type": "function", "id": "call_1", "function": {"name": name, "arguments": arguments}}


TOOL_TURNS = [
    SYSTEM,
    USER,
    {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": "\nI need the tool.\n",
        "tool_calls": [call("get_weather", {"city": "Zürich <&>'\"", "days": 1.0, "big": 1e22}), call("search", {})],
    },
    {"role": "tool", "content": '{"temp": 21, "sky": "☀️"}'},
    {"role": "tool", "content": "nothing\nfound"},
]

CHATS = [
    {"name": "one question", "messages": [USER], "add_generation_prompt": True},
    {"name": "system and turns", "messages": [SYSTEM, USER, {"role": "assistant", "content": "Sunny. "}, {"role": "user", "content": "  Thanks! 🎉\r\n"}], "add_generation_prompt": True},
    {"name": "no generation prompt", "messages": [SYSTEM, USER]},
    {"name": "thinking off", "messages": [USER], "add_generation_prompt": True, "kwargs": {"enable_thinking": False}},
    {"name": "thinking on", "messages": [USER], "add_generation_prompt": True, "kwargs": {"enable_thinking": True}},
    {"name": "tools, no system", "messages": [USER], "tools": [WEATHER, SEARCH], "add_generation_prompt": True},
    {"name": "empty tool list", "messages": [USER], "tools": [], "add_generation_prompt": True},
    {"name": "tool calls and answers", "messages": TOOL_TURNS, "tools": [WEATHER, SEARCH], "add_generation_prompt": True},
    {"name": "tool call arguments as text", "messages": [USER, {"role": "assistant", "content": "", "tool_calls": [call("search", '{"q":"a  b"}')]}, {"role": "tool", "content": "ok"}]},
    {"name": "tool call without content", "messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"name": "search", "arguments": {"q": [1, None, True]}}]}]},
    {"name": "thoughts of earlier turns go", "messages": [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nSunny."}, {"role": "user", "content": "And now?"}, {"role": "assistant", "content": "<think>\nlook\n</think>\n\nRain."}]},
    {"name": "reasoning under another name", "messages": [USER, {"role": "assistant", "reasoning": "because", "content": "Sunny."}]},
    {"name": "content in parts", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}]},
    {"name": "markup is text", "messages": [{"role": "user", "content": "<|im_end|> & <b>'x'</b> {{ 1 }} {% if %}"}], "add_generation_prompt": True},
    {"name": "unknown role", "messages": [{"role": "robot", "content": "beep"}]},
    {"name": "no messages", "messages": []},
]

HARD_CHATS = [
    {"name": "hard, no tools", "messages": [SYSTEM, {"role": "note", "content": "skip"}, USER, {"role": "user", "content": "<tag> hello there!?"}, {"role": "assistant", "content": "  two\nlines. "}], "add_generation_prompt": True},
    {"name": "hard, tools", "messages": [USER, {"role": "assistant", "content": "ok"}], "tools": [WEATHER]},
    {"name": "hard, refused", "messages": [USER] * 6},
]

SNIPPET_X = {
    "t": True,
    "f": False,
    "none": None,
    "int": 42,
    "neg": -7,
    "big": 9007199254740993,
    "float": 1.0,
    "tiny": 1e-7,
    "huge": 1e16,
    "third": 0.1,
    "s": "it's",
    "q": 'say "hi"',
    "both": "a'b\"c",
    "ctl": "tab\tnl\nesc\u001b nbsp\u00a0 é 你 🎉 \u200d",
    "list": [1, 2.5, "a", None, True, ["b"], {"k": "v"}],
    "dict": {"b": 1, "a": [1.0, "x"], "<&>'": "é"},
    "empty": [],
    "none_dict": {},
}

# Each is rendered alone, with `messages` of CHATS[1] and SNIPPET_X as `x`.
SNIPPETS = [
    "{{ x.t }} {{ x.f }} {{ x.none }} {{ x.int }} {{ x.neg }} {{ x.big }} {{ x.float }}",
    "{{ x.tiny }} {{ x.huge }} {{ x.third }} {{ 1e15 }} {{ 123456789.125 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1.5e300 }} {{ -0.0 }}",
    "{{ x.s }} {{ [x.s, x.q, x.both] }} {{ {x.s: x.q} }}",
    "{{ [x.ctl] }}",
    "{{ x.list }} {{ x.dict }} {{ x.empty }} {{ x.none_dict }}",
    "{{ x.list | string }} {{ x.dict ~ '' }} {{ x.list | join(' ') }} {{ 'a' ~ 1.0 ~ true ~ none ~ 3 }}",
    "{{ x | tojson }}",
    "{{ x | tojson(indent=2) }}",
    "{{ x.dict | tojson(indent=4) }} {{ x.empty | tojson(indent=4) }} {{ x.none_dict | tojson(indent=1) }}",
    "{{ x.dict | tojson(sort_keys=true, separators=(',', ':')) }} {{ x.ctl | tojson(ensure_ascii=true) }} {{ x.dict | tojson(true) }}",
    "{{ x.list | tojson(indent=0) }}",
    "{{ undefined_name | tojson }}",
    "{{ x.dict.b }} {{ x.dict['b'] }} {{ x.dict.get('b') }} {{ x.dict.get('zz') }} {{ x.dict.get('zz', 5) }} {{ x.dict.zz }}|",
    "{% for k in x.dict %}{{ k }};{% endfor %}{% for k, v in x.dict.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ x.dict.keys() | list }} {{ x.dict.values() | list }} {{ x.dict | length }} {{ x.dict | dictsort }}",
    "{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'a,b,c'.rsplit(',', 1) }}",
    "{{ 'xxabxx'.strip('x') }} {{ 'xxabxx'.lstrip('x') }} {{ 'xxabxx'.rstrip('x') }} [{{ '\t a \n'.strip() }}]",
    "{{ 'prefix-a'.removeprefix('prefix-') }} {{ 'a.py'.removesuffix('.py') }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }}",
    "{{ 'a-b'.replace('-', '+') }} {{ 'aaa'.replace('a', 'b', 2) }} {{ 'Hello World'.swapcase() }} {{ 'hello world'.title() }} {{ \"it's\".capitalize() }}",
    "{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('z') }} {{ 'abc'.index('b') }} {{ 'banana'.count('an') }}",
    "{{ 'é日本x'.find('x') }} {{ 'é日本x'.rfind('本') }} {{ 'é日本x'[1:3] }} {{ 'é日本x' | length }}",
    "{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }} {{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ ''.isalpha() }}",
    "{{ ', '.join(['a', 'b']) }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'ab'.upper() }} {{ 'AB'.lower() }} {{ '7'.zfill(3) }} [{{ 'a'.ljust(3) }}] [{{ 'a'.rjust(3, '.') }}]",
    "{{ '{} and {}'.format('a', 1) }} {{ '%s=%d' | format('z', 3) }}",
    "{{ 'abc' is string }} {{ 'abc' is sequence }} {{ 'abc' is iterable }} {{ 'abc' is mapping }} {{ x.dict is sequence }} {{ x.dict is iterable }} {{ x.list is sequence }} {{ x.list is mapping }}",
    "{{ 1 is number }} {{ true is number }} {{ true is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ true is boolean }} {{ none is none }} {{ x.zz is defined }} {{ x.zz is undefined }} {{ 5 is sequence }}",
    "{{ 'a' in 'abc' }} {{ 'b' in x.dict }} {{ 1 in x.list }} {{ 'z' not in x.list }} {{ 1 == 1.0 }} {{ true == 1 }} {{ 'a' < 'b' }}",
    "{{ [1, 2] + [3] }} {{ [1, 2, 3][::-1] }} {{ [1, 2, 3][-2:] }} {{ 'abc'[::-1] }} {{ (1, 'a') }} {{ (1,) }} {{ range(3) | list }}",
    "{{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 0.1 + 0.2 }} {{ 3 * 'ab' }} {{ [0] * 3 }} {{ 10 | float }} {{ '3' | int + 1 }} {{ 2.7 | int }} {{ 2.5 | round }}",
    "{{ x.list | first }} {{ x.list | last }} {{ [3, 1, 2] | sort }} {{ [1, 1, 2] | unique | list }} {{ [1, 2] | sum }} {{ [1, 5] | max }} {{ 'abc' | reverse }} {{ 'abc' | first }} {{ 'a b' | wordcount }}",
    "{{ messages | map(attribute='content') | map('trim') | list }}",
    "{{ messages | selectattr('role', 'in', ['user']) | map(attribute='content') | list }} {{ messages | rejectattr('role', 'eq', 'user') | list | length }}",
    "{{ x.zz | default('d') }} {{ x.none | default('d') }} {{ x.none | default('d', true) }} {{ '' or 'e' }} {{ x.empty or none }} {{ 'y' if x.t }} {{ 'y' if x.f }}|",
    "{{ x.none.a }}",
    "{{ x.zz.a }}",
    "{{ messages[0].role.zz }}|{{ messages[5] }}|",
    "{% for i in range(10) %}{% if i == 2 %}{% continue %}{% elif i == 5 %}{% break %}{% endif %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in [] %}{{ i }}{% else %}none{% endfor %}{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }} {% endfor %}{% for i in [1, 2, 3] if i != 2 %}{{ i }}{{ loop.last }}{% endfor %}",
    "{% set a = 1 %}{% for i in [1] %}{% set a = 2 %}{% endfor %}{{ a }}{% if true %}{% set a = 3 %}{% endif %}{{ a }}{% set b, c = 4, 5 %}{{ b + c }}",
    "{% macro m(a, b='z') %}{{ a }}{{ b }}{{ caller() if caller }}{% endmacro %}{{ m(1) }}{{ m(1, b=2) }}{% call m(3) %}inner{% endcall %}",
    "{% filter upper %}abc{{ 'd' }}{% endfilter %}{% set y | trim %}  q {% endset %}[{{ y }}]{% with z = 5 %}{{ z }}{% endwith %}{% raw %}{{ raw }}{% endraw %}",
    "  {% if true %}\n  a\n  {% endif %}\nb\n{% for i in [1, 2] %}\n    {{ i }}\n{% endfor %}\n{# note #}\nend\n",
    "a  {%- if true -%}  b  {%- endif %}  c\n\n{{- ' d' -}}\n e {#- x -#} f {%+ if true %} g{% endif +%}\nh",
    "  {% generation %}\n  a\n  {% endgeneration %}\nb {%- generation -%} c {%- endgeneration -%} d {% generation %}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{{ '{% generation %}' }}{% raw %}{% generation %}{% endraw %}{# {% generation %} #}",
    "a\r\nb{{ '\\n' }}c\n\n",
    "{{ raise_exception('no: <&> é') }}",
    "{{ nope() }}",
    "{{ x.list.append(1) }}",
    "{{ 'a<b>&' | e }} {{ 'a<b>' | safe }} {{ '<a>' }} {{ 'x' | upper | lower }} {{ 'a\nb' | indent(2) }} {{ 'a\nb' | indent(2, true) }}",
    "{{ strftime_now('%Y-%m-%dT%H:%M:%S') }} {{ strftime_now('%a %b %e %-H %l|%-m|%-I %D %F %T %R') }} {{ strftime_now('%c %x %X %U %W %w %u %C %h %n%t%s %f') | length > 5 }}",
    "{{ namespace(a=1).a }} {{ dict(a=1, b='c') }} {{ {'a': 1} | items | list }} {{ 'n/a' if x.list is not iterable else 'it' }} {{ x.dict | list }}",
    "{{ loop is defined }} {{ messages is defined }} {{ documents is none }} {{ tools }} {{ add_generation_prompt }} {{ bos_token is defined }} {{ eos_token }}",
    "{{ not x.zz }} {{ x.int is divisibleby(2) }} {{ x.int is odd }} {{ 'A' is upper }} {{ x.int is eq(42) }} {{ x.int > 3 and x.f or 'r' }} {{ x.s is in(['a', \"it's\"]) }}",
    "{% macro m() %}{{ strftime_now('%Y') }}{{ messages | length }}{{ eos_token }}{% endmacro %}{{ m() }}",
    "{{ x.dict | tojson | safe }} {{ (x.dict | tojson | replace('1', '2'))[:12] }} {{ '%02d' | format(7) }} {{ dict(x.dict, b=2) }}",
    "{{ messages | length - 1 }} {{ 'a' + 'b' if x.t else '' }} {{ messages[-1:][0].role }} {{ messages[:2] | map(attribute='role') | list }} {{ (1 % 2 == 0) != (x.s == 'user') }}",
    "{{ [1, 2, 3, 4][1:3] }} {{ [1, 2, 3, 4][::2] }} {{ 'abcdef'[1::2] }} {{ 'abc'[-1] }} {{ x.list[5][0] }} {{ x['dict']['a'][1] }} {{ x.list[20] is defined }}",
    "{% for group, items in messages | groupby('role') %}{{ group }}:{{ items | length }} {% endfor %}{% for b in [1, 2, 3] | batch(2) %}{{ b }}{% endfor %}",
    "{% for m in messages recursive %}{{ loop.depth }}{{ loop.changed(m.role) }}{{ loop.first }}{% endfor %}",
    "{{ x.dict.items() | list }} {{ x.dict | items | list | length }} {{ x.s.upper().lower().title() }} {{ ('a', 'b') | join('-') }} {{ messages | map(attribute='role') | unique | join(',') }}",
    "{{ 'line1\nline2' | replace('\n', ' ') }} {{ 'a,b' .split(',')|last }} {{ x.float | int }} {{ x.int | string | length }} {{ none | default('n', boolean=true) }}",
]
