"""Our Jinja prompts are byte for byte those of Transformers' `apply_chat_template`.

The templates are ours, each in the shape of a family that matters, with what such templates rely
on: namespaces, macros, loop controls, `tojson` with its options, dates, marks of generation.
"""

from datetime import datetime

import pytest

from appliance.chat.events import Message, Tool, ToolCall
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja import render_jinja
from appliance.chat.render.jinja_values import message_value, think_variables, tool_source
from appliance.templates.builtin import RENDERERS, renderer_text

pytest.importorskip("transformers")

TEMPLATES = {
    "chatml": """\
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "hermes and qwen": """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == "user" and message.content is string %}
        {%- set ns.last = index %}{%- set ns.found = true %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set thought = '' %}
        {%- if message.reasoning_content is string %}
            {%- set thought = message.reasoning_content %}
        {%- endif %}
        {{- '<|im_start|>' + message.role }}
        {%- if loop.index0 > ns.last and thought %}
            {{- '\\n<think>\\n' + thought.strip('\\n') + '\\n</think>\\n' }}
        {%- endif %}
        {{- '\\n' + message.content.lstrip('\\n') }}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if (loop.first and message.content) or not loop.first %}{{- '\\n' }}{%- endif %}
                {%- if call.function %}{%- set call = call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- call.name }}{{- '", "arguments": ' }}
                {%- if call.arguments is string %}{{- call.arguments }}
                {%- else %}{{- call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""",
    "llama 3": """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start|>system<|end|>\\n\\nToday: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start|>' + message['role'] + '<|end|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start|>assistant<|end|>\\n\\n' }}{{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}" }}{{- "<|eot|>" }}
    {%- else %}
        {{- "<|start|>ipython<|end|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{%- endif %}
""",
    "mistral": """\
{%- set loop_messages = messages | rejectattr("role", "equalto", "system") | list %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == user_messages[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}{{- '"' + key + '": "' + val + '"' }}
                    {%- else %}{{- '"' + key + '": ' + val | tojson }}{%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}}" }}{%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" }}{%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function | tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id | length != 9 %}
                {{- raise_exception("ids of calls have 9 characters") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}{{- ", " }}{%- else %}{{- "]" + eos_token }}{%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"] | trim + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content | string }}
        {{- ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{% set prefix = messages[0]['content'] + '\\n\\n' %}{% set loop_messages = messages[1:] %}\
{% else %}{% set prefix = '' %}{% set loop_messages = messages %}{% endif %}\
{% for message in loop_messages %}
    {%- if message['role'] == 'assistant' %}{% set role = 'model' %}
    {%- else %}{% set role = message['role'] %}{% endif %}
{{ '<turn>' + role + '\\n' + (prefix if loop.first else '') }}
    {%- if message['content'] is string %}{{ message['content'] | trim }}{% endif %}
{{ '<end>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<turn>model\\n' }}{% endif %}
""",
    "gpt-oss": """\
{%- macro typed(schema) -%}
    {%- if schema.type == "string" -%}
        {%- if schema.enum -%}{{ '"' + schema.enum | join('" | "') + '"' }}
        {%- else -%}string{%- endif -%}
    {%- elif schema.type == "array" -%}{{ typed(schema['items']) + "[]" }}
    {%- else -%}any{%- endif -%}
{%- endmacro -%}
{{- "<|start|>system<|message|>Reasoning: " + (reasoning_effort or "medium") }}
{{- "\\nCurrent date: " + strftime_now("%Y-%m-%d") }}
{%- if tools -%}
    {%- for tool in tools %}
        {%- set tool = tool.function %}
        {{- "\\n// " + tool.description + "\\ntype " + tool.name + " = (_: {\\n" }}
        {%- for name, spec in tool.parameters.properties.items() %}
            {{- name }}{%- if name not in (tool.parameters.required or []) %}{{- "?" }}{%- endif %}
            {{- ": " + typed(spec) + ",\\n" }}
        {%- endfor %}
        {{- "}) => any;" }}
    {%- endfor %}
{%- endif -%}
{{- "<|end|>" }}
{%- for message in messages -%}
    {%- if message.thinking and not loop.last %}{%- continue %}{%- endif %}
    {{- "<|start|>" + message.role + "<|message|>" + message.content + "<|end|>" }}
{%- endfor -%}
{%- if add_generation_prompt -%}<|start|>assistant{%- endif -%}
""",
    "smol": """\
{%- for message in messages -%}
{%- if message.role == "assistant" -%}
{% generation %}{{ message.content }}<|end|>
{% endgeneration %}
{%- else -%}
[{{ message.role }}] {{ message | tojson(separators=(',', ':'), sort_keys=true) }}
{{- "é<&>" | tojson(ensure_ascii=true) }}
{%- endif -%}
{%- endfor -%}
{{- documents is none }}{{ range(3) | list }}{{ "%s"[0] }}
""",
}
TEMPLATES |= {f"RENDERER {name}": renderer_text(name) for name in RENDERERS}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": 'Where <it> is & "why", é'},
        "units": {"type": "array", "items": {"type": "string", "enum": ["C", "F"]}},
    },
    "required": ["city"],
}
SOURCE = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells weather", "parameters": PARAMETERS},
}
WEATHER = Tool("weather", "Tells weather", PARAMETERS, SOURCE)
CALL = ToolCall("weather", {"city": "Zürich <é>", "days": 3, "wet": None, "t": 1.5}, "abcdefghi")
PLAIN = (
    Message("system", "Be brief. "),
    Message("user", " Hi <b>you</b>\n"),
    Message("assistant", "Hello."),
    Message("user", "2+2?"),
)
CALLING = (
    *PLAIN,
    Message("assistant", "", thinking="Ask it.", tool_calls=(CALL, CALL)),
    Message("tool", '{"t": 21}', tool_name="weather", tool_call_id="abcdefghi"),
    Message("tool", "22", tool_name="weather", tool_call_id="abcdefghi"),
)
CONVERSATIONS = {
    "plain": RenderInput(PLAIN),
    "not opened": RenderInput(PLAIN[1:3], add_generation_prompt=False),
    "tools": RenderInput(PLAIN, (WEATHER, WEATHER), think=False),
    "calls": RenderInput(CALLING, (WEATHER,), think=True),
    "level": RenderInput(CALLING[:-1], (WEATHER,), think="high"),
}


@pytest.fixture(scope="module")
def theirs():
    """Transformers' rendering of the same conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(template, given):
        rendered, _ = render_jinja_template(
            conversations=[[message_value(m, arguments_as_text=False) for m in given.messages]],
            tools=[dict(tool_source(tool)) for tool in given.tools] or None,
            chat_template=template,
            add_generation_prompt=given.add_generation_prompt,
            bos_token="<s>",
            eos_token="</s>",
            **think_variables(given.think),
        )
        return rendered[0]

    return render


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_the_prompt_is_that_of_transformers(theirs, family, conversation):
    given = CONVERSATIONS[conversation]
    now = datetime.now().astimezone()  # Transformers asks the clock itself
    ours = render_jinja(
        TEMPLATES[family],
        RenderInput(
            given.messages, given.tools, given.think, "<s>", "</s>",
            given.add_generation_prompt, now=lambda: now,
        ),
    )  # fmt: skip
    assert ours == theirs(TEMPLATES[family], given)
    assert ours
