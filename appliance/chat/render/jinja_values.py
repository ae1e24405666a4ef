"""Messages and tools as Jinja chat templates see them: OpenAI's form, as Transformers takes it.

A turn's thinking goes under both names that templates use. Arguments of calls are objects; for a
template that joins them as text, JSON text (`jinja_needs.py` finds out).
"""

import json
from collections.abc import Mapping
from typing import Any

from appliance.chat.events import Message, Tool, ToolCall
from appliance.chat.render.inputs import RenderInput


def variables(given: RenderInput, *, arguments_as_text: bool) -> dict[str, Any]:
    """Everything that a template can look up, but for functions of the sandbox."""
    return {
        "messages": [
            message_value(message, arguments_as_text=arguments_as_text)
            for message in given.messages
        ],
        "add_generation_prompt": given.add_generation_prompt,
        "bos_token": given.bos_token,
        "eos_token": given.eos_token,
        "tools": [dict(tool_source(tool)) for tool in given.tools] or None,
        "documents": None,
        "strftime_now": lambda pattern: given.now().strftime(pattern),
        **think_variables(given.think),
    }


def tool_source(tool: Tool) -> Mapping[str, Any]:
    """The tool as the client gave it in OpenAI's form, or the same made of its parts."""
    if tool.source:
        return tool.source
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


def message_value(message: Message, *, arguments_as_text: bool) -> dict[str, Any]:
    """One message; what a turn does not have is not there, so that `is defined` tells."""
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        value["reasoning_content"] = value["thinking"] = message.thinking
    if message.tool_calls:
        value["tool_calls"] = [
            _call(call, arguments_as_text=arguments_as_text) for call in message.tool_calls
        ]
    if message.tool_name:
        value["name"] = message.tool_name
    if message.tool_call_id:
        value["tool_call_id"] = message.tool_call_id
    return value


def _call(call: ToolCall, *, arguments_as_text: bool) -> dict[str, Any]:
    arguments: object = dict(call.arguments)
    if arguments_as_text:
        arguments = json.dumps(arguments, ensure_ascii=False)
    value: dict[str, Any] = {
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }
    return {"id": call.id, **value} if call.id else value


def think_variables(think: bool | str | None) -> dict[str, Any]:
    """The switches that families of templates read; none when the request says nothing.

    `enable_thinking`: Qwen 3, SmolLM 3, GLM; `thinking`: DeepSeek 3.1, Granite;
    `reasoning_effort`: gpt-oss.
    """
    if think is None:
        return {}
    switches: dict[str, Any] = {
        "enable_thinking": think is not False,
        "thinking": think is not False,
    }
    if isinstance(think, str):
        switches["reasoning_effort"] = think
    return switches
