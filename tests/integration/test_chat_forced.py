"""What is forced on a real model: calls, forms, the end of its thinking; on each engine.

The model is random, so nothing but the force makes it say what is wanted.
"""

import json

import pytest

from appliance.chat.events import (
    CallDone,
    JobRequest,
    Message,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from appliance.chat.job import ChatService
from appliance.config import load_settings
from appliance.library.library import Library
from appliance.models.manager import Models
from engine.api import Constraint, SamplingParams
from engine.errors import EngineRequestError
from tests.fakes.gguf_builder import tiny_llama_gguf
from tests.fakes.libraries import add_model
from tests.fakes.llama_runs import engine_for, run

OPENED = """{%- if tools %}{{ tools | length }}{% endif -%}
{%- for message in messages %}{{ message.content }}{% endfor %}<think>
{{ '' if messages else '<tool_call></think>' }}"""
CITIES = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"city": {"enum": ["Paris", "Rome"]}},
}
TOOLS = (Tool("get_weather", parameters=CITIES), Tool("get_forecast", parameters=CITIES))


@pytest.fixture(scope="module", params=["llama", "paged"])
def settings(request, tmp_path_factory):
    state = tmp_path_factory.mktemp(request.param)
    add_model_with(state)
    flags = {"engine": request.param, "state": str(state), "memory_reserve_mib": "0"}
    return load_settings(flags | {"threads": "1"}, {})


def add_model_with(state):
    tiny_llama_gguf(state / "tiny.gguf", chat_template=OPENED)
    add_model(Library(state / "models"), state)


@pytest.fixture
async def chat(settings):
    models = Models(settings)
    yield ChatService(Library(settings.state / "models"), models)
    await models.close()


async def answer(chat, **request):
    work = (Message("user", "hi"),)
    options = {"num_ctx": 256, "num_predict": 120, "seed": 3, "temperature": 1.0}
    job = JobRequest(model="tiny", work=work, options=options, **request)
    return [event async for event in chat.run(job)]


async def test_what_is_forced_on_a_model(chat):
    """One test, since each engine takes seconds to start."""
    form = Constraint(kind="schema", source='{"enum": ["yes", "no"]}')
    events = await answer(chat, constraint=form, thinking_budget=5)
    assert "".join(e.text for e in events if isinstance(e, Text)) in ('"yes"', '"no"')
    assert any(isinstance(event, Thinking) for event in events)
    assert events[-1].thinking_tokens == 5

    events = await answer(chat, constraint=form, think=False)
    assert "".join(e.text for e in events if isinstance(e, Text)) in ('"yes"', '"no"')
    assert not any(isinstance(event, Thinking) for event in events)

    for choice in (ToolChoice("required"), ToolChoice("named", "get_forecast")):
        events = await answer(chat, tools=TOOLS, tool_choice=choice, thinking_budget=4)
        (call,) = (event.call for event in events if isinstance(event, CallDone))
        assert call.name in ("get_weather", "get_forecast")
        assert choice.name in ("", call.name)
        assert call.arguments["city"] in ("Paris", "Rome")
        assert not any(isinstance(event, Text) and event.text for event in events)
        assert events[-1].tool_calls == 1

    for bomb in bombs():
        with pytest.raises(EngineRequestError, match="the JSON schema cannot be used"):
            await answer(chat, constraint=Constraint(kind="schema", source=bomb), think=False)


def bombs():
    """Schemas that are small to send and large to compile, or the other way round."""
    deep = {"type": "string"}
    for _ in range(100):
        deep = {"type": "array", "items": deep}
    doubling = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    doubling["d40"] = {"type": "object"}
    wide = {"enum": [str(i) for i in range(5000)]}
    yield json.dumps(deep)
    yield json.dumps({"$ref": "#/$defs/d0", "$defs": doubling})
    yield json.dumps(wide)
    yield json.dumps({"type": "array", "minItems": 10**9})
    yield json.dumps({"description": "x" * 70_000})
    yield "[" * 50_000


def test_control_tokens_are_printed_for_who_asks(tmp_path):
    """Marks of some families are control tokens, which add nothing to the output otherwise."""
    with engine_for(tiny_llama_gguf(tmp_path / "tiny.gguf")) as engine:
        name = "<|im_start|>"
        (token,) = engine.tokenize(name, add_special=False, parse_special=True)
        sampling = SamplingParams(temperature=0, logit_bias={token: 1000.0})
        plain = run(engine, sampling=sampling, max_tokens=2)
        asked = run(engine, sampling=sampling, max_tokens=2, special=[name, "no such token"])
        assert (plain.data, asked.data) == (b"", 2 * name.encode())
