"""What Home Assistant's Ollama integration sends, in its order, and what it reads.

Facts: homeassistant/components/ollama (config_flow.py, entity.py). It speaks through the `ollama`
package, always streams, repairs arguments that are text, and sends results without name or id.
"""

import json

import ollama
import pytest

from tests.fakes.scripted import NAME, calls, create_actor, says

# A tool as the integration makes it of an intent: an OpenAPI schema, without `strict` or `type`.
TURN_ON = {
    "type": "function",
    "function": {
        "name": "HassTurnOn",
        "parameters": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "domain": {"type": "array", "items": {"type": "string"}},
            },
            "required": [],
        },
        "description": "Turns on a device",
    },
}


@pytest.fixture(scope="module")
def actor(service, tiny_gguf):
    create_actor(service, tiny_gguf)
    return service


@pytest.fixture
async def client(actor):
    headers = {"Authorization": "Bearer whatever-a-person-typed"}
    with_url = ollama.AsyncClient(host=actor.url, headers=headers)
    yield with_url
    await with_url.close()


async def answer(client, messages, **fields):
    """One turn, read as the integration reads it: (content, thinking, calls)."""
    stream = await client.chat(
        model=NAME,
        messages=[ollama.Message(**message) for message in messages],
        stream=True,
        options={"num_ctx": 8192.0},
        **{"tools": None, "keep_alive": -1, "think": False, "format": None, **fields},
    )
    content, thinking, found = "", "", []
    async for response in stream:
        message = response["message"]
        found += message.get("tool_calls") or []
        content += message.get("content") or ""
        thinking += message.get("thinking") or ""
    return content, thinking, [call["function"] for call in found]


async def test_the_set_up_finds_the_models(client):
    listed = await client.list()
    assert f"{NAME}:latest" in {model["model"] for model in listed.get("models", [])}


async def test_a_device_is_turned_on(client):
    written = calls(("HassTurnOn", '{"name": "Lamp", "domain": ["light"]}'))
    conversation = [
        {"role": "system", "content": "You are a voice assistant."},
        {"role": "user", "content": f"Turn on the lamp {says(written)}"},
    ]
    content, _, found = await answer(client, conversation, tools=[TURN_ON])
    (function,) = found
    assert (content, function["name"]) == ("", "HassTurnOn")
    assert dict(function["arguments"]) == {"name": "Lamp", "domain": ["light"]}
    conversation += [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"function": {"name": "HassTurnOn", "arguments": dict(function["arguments"])}}
            ],
        },
        {
            "role": "tool",
            "content": json.dumps({"data": {"success": says("Done.")}, "error": None}),
        },
    ]
    content, _, found = await answer(client, conversation, tools=[TURN_ON], keep_alive="300s")
    assert (content, found) == ("Done.", [])


async def test_thinking_of_earlier_turns_comes_back(client):
    said = says("<think>\nHm.\n</think>\n\nTen.")
    first = [{"role": "user", "content": said}]
    content, thinking, _ = await answer(client, first, think=True)
    assert (content, thinking) == ("Ten.", "Hm.")
    again = [*first, {"role": "assistant", "content": content, "thinking": thinking}, *first]
    assert await answer(client, again, think=True) == ("Ten.", "Hm.", [])


async def test_a_task_with_a_structure(client):
    schema = {"type": "object", "properties": {"echo": {"type": "boolean"}}, "required": ["echo"]}
    content, _, _ = await answer(client, [{"role": "user", "content": "x"}], format=schema)
    assert json.loads(content) == {"echo": True}


async def test_a_wrong_key_is_told_by_the_status(actor):
    """The set-up form says that the key is wrong after 401 and 403 alone."""
    headers = {"Authorization": "Bearer hearth_0123456789ab_wrong"}
    client = ollama.AsyncClient(host=actor.url, headers=headers)
    with pytest.raises(ollama.ResponseError) as caught:
        await client.list()
    assert caught.value.status_code == 401
    await client.close()
