"""appliance/chat: tools, thinking and forms of output, from the request to the events.

The echo engine says the bytes that the prompt asks for, so that a model's output can be chosen.
"""

import json

import pytest

from appliance.chat.events import (
    CallArguments,
    CallDone,
    CallStarted,
    Completion,
    Done,
    JobRequest,
    Message,
    Rendered,
    Started,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from appliance.chat.job import ChatService
from appliance.config import load_settings
from appliance.errors import BadRequestError, UnsupportedError
from appliance.library.library import Library
from appliance.models.manager import Models
from engine.api import Constraint
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.libraries import add_model

QWEN = """{%- if tools %}TOOLS {{ tools | tojson }} {% endif -%}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think>

</think>

{% endif %}{# calls are <tool_call>{"name": …}</tool_call> #}"""
ALWAYS = QWEN.replace("{% if enable", "{% if false and enable").replace("{#", "<think>\n{#")
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "$defs": {"city": {"enum": ["Paris", "Rome"]}},
}
WEATHER = Tool("get_weather", parameters=PARAMETERS)
TIME = Tool("get_time")
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
JSON = Constraint(kind="json")


@pytest.fixture
def settings(tmp_path):
    flags = {"engine": "echo", "state": str(tmp_path), "memory_reserve_mib": "0"}
    return load_settings(flags, {})


@pytest.fixture
def library(tmp_path):
    library = Library(tmp_path / "models")
    for name, template in (("qwen", QWEN), ("always", ALWAYS), ("plain", "{{ messages }}")):
        folder = tmp_path / name
        folder.mkdir()
        tiny_llama_gguf(folder / "tiny.gguf", chat_template=template)
        add_model(library, folder, name)
    return library


@pytest.fixture
async def chat(settings, library):
    models = Models(settings)
    yield ChatService(library, models)
    await models.close()


async def answer(chat, output, model="qwen", **request):
    work = (Message("user", f"[[bytes {output.encode().hex()}]]"),)
    return [event async for event in chat.run(JobRequest(model=model, work=work, **request))]


def text(events, kind=Text):
    return "".join(event.text for event in events if isinstance(event, kind))


def calls(events):
    return [(e.call.name, e.call.arguments) for e in events if isinstance(e, CallDone)]


async def test_thinking_and_calls_are_told_apart(chat):
    events = await answer(chat, f"<think>hm</think>\nI look.\n{CALL}", tools=(WEATHER,))
    assert isinstance(events[0], Started)
    assert (text(events, Thinking), text(events)) == ("hm", "I look.")
    assert calls(events) == [("get_weather", {"city": "Oslo"})]
    started = next(e for e in events if isinstance(e, CallStarted))
    assert started.id.startswith("call_")
    assert json.loads(text(events, CallArguments)) == {"city": "Oslo"}
    done = events[-1]
    assert isinstance(done, Done)
    assert (done.reason, done.tool_calls) == ("stop", 1)
    assert 0 < done.thinking_tokens < done.output_tokens
    shown = sum(e.tokens for e in events if isinstance(e, Text | Thinking))
    assert 0 < shown <= done.output_tokens


async def test_tools_reach_the_prompt_unless_they_are_ruled_out(chat):
    events = await answer(chat, "x", tools=(WEATHER,), render_only=True)
    assert isinstance(events[0], Rendered)
    assert "TOOLS" in events[0].prompt
    ruled_out = ToolChoice("none")
    events = await answer(chat, "x", tools=(WEATHER,), tool_choice=ruled_out, render_only=True)
    assert "TOOLS" not in events[0].prompt
    events = await answer(chat, CALL, tools=(WEATHER,), tool_choice=ruled_out)
    assert (text(events), calls(events)) == (CALL, [])


@pytest.mark.parametrize("model", ["qwen", "always"])
async def test_no_thinking_is_shown_to_who_wants_none(chat, model):
    events = await answer(chat, "<think>hm</think>\nyes", model, think=False)
    assert (text(events, Thinking), text(events)) == ("", "yes")


async def test_a_template_that_opens_the_thinking(chat):
    events = await answer(chat, "hm\n</think>\n\nyes", "always", think=True)
    assert (text(events, Thinking), text(events)) == ("hm", "yes")


@pytest.mark.parametrize("choice", [ToolChoice("required"), ToolChoice("named", "get_weather")])
async def test_a_call_is_forced(chat, choice):
    """The echo engine says the least that the schema wants."""
    tools = (WEATHER, TIME)
    events = await answer(chat, "words", tools=tools, tool_choice=choice, think=False)
    assert (text(events), text(events, Thinking)) == ("", "")
    assert [name for name, _ in calls(events)] == ["get_weather"]
    assert isinstance(events[0], Started)


async def test_a_forced_call_comes_behind_the_thinking(chat):
    output = "<think>which one?</think>Never mind."
    choice = ToolChoice("named", "get_time")
    events = await answer(chat, output, tools=(WEATHER, TIME), tool_choice=choice, think=True)
    assert (text(events, Thinking), text(events)) == ("which one?", "")
    assert calls(events) == [("get_time", {})]
    assert sum(isinstance(event, Started) for event in events) == 1


@pytest.mark.parametrize(
    ("output", "thinking"),
    [
        ("<think>hm</think>\nwords", "hm"),  # what follows is said again, in the form
        ("words <think>", ""),  # a model that did not think
        ("<think>to the end", "to the end"),  # one that ended its turn there
        ("", ""),
    ],
)
async def test_a_form_holds_behind_the_thinking_alone(chat, output, thinking):
    events = await answer(chat, output, constraint=JSON)
    assert text(events, Thinking) == thinking
    assert text(events) == '{"echo": true}'
    assert events[-1].reason == "stop"


async def test_a_budget_ends_the_thinking(chat):
    """The engine says the whole again behind the closed thinking, for which it is the echo."""
    output = "<think>abcdefghijklmnopqrstuvwxyz</think>yes"
    events = await answer(chat, output, thinking_budget=12)
    thinking = text(events, Thinking)
    assert thinking == "abcdefghijkl"
    assert text(events) == output
    assert events[-1].thinking_tokens == 12
    events = await answer(chat, output, thinking_budget=100)
    assert (text(events, Thinking), text(events)) == ("abcdefghijklmnopqrstuvwxyz", "yes")


async def test_the_length_counts_for_both_sequences(chat):
    events = await answer(
        chat, "<think>abc</think>words", constraint=JSON, options={"num_predict": 5}
    )
    assert (events[-1].reason, events[-1].output_tokens) == ("length", 5)


async def test_log_probabilities_are_told_for_each_token(chat):
    events = await answer(chat, f"<think>hm</think>{CALL}", tools=(WEATHER,), logprobs=0)
    told = sum(len(e.logprobs) for e in events if isinstance(e, Text | Thinking))
    assert told == events[-1].output_tokens


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"model": "plain", "think": True}, '"plain" does not support thinking'),
        ({"model": "plain", "think": "high"}, '"plain" does not support thinking'),
        (
            {"model": "plain", "tools": (WEATHER,)},
            "registry.ollama.ai/library/plain:latest does not support tools",
        ),
    ],
)
async def test_what_a_model_cannot(chat, request_, says):
    with pytest.raises(UnsupportedError, match=f"^{says}$"):
        await answer(chat, "x", **request_)


@pytest.mark.parametrize(
    ("tools", "choice", "says"),
    [
        ((), ToolChoice("required"), "has no tools"),
        ((TIME,), ToolChoice("named", "other"), '"other", which is none'),
        ((TIME,) * 1000, ToolChoice(), "1000 tools; at most 128"),
    ],
)
async def test_tools_that_cannot_be_offered(chat, tools, choice, says):
    with pytest.raises(BadRequestError, match=says):
        await answer(chat, "x", tools=tools, tool_choice=choice)


async def test_a_raw_prompt_gets_its_text_as_it_is(chat):
    output = "<think>hm</think> yes"
    work = Completion(prompt=f"[[bytes {output.encode().hex()}]]", raw=True)
    events = [event async for event in chat.run(JobRequest(model="qwen", work=work))]
    assert text(events) == output
