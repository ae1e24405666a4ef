"""What coding agents need of a real model: honest counts, forced calls, a cache that stays warm."""

import pytest

from tests.fakes.chat_templates import QWEN
from tests.fakes.gguf_builder import tiny_llama_gguf

RULES = "You are a coding agent. Follow the rules of this project, all of them. " * 6
WEATHER = {
    "name": "weather",
    "input_schema": {
        "type": "object",
        "properties": {"at": {"enum": ["Bonn", "Rome"]}},
        "required": ["at"],
    },
}


@pytest.fixture(scope="module")
def served(module_service, tmp_path_factory):
    """The service with llama.cpp and a random model that has a template with tools."""
    service = module_service(engine="llama", context_length=4096)
    gguf = tmp_path_factory.mktemp("agent") / "agent.gguf"
    tiny_llama_gguf(gguf, chat_template=QWEN, context=4096)
    service.create("agent", gguf, parameters={"temperature": 0})
    return service


def say(service, path="/v1/messages", **fields):
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "agent", "max_tokens": 200, "messages": messages, **fields}
    status, answer = service.call("POST", path, body)
    assert status == 200, answer
    return answer


def system(stamp):
    header = f"x-anthropic-billing-header: cc_version=2.1; cch={stamp};"
    return [{"type": "text", "text": header}, {"type": "text", "text": RULES}]


def test_the_count_is_what_the_answer_costs(served):
    counted = say(served, "/v1/messages/count_tokens", system=RULES, tools=[WEATHER])
    usage = say(served, system=RULES, tools=[WEATHER], max_tokens=1)["usage"]
    assert counted["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_an_agents_instructions_are_computed_once(served):
    """Though the agent puts another hash in front of them each time."""
    say(served, system=system("1a2b3"), max_tokens=1)
    usage = say(served, system=system("4c5d6"), max_tokens=1)["usage"]
    assert usage["cache_read_input_tokens"] > 10 * usage["input_tokens"]


@pytest.mark.parametrize(
    "thinking", [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 9}]
)
def test_a_call_that_must_be_is_one_that_the_schema_allows(served, thinking):
    choice = {"type": "tool", "name": "weather"}
    answer = say(served, tools=[WEATHER], tool_choice=choice, thinking=thinking)
    call = answer["content"][-1]
    assert (call["type"], call["name"]) == ("tool_use", "weather")
    assert call["input"]["at"] in {"Bonn", "Rome"}
    assert answer["stop_reason"] == "tool_use"


def test_too_long_a_conversation_is_refused_and_not_cut(served):
    body = {
        "model": "agent",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "x " * 9000}],
    }
    status, answer = served.call("POST", "/v1/messages", body)
    assert status == 400
    assert answer["error"]["message"].startswith("prompt is too long: ")
