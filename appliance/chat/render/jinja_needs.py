"""What a Jinja template demands of a conversation, found by trying, and conversations to suit.

Templates differ in what they take and say so only by failing: a system message, arguments of calls
as objects or as text, ids of calls. Each is tried once per template with a conversation of our own.
Where a template takes a conversation as it is, nothing is changed: the prompt is Transformers'.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from appliance.chat.events import Message, ToolCall
from appliance.chat.render.inputs import RenderInput
from appliance.chat.render.jinja_sandbox import run
from appliance.chat.render.jinja_values import variables
from appliance.errors import BadRequestError, TemplateError

_ID_LENGTH = 9  # letters and digits: what Mistral's templates check
_ASK, _SYSTEM = Message("user", "?"), Message("system", "!")
_FIRST_ID, _LONG_ID = "call00000", "call_0123456789"


@dataclass(frozen=True, slots=True)
class Needs:
    """Changes without which the template fails."""

    no_system: bool = False
    text_arguments: bool = False  # JSON text instead of objects
    short_ids: bool = False  # each call has an id, of nine letters and digits


@lru_cache(maxsize=32)
def needs_of(template: str) -> Needs:
    """The needs; none for a template that fails already at a question alone."""
    if _try(template, _ASK) is None:
        return Needs()
    no_system = _try(template, _SYSTEM, _ASK) is None
    short_ids = _try_call(template, _LONG_ID) is None and _try_call(template, _FIRST_ID) is not None
    as_object = _try_call(template, _FIRST_ID)
    if as_object is not None and "{'key': 'value'}" not in as_object:
        return Needs(no_system, False, short_ids)
    as_text = _try_call(template, _FIRST_ID, as_text=True)
    text_arguments = as_text is not None and '{"key": "value"}' in as_text
    if text_arguments:
        short_ids = _try_call(template, _LONG_ID, as_text=True) is None
    return Needs(no_system, text_arguments, short_ids)


def _try_call(template: str, call_id: str, *, as_text: bool = False) -> str | None:
    call = ToolCall("probe", {"key": "value"}, call_id)
    result = Message("tool", "!", tool_name="probe", tool_call_id=call_id)
    return _try(
        template, _ASK, Message("assistant", "", tool_calls=(call,)), result, as_text=as_text
    )


def _try(template: str, *messages: Message, as_text: bool = False) -> str | None:
    try:
        return run(template, variables(RenderInput(messages), arguments_as_text=as_text))
    except (TemplateError, BadRequestError):
        return None


def suited(messages: Sequence[Message], needs: Needs) -> Sequence[Message]:
    """The conversation, changed as far as the template needs it."""
    if needs.no_system:
        messages = _without_system(messages)
    return _with_short_ids(messages) if needs.short_ids else messages


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """What the system says goes in front of the first question."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [message for message in messages if message.role != "system"]
    first = next((i for i, message in enumerate(rest) if message.role == "user"), None)
    if system and first is None:
        return [Message("user", system), *rest]
    if system and first is not None:
        rest[first] = replace(rest[first], content=f"{system}\n\n{rest[first].content}")
    return rest


def _with_short_ids(messages: Sequence[Message]) -> list[Message]:
    """Calls numbered where they have no id; results without one answer the calls in order."""
    count = 0
    open_ids: list[str] = []
    changed: list[Message] = []
    for message in messages:
        calls = []
        for call in message.tool_calls:
            calls.append(replace(call, id=_short(call.id) or f"call{count:05d}"))
            count += 1
        open_ids += [call.id for call in calls]
        answered = message.tool_call_id
        if message.role == "tool":
            answered = _short(answered) or (open_ids[0] if open_ids else _FIRST_ID)
            if answered in open_ids:
                open_ids.remove(answered)
        changed.append(replace(message, tool_calls=tuple(calls), tool_call_id=answered))
    return changed


def _short(call_id: str) -> str:
    """The end of an id, where ids of one client differ; empty stays empty."""
    kept = re.sub("[^0-9A-Za-z]", "", call_id)[-_ID_LENGTH:]
    return kept.rjust(_ID_LENGTH, "0") if kept else ""
